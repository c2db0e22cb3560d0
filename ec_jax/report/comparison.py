"""Runs side by side: a row a method, a column a number, mean and spread over the seeds.

Of several scenarios nothing is averaged: each is a comparison of its own.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from ec_jax.config import flatten
from ec_jax.evaluation.target import TRAIN, forget_split
from ec_jax.report import runs as runs_lib
from ec_jax.report import table
from ec_jax.report.page import MISSING, Cell
from ec_jax.report.runs import Group, Run
from ec_jax.report.summary import Spread, spread


@dataclasses.dataclass(frozen=True)
class Column:
    """A number of the comparison.

    Attributes:
      key: in a row's numbers.
      group: what several columns have in common, with their unit.
      title: what tells it from the others of its group.
      digits: decimals shown.
    """

    key: str
    group: str
    title: str
    digits: int


@dataclasses.dataclass(frozen=True)
class Row:
    """A method, the original or the oracle.

    Attributes:
      label: its name.
      kind: ``original``, ``oracle`` or ``method``.
      seeds: of the runs, one each.
      numbers: {key: number} of every run.
      verdicts: of every run; empty for references.
    """

    label: str
    kind: str
    seeds: tuple[int, ...]
    numbers: tuple[Mapping[str, float], ...]
    verdicts: tuple[str, ...] = ()

    def spread(self, key: str) -> Spread | None:
        """The number over the runs; None where one of them lacks it."""
        return spread([numbers.get(key) for numbers in self.numbers])

    def verdict(self) -> str:
        """Every verdict and how many runs have it, the most frequent first; empty for none."""
        counts = collections.Counter(self.verdicts).most_common()
        if len(self.verdicts) == 1:
            return self.verdicts[0]
        return ", ".join(f"{name} {count}/{len(self.verdicts)}" for name, count in counts)


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns that are shown together.

    Attributes:
      title: what they tell.
      columns: those of which at least one row has a number.
      verdicts: whether the verdicts stand before them.
    """

    title: str
    columns: tuple[Column, ...]
    verdicts: bool


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The runs of one scenario, side by side.

    Attributes:
      name: of the scenario, unlike that of every other comparison.
      points: supervision points, first to last.
      groups: the runs, by method and config.
      rows: original and oracle, where there are some, then one a group.
      tables: what is shown of the rows.
      notes: sentences that a reader must know.
    """

    name: str
    points: tuple[str, ...]
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]

    @property
    def forget(self) -> str:
        """The split on which forgetting is judged."""
        return _forget_split(self.groups)

    @property
    def runs(self) -> list[Run]:
        """All of them, by group and seed."""
        return [run for group in self.groups for run in group.runs]


def compare(runs: Sequence[Run], *, by_scenario: bool = False) -> list[Comparison]:
    """Groups the runs, by scenario first.

    Args:
      runs: at least one.
      by_scenario: runs of several scenarios are allowed, and give a comparison each.

    Raises:
      InputError: several scenarios where one is asked for, or a run twice.
    """
    if not by_scenario:
        runs_lib.check_one_scenario(runs)
    found = runs_lib.scenarios(runs)
    return [_one(n, mine) for n, mine in zip(_names(found), found, strict=True)]


def _names(found: Sequence[Sequence[Run]]) -> list[str]:
    """A name a scenario; where two would be alike, with the fields that tell them apart."""
    abouts = [runs[0].scenario for runs in found]
    names = [table.scenario_name(about) for about in abouts]
    flat = [{k: v for k, v in flatten(a).items() if k not in runs_lib.APART} for a in abouts]
    out = []
    for i, name in enumerate(names):
        fields = runs_lib.differing([f for f, n in zip(flat, names, strict=True) if n == name])
        apart = ", ".join(f"{field}={flat[i].get(field)}" for field in fields)
        out.append(f"{name} ({apart})" if apart else name)
    return out


def _one(name: str, runs: Sequence[Run]) -> Comparison:
    points = tuple(runs[0].scenario["points"])
    groups = tuple(runs_lib.groups(runs))
    notes = list(_notes(runs, groups))
    rows = []
    for model in runs_lib.REFERENCES:
        found, said = runs_lib.references(runs, model)
        notes += said
        if found:
            seeds, numbers = zip(*((r.seed, _reference(model, r)) for r in found), strict=True)
            rows.append(Row(model, model, seeds, numbers))
    rows += [_method(group) for group in groups]
    return Comparison(
        name,
        points,
        groups,
        tuple(rows),
        _tables(points, rows, _forget_split(groups)),
        tuple(notes),
    )


def _reference(model: str, found: runs_lib.Reference) -> dict[str, float]:
    """Its numbers; what is measured against an oracle's cost is the oracle's own, too."""
    known = {unit for run in found.runs for unit in run.cost.get(model) or {}}
    whole = {f"cost/{unit}": 100.0 for unit in _UNITS if unit in known and model == "oracle"}
    return {**found.numbers, **whole}


def _method(group: Group) -> Row:
    numbers = []
    for run in group.runs:
        shares = {f"cost/{unit}": table.share(run.cost, unit, modules=True) for unit in _UNITS}
        known = {key: share for key, share in shares.items() if share is not None}
        numbers.append({**run.models["unlearned"], **known})
    return Row(
        group.label,
        "method",
        tuple(run.seed for run in group.runs),
        tuple(numbers),
        tuple(judged(run) for run in group.runs),
    )


def judged(run: Run) -> str:
    """The name of a run's verdict; ``none`` where too little was measured for one."""
    found, _ = table.judged({"models": run.models, "scenario": run.scenario})
    return found.name if found else "none"


