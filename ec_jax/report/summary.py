"""Several runs of one scenario and method as one table: the mean over seeds, and the spread."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ec_jax.report import table

_UNITS = ("steps", "images")


def markdown(runs: Sequence[Mapping[str, Any]]) -> str:
    """The table of ``ec_jax.report.table`` with ``mean (lowest to highest)`` in every cell.

    Args:
      runs: contents of the ``metrics.json`` of runs that differ by their seed only.

    Raises:
      ValueError: no runs, or runs of different scenarios.
    """
    scenarios = [{k: v for k, v in run["scenario"].items() if k != "seed"} for run in runs]
    if not runs or any(s != scenarios[0] for s in scenarios):
        raise ValueError(f"{len(runs)} runs; at least one is needed, all of the same scenario")
    lines = [f"| | {' | '.join(table.MODELS)} | unlearned should be close to |"]
    lines.append("| --- | ---: | ---: | ---: | --- |")
    for label, key, digits, goal in table.rows(scenarios[0]["points"]):
        cells = [_cell([run["models"][m].get(key) for run in runs], digits) for m in table.MODELS]
        lines.append(f"| {label} | {' | '.join(cells)} | {goal} |")
    alone, whole = (
        [_cell([table.share(r["cost"], u, modules=m) for r in runs], 1) for u in _UNITS]
        for m in (False, True)
    )
    lines += ["", f"Unlearning took {alone[0]} % of the oracle's steps and {alone[1]} % of its"]
    lines += [f"images; with its modules' training {whole[0]} % and {whole[1]} %."]
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float | None], digits: int) -> str:
    if None in values:
        return "–"
    mean, low, high = np.mean(values), min(values), max(values)
    if f"{low:.{digits}f}" == f"{high:.{digits}f}":
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
