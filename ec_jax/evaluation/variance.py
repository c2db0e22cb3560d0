"""Variance of the features: shows a collapse, which alone also lowers CKA."""

from collections.abc import Mapping

import numpy as np

from ec_jax.evaluation.features import Context, Features

_ROWS = 1024  # rows held in float64 at a time


def run(features: Mapping[str, Features], context: Context) -> dict[str, float]:
    """``variance/SPLIT/POINT``: (1/d) Σ_j Var_i x_ij over the n examples.

    Args:
      features: {split: Features} of the measured model; maps are flattened.
      context: not used.

    Returns:
      {key: variance, in squared units of the features, divided by n and not n − 1}. Splits
      without examples are left out.
    """
    del context
    return {
        f"variance/{split}/{point}": _variance(values)
        for split, part in features.items()
        if len(part.labels)
        for point, values in part.points.items()
    }


def _variance(values: np.ndarray) -> float:
    mean = values.mean(axis=0, dtype=np.float64)
    blocks = (values[i : i + _ROWS] for i in range(0, len(values), _ROWS))
    return float(sum(np.square(block - mean).sum() for block in blocks) / values.size)
