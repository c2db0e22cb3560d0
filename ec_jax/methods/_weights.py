"""How much each supervision point counts."""

import numpy as np


def layer_weights(kind: str, count: int, total: float = 1.0) -> np.ndarray:
    """Weights w_l of ``count`` points, first to last, with the sum ``total``.

    Args:
      kind: ``uniform``, ``linear`` (rising with depth: 1, 2, 3, …), ``geometric`` (1, 2, 4, …, as
        the widths do), ``reversed`` (linear, falling), ``late`` (the later half alone, the middle
        one of an odd number with it), or one number a point, separated by commas.
      count: how many points.
      total: what the weights sum to.

    Returns:
      float32 [count].

    Raises:
      ValueError: as many numbers as points are needed, none negative and not all zero.

    >>> layer_weights("linear", 4, 10.0).tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    ramp = np.arange(1.0, count + 1)
    named = {
        "uniform": np.ones(count),
        "linear": ramp,
        "geometric": 2.0 ** (ramp - 1),
        "reversed": ramp[::-1],
        "late": 1.0 * (2 * ramp > count),
    }
    weights = named[kind] if kind in named else np.array([float(w) for w in kind.split(",")])
    if len(weights) != count or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        raise ValueError(f"{kind!r}: {count} weights are needed, none negative, not all zero")
    return (weights * (total / weights.sum())).astype(np.float32)
