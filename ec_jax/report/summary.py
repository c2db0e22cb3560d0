"""Several runs that differ by their seed as one: the mean over seeds, and the spread."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Spread:
    """One number over several runs.

    Attributes:
      mean: the arithmetic mean.
      deviation: the standard deviation of a sample (divided by n − 1); None for a single run.
      low: the lowest value.
      high: the highest value.
    """

    mean: float
    deviation: float | None
    low: float
    high: float

    def plus_minus(self, digits: int) -> str:
        """``mean ± standard deviation``, or the mean alone for a single run."""
        if not math.isfinite(self.mean):
            return "not finite"
        # What is rounded to zero has no sign.
        mean = f"{round(self.mean, digits) + 0.0:.{digits}f}".replace("-", "−")
        return mean if self.deviation is None else f"{mean} ± {self.deviation:.{digits}f}"


def spread(values: Sequence[float | None]) -> Spread | None:
    """The values of one number over runs, as one; None where a run lacks it, or there is no run.

    >>> spread([1.0, 3.0]).plus_minus(1)
    '2.0 ± 1.4'
    """
    if None in values or not len(values):
        return None
    with np.errstate(invalid="ignore"):  # of numbers that are not finite
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, min(values), max(values))
