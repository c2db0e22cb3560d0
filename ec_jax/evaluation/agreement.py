"""Agreement: how often a model answers as the oracle does, right or wrong."""

from collections.abc import Mapping

import numpy as np

from ec_jax.evaluation.features import Context, Features


def run(features: Mapping[str, Features], context: Context) -> dict[str, float]:
    """``agreement/SPLIT``: share of examples that the model names as the oracle does, in percent.

        100/n · Σ_i [argmax f(x_i) = argmax o(x_i)]

    f and o are the logits of the model and of the oracle; of equal logits the smallest class
    counts. Labels are not asked: on the forget set an oracle is wrong, and in a way of its own, so
    that two models of the same accuracy may agree with it on all images or on none. 100 is the
    oracle itself; a second oracle, trained from another seed, shows what can be hoped for.

    Args:
      features: {split: Features} of the measured model.
      context: its reference ``oracle`` is read; without one there is no number.

    Returns:
      {key: percent in [0, 100]}; NaN where a logit of either is NaN, as such a model predicts
      nothing. Splits without examples are left out.

    Source: ours; the complement of what is called churn or disagreement between two models.
    """
    oracle = context.references.get("oracle", {})
    return {
        f"agreement/{split}": _percent(part.logits, oracle[split].logits)
        for split, part in features.items()
        if len(part.labels) and split in oracle
    }


def _percent(logits: np.ndarray, others: np.ndarray) -> float:
    if np.isnan(logits).any() or np.isnan(others).any():
        return float("nan")
    return 100.0 * float(np.mean(logits.argmax(axis=-1) == others.argmax(axis=-1)))
