"""Gap to the oracle: one number for what the logits say, one for what the features hold.

Made of the numbers of other metrics, not of features.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from ec_jax.evaluation.target import forget_split

# What is compared at every point on the forget set, and what makes a fraction of it.
_REPRESENTATION = {"cka_to_original": 1.0, "probe": 100.0, "knn": 100.0}


def derive(
    values: Mapping[str, float],
    references: Mapping[str, Mapping[str, float]],
    points: Sequence[str],
) -> dict[str, float]:
    """``gap/logit`` and ``gap/representation``: mean absolute differences to the oracle.

        gap/logit          = mean over K of |v_k − o_k|, K = the accuracies (``accuracy/*``)
        gap/representation = mean over K of |v_k − o_k|, K = for every point on ``forget_test``
                             CKA to the original, probe / 100, and k-NN / 100

    Where samples are forgotten there is no ``forget_test``, and CKA on ``forget_train`` is K.

    K holds the keys that both have, each with the same weight. 0 is best and the oracle's own;
    a second oracle, trained from another seed, shows what can be hoped for. A model may be far
    from the oracle in either direction: overshooting counts as much as falling short.

    Args:
      values: the flat keys of the measured model.
      references: {"oracle": its flat keys}; without it nothing is derived.
      points: the supervision points, first to last.

    Returns:
      ``gap/logit`` in percentage points, [0, 100]; ``gap/representation`` as a fraction,
      [0, 1]. NaN where an input is NaN; a key without inputs is left out.

    Source: ours.

    >>> oracle = {"accuracy/a": 92.0, "accuracy/b": 0.0}
    >>> derive({"accuracy/a": 90.0, "accuracy/b": 4.0}, {"oracle": oracle}, [])
    {'gap/logit': 3.0}
    """
    oracle = references.get("oracle", {})
    split = forget_split(values)
    accuracies = [key for key in values if key.startswith("accuracy/")]
    parts = {
        "gap/logit": _differences(values, oracle, accuracies, 1.0),
        "gap/representation": [
            difference
            for metric, unit in _REPRESENTATION.items()
            for difference in _differences(
                values, oracle, [f"{metric}/{split}/{point}" for point in points], unit
            )
        ],
    }
    # An exact sum, so that the order of the keys, which differs from model to model, is no matter.
    return {key: math.fsum(part) / len(part) for key, part in parts.items() if part}


def _differences(
    values: Mapping[str, float], oracle: Mapping[str, float], keys: Iterable[str], unit: float
) -> list[float]:
    """|v_k − o_k| / unit for the keys that both have."""
    return [abs(values[k] - oracle[k]) / unit for k in keys if k in values and k in oracle]
