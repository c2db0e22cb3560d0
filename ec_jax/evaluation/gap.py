"""Gap to the oracle: one number for what the logits say, one for what the features hold.

And closeness: one number for how much the features are the oracle's or the original's own.

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
    """``gap/…``, mean absolute differences to the oracle, and ``closeness/…``, mean similarities.

        gap/logit          = mean over K of |v_k − o_k|, K = the accuracies (``accuracy/*``)
        gap/representation = mean over K of |v_k − o_k|, K = for every point on ``forget_test``
                             CKA to the original, probe / 100, and k-NN / 100

    Where samples are forgotten there is no ``forget_test``, and CKA on ``forget_train`` is K.

    K holds the keys that both have, each with the same weight. 0 is best and the oracle's own;
    a second oracle, trained from another seed, shows what can be hoped for. A model may be far
    from the oracle in either direction: overshooting counts as much as falling short.

        closeness/oracle   = mean over L of ``cka_to_oracle/forget_test/POINT``
        closeness/original = mean over L of ``cka_to_original/forget_test/POINT``

    L is every point but the first, or the only one. Two oracles differ at the first point by
    their initial weights as much as by anything else, so that it would tell nothing of
    unlearning. A gap compares how far two models are from the original, which they may be in
    different directions; closeness compares the features themselves. To the oracle 1 is the
    oracle itself, and a second oracle shows what can be hoped for; to the original the oracle's
    own value is the target, and less than that is not better.

    Args:
      values: the flat keys of the measured model.
      references: {"oracle": its flat keys}; without it there is no gap.
      points: the supervision points, first to last.

    Returns:
      ``gap/logit`` in percentage points, [0, 100]; ``gap/representation`` as a fraction,
      [0, 1]; both ``closeness/…`` in [0, 1]. NaN where an input is NaN. A gap without inputs is
      left out, and a closeness of which a point was not measured.

    Source: ours.

    >>> oracle = {"accuracy/a": 92.0, "accuracy/b": 0.0}
    >>> derive({"accuracy/a": 90.0, "accuracy/b": 4.0}, {"oracle": oracle}, [])
    {'gap/logit': 3.0}
    """
    oracle = references.get("oracle", {})
    split = forget_split(values)
    later = points[1:] or points
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
    parts |= {
        f"closeness/{reference}": _whole(values, [f"cka_to_{reference}/{split}/{p}" for p in later])
        for reference in ("oracle", "original")
    }
    # An exact sum, so that the order of the keys, which differs from model to model, is no matter.
    return {key: math.fsum(part) / len(part) for key, part in parts.items() if part}


def _whole(values: Mapping[str, float], keys: Sequence[str]) -> list[float]:
    """The values of all keys; none where one is missing, as the mean of the rest is another's."""
    return [values[k] for k in keys] if all(k in values for k in keys) else []


def _differences(
    values: Mapping[str, float], oracle: Mapping[str, float], keys: Iterable[str], unit: float
) -> list[float]:
    """|v_k − o_k| / unit for the keys that both have."""
    return [abs(values[k] - oracle[k]) / unit for k in keys if k in values and k in oracle]
