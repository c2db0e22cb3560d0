"""Runs side by side: a row a method, a column a number, mean and spread over the seeds.

Of several scenarios nothing is averaged: each is a section of its own.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ec_jax.config import flatten
from ec_jax.evaluation import verdict
from ec_jax.report import runs as runs_lib
from ec_jax.report import table
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
class Section:
    """The comparison of one scenario.

    Attributes:
      name: of the scenario, unlike that of every other section.
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
    def runs(self) -> list[Run]:
        """All of them, by group and seed."""
        return [run for group in self.groups for run in group.runs]


def sections(runs: Sequence[Run], *, by_scenario: bool = False) -> list[Section]:
    """The comparison.

    Args:
      runs: at least one.
      by_scenario: runs of several scenarios are allowed, and give a section each.

    Raises:
      InputError: several scenarios where one is asked for, or a run twice.
    """
    if not by_scenario:
        runs_lib.check_one_scenario(runs)
    found = runs_lib.scenarios(runs)
    return [_section(n, mine) for n, mine in zip(_names(found), found, strict=True)]


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


def _section(name: str, runs: Sequence[Run]) -> Section:
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
    return Section(name, points, groups, tuple(rows), _tables(points, rows), tuple(notes))


def _reference(model: str, found: runs_lib.Reference) -> dict[str, float]:
    """Its numbers; what is measured against an oracle's cost is the oracle's own, too."""
    trained = any(run.cost.get(model) for run in found.runs)
    whole = {f"cost/{unit}": 100.0 for unit in _UNITS} if model == "oracle" and trained else {}
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
    try:
        return verdict.judge(run.models, run.scenario["points"]).name
    except ValueError:
        return "none"


def _notes(runs: Sequence[Run], groups: Sequence[Group]) -> Iterable[str]:
    alone = [run.source for run in runs if run.config is None]
    if alone and any(len(group.runs) > 1 for group in groups):
        yield (
            f"{len(alone)} of {len(runs)} runs came without a config.json ({_few(alone)}); those "
            "of one method are taken to be of one config."
        )
    seeds = {group.label: tuple(run.seed for run in group.runs) for group in groups}
    if len(set(seeds.values())) > 1:
        listed = "; ".join(f"{label}: {', '.join(map(str, s))}" for label, s in seeds.items())
        yield f"The methods were not run with the same seeds ({listed})."
    bare = [run.source for run in runs if not run.models.get("oracle")]
    if bare:
        yield f"Without an oracle, and therefore not in the plots against it: {_few(bare)}."


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


_UNITS = ("steps", "seconds")
_FEATURES = "What the last stage holds of forgotten test images"


def _tables(points: Sequence[str], rows: Sequence[Row]) -> tuple[Table, ...]:
    """Every number of which a row has something to show."""

    def measured(columns: Iterable[Column]) -> tuple[Column, ...]:
        return tuple(c for c in columns if any(row.spread(c.key) for row in rows))

    return (
        Table("Verdict, outputs and cost", measured(_outputs()), verdicts=True),
        Table(
            "What the features of forgotten test images hold at the last stage",
            measured(_features(points[-1])),
            verdicts=False,
        ),
    )


def _outputs() -> list[Column]:
    splits = {
        "forget_train": "forget, train",
        "forget_test": "forget, test",
        "retain_train": "retain, train",
        "retain_test": "retain, test",
    }
    return [
        *(Column(f"accuracy/{s}", "accuracy (%)", title, 1) for s, title in splits.items()),
        Column("gap/logit", "gap/logit", "(points)", 1),
        Column("mia/forget_train", "MIA", "(%)", 1),
        *(Column(f"cost/{u}", "cost (% of the oracle's)", u, 1) for u in _UNITS),
    ]


def _features(last: str) -> list[Column]:
    return [
        Column("gap/representation", "gap/representation", "", 3),
        Column(f"cka_to_original/forget_test/{last}", "CKA", "to original", 3),
        Column(f"cka_to_oracle/forget_test/{last}", "CKA", "to oracle", 3),
        Column(f"knn/forget_test/{last}", "accuracy (%)", "k-NN", 1),
        Column(f"probe/forget_test/{last}", "accuracy (%)", "probe", 1),
        Column("recovery/area", "recovery", "area", 3),
        Column("rus/to_original", "RUS", "to original", 3),
        Column("rus/to_oracle", "RUS", "to oracle", 3),
    ]


def numbers_of(row: Row) -> dict[str, Any]:
    """{key: spread} of every number that all runs of a row have."""
    keys = dict.fromkeys(key for numbers in row.numbers for key in numbers)
    return {key: found for key in keys if (found := row.spread(key))}