def _notes(runs: Sequence[Run], groups: Sequence[Group]) -> Iterable[str]:
    alone = [run.source for run in runs if run.config is None]
    if alone and any(len(group.runs) > 1 for group in groups):
        start = f"{len(alone)} of {len(runs)} runs ({_few(alone)}) came without a config.json"
        if len(alone) == len(runs):
            start = "No run came with its config.json"
        yield f"{start}; those of one method are taken to be of one config."
    seeds = {group.label: [run.seed for run in group.runs] for group in groups}
    if any(mine != seeds[groups[0].label] for mine in seeds.values()):
        listed = "; ".join(f"{label}: {', '.join(map(str, s))}" for label, s in seeds.items())
        yield f"The methods were not run with the same seeds ({listed})."
    bare = [run.source for run in runs if not run.models.get("oracle")]
    if bare:
        yield f"Without an oracle, and therefore not in the plots against it: {_few(bare)}."


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _forget_split(groups: Sequence[Group]) -> str:
    models = groups[0].runs[0].models
    return forget_split(models.get("original") or models["unlearned"])


_UNITS = ("steps", "flops", "seconds")


def _tables(points: Sequence[str], rows: Sequence[Row], forget: str) -> tuple[Table, ...]:
    """What is shown, of the numbers of which a row has something to show."""

    def measured(columns: Iterable[Column]) -> tuple[Column, ...]:
        return tuple(c for c in columns if any(row.spread(c.key) for row in rows))

    last = points[-1]
    images = "training images to be forgotten" if forget == TRAIN else "forgotten test images"
    tables = (
        Table("Verdict and accuracy", measured(_answers(forget)), verdicts=True),
        Table(f"What {last} holds of {images}", measured(_features(last, forget)), False),
        Table("Gaps to the oracle and scores", measured(_SCORES), verdicts=False),
        Table("What comes back when it is trained again, and what is left", measured(_LEFT), False),
        Table("Cost, in percent of the oracle's", measured(_COST), verdicts=False),
    )
    return tuple(table for table in tables if table.columns or table.verdicts)


_ACCURACY = (
    Column("accuracy/forget_train", "accuracy (%)", "forget, train", 1),
    Column("accuracy/forget_test", "accuracy (%)", "forget, test", 1),
    Column("accuracy/retain_train", "accuracy (%)", "retain, train", 1),
    Column("accuracy/retain_test", "accuracy (%)", "retain, test", 1),
)
_SCORES = (
    Column("gap/logit", "gap", "logits (points)", 1),
    Column("gap/representation", "gap", "features", 3),
    Column("closeness/original", "closeness", "to original", 3),
    Column("closeness/oracle", "closeness", "to oracle", 3),
    Column("rus/to_original", "RUS", "to original", 3),
    Column("rus/to_oracle", "RUS", "to oracle", 3),
    Column("mia/forget_train", "MIA", "(%)", 1),
)
_LEFT = (
    Column("recovery/head/forget_test", "recovery", "new head (%)", 1),
    Column("recovery/area", "recovery", "relearning (%)", 1),
    Column("idi/value", "IDI", "", 3),
)
_COST = tuple(Column(f"cost/{unit}", "cost (%)", table.UNITS[unit], 1) for unit in _UNITS)


def _answers(forget: str) -> tuple[Column, ...]:
    name = forget.replace("_", ", ")
    return (*_ACCURACY, Column(f"agreement/{forget}", "agreement with the oracle (%)", name, 1))


def _features(last: str, forget: str) -> tuple[Column, ...]:
    return (
        Column(f"cka_to_original/{forget}/{last}", "CKA", "to original", 3),
        Column(f"cka_to_oracle/{forget}/{last}", "CKA", "to oracle", 3),
        Column(f"knn/forget_test/{last}", "accuracy (%)", "k-NN", 1),
        Column(f"probe/forget_test/{last}", "accuracy (%)", "probe", 1),
    )


def numbers_of(row: Row) -> dict[str, Spread]:
    """{key: spread} of every number that all runs of a row have."""
    keys = dict.fromkeys(key for numbers in row.numbers for key in numbers)
    return {key: found for key in keys if (found := row.spread(key))}


def head(table: Table) -> list[tuple[str, list[str]]]:
    """[(group, titles)] of a table's columns, the row's name, verdict and n first."""
    found = [("", ["", *(["verdict"] if table.verdicts else []), "n"])]
    for column in table.columns:
        if found[-1][0] == column.group:
            found[-1][1].append(column.title)
        else:
            found.append((column.group, [column.title]))
    return found


def titles(table: Table) -> list[str]:
    """The same titles, in one line each."""
    return [_title(group, title) for group, below in head(table) for title in below]


def _title(group: str, title: str) -> str:
    between = " " if title.startswith("(") else ", "
    return between.join(filter(None, (group, title)))


def cells(row: Row, table: Table) -> list[Cell]:
    """A row's cells in a table."""
    verdict = [Cell(row.verdict() or MISSING.text)] if table.verdicts else []
    first = [Cell(row.label), *verdict, Cell(str(len(row.numbers)), len(row.numbers))]
    return first + [cell(row.spread(c.key), c.digits) for c in table.columns]


def cell(spread: Spread | None, digits: int) -> Cell:
    """Mean and deviation; a dash for None."""
    if not spread:
        return MISSING
    return Cell(spread.plus_minus(digits), spread.mean if math.isfinite(spread.mean) else None)
