"""What smaller grids showed: the ablation of EC, and where unlearning begins to pay.

A grid becomes one file, ``docs/results/GRID/SCENARIO.json``: {"rows": {row: {seed: {key: number,
and "verdict"}}}}, with original and oracle as rows where all rows have the same.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from configs.sweeps import crossing
from docs import study
from ec_jax.report import comparison, costs, markup, table
from ec_jax.report import runs as runs_lib
from ec_jax.report.comparison import Row
from ec_jax.report.summary import Spread
from ec_jax.report.tradeoff import Plot
from ec_jax.workdir import write_json

SWEEPS = {"ablation": "configs/sweeps/ec.py", "crossing": "configs/sweeps/crossing.py"}
_METRICS = {"evaluation.metrics": "accuracy,cka,knn,probe,variance,agreement,gap"}
# Set beside the scenario's config: what an ablation is to decide is not decided on test images.
SETTINGS = {"ablation": {"data.validation": 0.2, **_METRICS}, "crossing": _METRICS}
TITLES = {"ablation": "ablation of EC", "crossing": "where unlearning begins to pay"}
DIFFERENCES = """\
What a value changes, reckoned seed by seed: the row minus the default of the same seed.
"""
REFERENCES = ("original", "oracle")
BASE = {"guided": "guided=whole"}  # what a field's rows are compared with; the others: "default"
COMPARED = (
    ("gap/representation", "gap, features", 3),
    ("gap/logit", "gap, logits (points)", 1),
    ("closeness/oracle", "CKA to oracle", 3),
    ("accuracy/retain_test", "accuracy, retain, test (points)", 1),
)
_SHOWN = ("accuracy/", "closeness/", "gap/", "agreement/", "variance/share", "cost/flops")


def take(grid: str, scenario: str, results: Iterable[Path]) -> None:
    """Writes the file of a grid.

    Args:
      grid: a name in ``SWEEPS``.
      scenario: a name in ``study.SCENARIOS``.
      results: the files ROW-seedN.json of a sweep.
    """
    rows: dict[str, dict[str, Any]] = {}
    references: dict[str, dict[str, list]] = {}
    for path in sorted(results):
        row, _, seed = path.stem.rpartition("-seed")
        run, found = runs_lib.read(str(path)), table.judged(json.loads(path.read_text()))[0]
        verdict = {"verdict": found.name if found else ""}
        rows.setdefault(row, {})[seed] = _short(run, "unlearned", "method") | verdict
        for name in REFERENCES:
            shared = references.setdefault(_shared(grid, row) + name, {})
            shared.setdefault(seed, []).append(_short(run, name, name))
    for name, seeds in references.items():
        if all(found[0] == other for found in seeds.values() for other in found):
            rows[name] = {seed: found[0] for seed, found in seeds.items()}
    target = study.RESULTS / grid / f"{scenario}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, {"schema": 1, "rows": rows})


def _shared(grid: str, row: str) -> str:
    """How the names begin of rows that have the same references: in a crossing, their length."""
    return row.partition("-")[0] + "-" if grid == "crossing" else ""


def _short(run: runs_lib.Run, model: str, kind: str) -> dict[str, float]:
    """Of a model's numbers what the page shows."""
    numbers = study.completed(run, run.models[model], kind)
    return {k: round(v, 5) for k, v in numbers.items() if k.startswith(_SHOWN)}


def load(grid: str, scenario: str) -> dict[str, Row]:
    """{name: row}; empty where the grid was not run."""
    path = study.RESULTS / grid / f"{scenario}.json"
    found = json.loads(path.read_text())["rows"] if path.is_file() else {}
    return {name: _row(name, cells) for name, cells in found.items()}


def _row(name: str, cells: Mapping[str, Mapping[str, Any]]) -> Row:
    numbers = [{k: v for k, v in cell.items() if k != "verdict"} for cell in cells.values()]
    verdicts = [cell["verdict"] for cell in cells.values() if "verdict" in cell]
    kind = "method" if verdicts else name
    return Row(name, kind, tuple(int(seed) for seed in cells), tuple(numbers), tuple(verdicts))


def ablation_table(scenario: str) -> str:
    """The references and the default, then the other values, field by field."""
    rows, groups = load("ablation", scenario), {}
    groups["references"] = [rows[name] for name in (*REFERENCES, "default") if name in rows]
    for name, row in rows.items():
        if "=" in name:
            groups.setdefault(name.partition("=")[0], []).append(row)
    return study.rows_table({field: sorted(found, key=_value) for field, found in groups.items()})


def differences_table(scenario: str) -> str:
    """Every value minus the default, reckoned seed by seed: mean ± standard deviation.

    The seeds' own spread, which is that of their networks, falls out of it.
    """
    rows, lines = load("ablation", scenario), []
    for row in sorted(rows.values(), key=lambda row: (row.label.partition("=")[0], _value(row))):
        base = BASE.get(row.label.partition("=")[0], "default")
        if "=" in row.label and row.label != base and base in rows:
            shown = [study.difference(row, rows[base], key) for key, _, _ in COMPARED]
            digits = [digits for _, _, digits in COMPARED]
            cells = [comparison.cell(*found).text for found in zip(shown, digits, strict=True)]
            lines.append([markup.markdown_escape(f"{row.label} − {base}"), *cells])
    head = ["", *(title for _, title, _ in COMPARED)]
    return markup.markdown(head, [False, *[True] * len(COMPARED)], lines)


def _value(row: Row) -> tuple[float, str]:
    value = row.label.partition("=")[2]
    try:
        return float(value), ""
    except ValueError:
        return math.inf, value


def crossing_lines(scenario: str) -> dict[float, dict[str, list[tuple[float, Spread, bool]]]]:
    """{length: {method: [(mean FLOPs in percent of the oracle's, closeness, whether every seed's
    model is whole)]}}, cheapest first."""
    out: dict[float, dict[str, list]] = {}
    for name, row in load("crossing", scenario).items():
        if row.kind != "method":
            continue
        length, method, _ = name.split("-")
        whole = len(row.verdicts) == study.SEEDS and "damaged" not in row.verdicts
        point = row.spread("cost/flops").mean, row.spread("closeness/oracle"), whole
        lines = out.setdefault(float(length.removesuffix("x")), {})
        lines.setdefault(method, []).append(point)
    for lines in out.values():
        for points in lines.values():
            points.sort(key=lambda point: point[0])
    return dict(sorted(out.items()))


def crossing_plot(scenario: str) -> Plot | None:
    """The figure; None where the grid was not run."""
    found, rows = crossing_lines(scenario), load("crossing", scenario)
    order = ("scratch", *crossing.METHODS)
    panels, originals = {}, {}
    for length, lines in found.items():
        title = f"original trained {length:g} × its epochs"
        panels[title] = {n: lines[n] for n in order if n in lines}
        if original := rows.get(f"{length:g}x-original"):
            originals[title] = original.spread("closeness/oracle").mean
    return costs.crossing(panels, originals) if panels else None


def shown(grid: str, scenario: str) -> str:
    """The tables of a grid; nothing for one that is a picture."""
    if grid != "ablation":
        return ""
    return f"{ablation_table(scenario)}\n{DIFFERENCES}\n{differences_table(scenario)}\n"


def pictures(grid: str, scenario: str) -> dict[str, Plot]:
    """{file name: plot}."""
    plot = crossing_plot(scenario) if grid == "crossing" else None
    return {f"{scenario}_crossing.png": plot} if plot else {}
