"""Several runs that differ by their seed as one: the mean over seeds, and the spread."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ec_jax.report import table

_UNITS = ("steps", "images", "flops")
MISSING = "–"


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

    def interval(self, digits: int) -> str:
        """``mean (lowest to highest)``, or the mean alone where they are shown the same."""
        mean, low, high = (f"{v:.{digits}f}" for v in (self.mean, self.low, self.high))
        return mean if low == high else f"{mean} ({low} to {high})"

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


def markdown(runs: Sequence[Mapping[str, Any]]) -> str:
    """The table of ``ec_jax.report.table`` with ``mean (lowest to highest)`` in every cell.

    A number that only some of the runs have is theirs alone, and its row says how many there are.

    Args:
      runs: contents of the ``metrics.json`` of runs that differ by their seed only.

    Raises:
      ValueError: no runs, or runs of different scenarios.
    """
    scenarios = [{k: v for k, v in run["scenario"].items() if k != "seed"} for run in runs]
    if not runs or any(s != scenarios[0] for s in scenarios):
        raise ValueError(f"{len(runs)} runs; at least one is needed, all of the same scenario")
    rows = []
    for label, key, digits, goal in table.rows(scenarios[0]["points"], table.forget_split(runs[0])):
        having = [r["models"] for r in runs if key in r["models"]["unlearned"]]
        if having:
            few = f"; {len(having)} of {len(runs)} seeds" if len(having) < len(runs) else ""
            cells = (_cell([models[m].get(key) for models in having], digits) for m in table.MODELS)
            rows.append([label + few, *cells, goal])
    return f"{table.markdown_table(table.MODELS, rows)}\n{_cost(runs)}"


def _cost(runs: Sequence[Mapping[str, Any]]) -> str:
    """What unlearning took of the oracle's training: FLOPs, too, where all runs know them."""
    alone, whole = (
        [[table.share(r["cost"], u, modules=m) for r in runs] for u in _UNITS]
        for m in (False, True)
    )
    if None in alone[-1] + whole[-1]:
        alone, whole = alone[:-1], whole[:-1]
    alone, whole = ([_cell(values, 1) for values in part] for part in (alone, whole))
    if len(alone) < len(_UNITS):
        return (
            f"Unlearning took {alone[0]} % of the oracle's steps and {alone[1]} % of its\n"
            f"images; with its modules' training {whole[0]} % and {whole[1]} %.\n"
        )
    return (
        f"Unlearning took {alone[0]} % of the oracle's steps, {alone[1]} % of its\n"
        f"images and {alone[2]} % of its FLOPs; with its modules' training\n"
        f"{whole[0]} %, {whole[1]} % and {whole[2]} %.\n"
    )


def _cell(values: Sequence[float | None], digits: int) -> str:
    found = spread(values)
    return found.interval(digits) if found else MISSING
