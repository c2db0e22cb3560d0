"""Made-up features of the sizes that occur."""

import numpy as np

WIDTHS = (64, 128, 256, 512)  # the pooled stages of a ResNet-18 of width 64


def stages(seed: int, rows: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pooled features of two models that see the same inputs.

    Args:
      seed: of the inputs; the models stay the same.
      rows: inputs.

    Returns:
      Four arrays float32 [rows, width] a model, partly made of what the inputs share.
    """
    inputs = np.random.default_rng([seed, 0]).standard_normal((rows, 32), np.float32)
    noise = np.random.default_rng([seed, 1])
    weights = np.random.default_rng(0)

    def stage(width: int) -> np.ndarray:
        shared = inputs @ weights.standard_normal((32, width), np.float32)
        return 0.1 * shared + noise.standard_normal((rows, width), np.float32)

    first, second = ([stage(width) for width in WIDTHS] for _ in range(2))
    return first, second


def labelled(seed: int, rows: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [rows, width] that partly tell their labels, and the labels, [rows]."""
    means = np.random.default_rng(0).standard_normal((classes, width), np.float32)
    generator = np.random.default_rng([seed, 2])
    labels = generator.integers(classes, size=rows)
    noise = generator.standard_normal((rows, width), np.float32)
    return np.maximum(0.1 * means[labels] + noise, 0), labels
