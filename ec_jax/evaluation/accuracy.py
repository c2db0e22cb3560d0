"""Top-1 accuracy on every split."""

from collections.abc import Mapping

import numpy as np

from ec_jax.evaluation.features import Context, Features


def run(features: Mapping[str, Features], context: Context) -> dict[str, float]:
    """``accuracy/SPLIT``: share of examples whose largest logit is the label's, in percent.

    Of equal logits the smallest class counts.

    Args:
      features: {split: Features} of the measured model.
      context: not used.

    Returns:
      {key: percent in [0, 100]}; NaN where a logit is NaN, as such a model predicts nothing
      and must not pass for one that forgot. Splits without examples are left out.
    """
    del context
    return {
        f"accuracy/{split}": _percent(part.logits, part.labels)
        for split, part in features.items()
        if len(part.labels)
    }


def _percent(logits: np.ndarray, labels: np.ndarray) -> float:
    if np.isnan(logits).any():
        return float("nan")
    return 100.0 * float(np.mean(logits.argmax(axis=-1) == labels))
