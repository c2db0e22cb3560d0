"""What the classes look like on average: shared by the methods that work on prototypes."""

from collections.abc import Iterable
from typing import Any

import numpy as np


def class_means(
    batches: Iterable[tuple[Any, Any]], num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of every class, batch by batch.

    Args:
      batches: (values [b, d], integer labels [b]).
      num_classes: C.

    Returns:
      float64 [C, d], zero for a class without an example; and int64 [C], the examples.
    """
    sums, counts = 0.0, np.zeros(num_classes, np.int64)
    for values, labels in batches:
        member = np.arange(num_classes)[:, None] == np.asarray(labels)[None]
        sums = sums + member.astype(np.float64) @ np.asarray(values, np.float64)
        counts += member.sum(axis=1)
    return sums / np.maximum(counts, 1)[:, None], counts
