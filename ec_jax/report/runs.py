"""Runs that are to stand side by side: read, checked and grouped.

What must not be averaged is told apart here: scenarios, methods, configs, and the same run given
twice.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ec_jax.config import flatten
from ec_jax.errors import InputError
from ec_jax.workdir import FREE, read_json

AUDIT = "audit.json"
_LARGEST = 2**63  # of a whole number: a count of operations, not one that no float holds
FILES = ("metrics.json", AUDIT)  # what a folder is looked through for, in this order
REFERENCES = ("original", "oracle")
# Of one method and scenario, these may differ between runs that are averaged. Which model a run
# started from shows in that model's own numbers.
_FREE = ("seed", "original.checkpoint", "oracle.checkpoint", *FREE)
APART = ("method", "seed")  # what may differ within a scenario
_TYPES = {
    "dataset": str,
    "forget_classes": list,
    "forget_names": list,
    "points": list,
    "method": str,
    "seed": int,
}
# What older runs are without, or only some have.
_MORE_TYPES = {
    "images": dict,
    "model": str,
    "features": str,
    "forget": str,
    "earlier_classes": list,
    "earlier_names": list,
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
      source: the folder or file, as it was given.
      method: the method's name; of an audit, whose model may be of any method, its source.
      seed: of the run.
      scenario: as in ``metrics.json``.
      models: {model: {flat key: number}}.
      cost: {stage: {"steps", "images", "flops", "seconds"}} of the stages whose cost is known.
      config: {field: value} of the fields that must agree between runs that are averaged; None
        where it is not known.
    """

    source: str
    method: str
    seed: int
    scenario: Mapping[str, Any]
    models: Mapping[str, Mapping[str, float]]
    cost: Mapping[str, Mapping[str, float]]
    config: Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ by their seed only.

    Attributes:
      label: the method, and what tells it from other groups of the same method.
      runs: by ascending seed.
    """

    label: str
    runs: tuple[Run, ...]


@dataclasses.dataclass(frozen=True)
class Reference:
    """An original or an oracle that one run or several have in common.

    Attributes:
      seed: of the runs.
      numbers: {flat key: number}, all that any of the runs measured.
      runs: those that have it.
    """

    seed: int
    numbers: Mapping[str, float]
    runs: tuple[Run, ...]


def read(source: str) -> Run:
    """Reads one run.

    Args:
      source: a run's folder, or a file with the contents of a ``metrics.json``.

    Raises:
      InputError: nothing is there, or it is not what a run leaves.
    """
    path = _file(source)
    found = _json(path, source)
    scenario, models, cost = (found.get(k) for k in ("scenario", "models", "cost"))
    _check_scenario(scenario, source)
    known = isinstance(models, dict) and all(map(_are_numbers, models.values()))
    if not known or "unlearned" not in models:
        raise _unlike(source, "models", "the unlearned model's numbers")
    # Audits in folders of one name may be of different models: never averaged.
    method = str(Path(source)) if path.name == AUDIT else scenario["method"]
    numbers = _with_broken(models, found.get("not_finite"))
    config = _config(path, found, source)
    return Run(source, method, scenario["seed"], scenario, numbers, _spent(cost), config)


def _file(source: str) -> Path:
    path = Path(os.path.expanduser(source))  # pathlib's raises RuntimeError for an unknown user
    if os.path.isfile(path):
        return path
    if not os.path.isdir(path):
        raise InputError("RUN_DIR", source, "no such file or folder; give a run's workdir")
    for name in FILES:
        if (path / name).is_file():
            return path / name
    raise InputError(
        "RUN_DIR", source, f"holds no {' or '.join(FILES)}; give the workdir of a finished run"
    )


def _json(path: Path, source: str) -> dict[str, Any]:
    try:
        return read_json(path)
    except ValueError as error:
        reason = f"its {path.name} cannot be read ({error}); leave it out, or make it anew"
        raise InputError("RUN_DIR", source, reason) from error


def _check_scenario(scenario: Any, source: str) -> None:
    if not isinstance(scenario, dict):
        raise _unlike(source, "scenario", "what was run")
    known = _TYPES | {field: kind for field, kind in _MORE_TYPES.items() if field in scenario}
    for field, kind in known.items():
        if type(scenario.get(field)) is not kind:
            raise _unlike(source, f"scenario.{field}", f"a {kind.__name__}")
    if not _are_numbers(scenario.get("images", {})):
        raise _unlike(source, "scenario.images", "numbers")
    for field in ("points", "forget_names"):
        names = scenario[field]
        in_part = field == "forget_names" and isinstance(scenario.get("forget"), str)
        if not (names or in_part) or not all(isinstance(name, str) for name in names):
            raise _unlike(source, f"scenario.{field}", "names")
    for field in ("forget", "earlier"):
        classes, names = (scenario.get(f"{field}_{what}", []) for what in ("classes", "names"))
        if len(names) != len(classes):
            raise _unlike(source, f"scenario.{field}_names", "one name a forgotten class")


def _spent(cost: Any) -> dict[str, Mapping[str, float]]:
    return {s: c for s, c in cost.items() if _are_numbers(c)} if isinstance(cost, dict) else {}


def _are_numbers(values: Any) -> bool:
    return isinstance(values, dict) and all(
        type(v) is float or (type(v) is int and abs(v) < _LARGEST) for v in values.values()
    )


def _unlike(source: str, field: str, wanted: str) -> InputError:
    return InputError(
        "RUN_DIR", source, f"{field} does not hold {wanted}; give what a run left as {FILES[0]}"
    )


def _with_broken(models: Mapping[str, Any], keys: Any) -> dict[str, dict[str, float]]:
    """The numbers with those that an audit could not write, as JSON has no word for them."""
    lost = {m: k for m, k in keys.items() if isinstance(k, list)} if isinstance(keys, dict) else {}
    return {
        m: {**v, **dict.fromkeys(map(str, lost.get(m, ())), math.nan)} for m, v in models.items()
    }


def _config(path: Path, found: Mapping[str, Any], source: str) -> dict[str, Any] | None:
    """The config beside a run's metrics, or inside an audit."""
    beside = path.with_name("config.json")
    if path.name == FILES[0] and beside.is_file():
        found = {"config": _json(beside, source)}
    config = found.get("config")
    if not isinstance(config, dict):
        return None
    return {f: v for f, v in flatten(config).items() if not f.startswith(_FREE)}


def scenarios(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs by scenario, both in the order in which they were given."""
    found: list[list[Run]] = []
    for run in runs:
        same = next((s for s in found if first_difference(s[0], run) is None), None)
        if same is None:
            found.append([run])
        else:
            same.append(run)
    return found


def first_difference(a: Run, b: Run) -> tuple[str, Any, Any] | None:
    """(field, value of a, value of b) where the scenarios of two runs first differ, or None."""
    first, second = (flatten(run.scenario) for run in (a, b))
    for field in dict.fromkeys([*first, *second]):
        if field not in APART and first.get(field) != second.get(field):
            return field, first.get(field), second.get(field)
    return None


def check_one_scenario(runs: Sequence[Run]) -> None:
    """Refuses runs of several scenarios.

    Raises:
      InputError: names the first field that differs, both values and both runs.
    """
    for run in runs[1:]:
        if difference := first_difference(runs[0], run):
            field, wanted, found = difference
            raise InputError(
                f"scenario.{field}",
                found,
                f"in {run.source}, but {wanted!r} in {runs[0].source}; compare them apart, or "
                "add --by-scenario for a section a scenario",
            )


def groups(runs: Sequence[Run]) -> list[Group]:
    """The runs of one scenario by method and config.

    Where groups of one method differ by their config, their labels say in which fields.

    Raises:
      InputError: the same method, config and seed twice.
    """
    found = []
    for method in dict.fromkeys(run.method for run in runs):
        mine = [run for run in runs if run.method == method]
        fields = differing([run.config for run in mine if run.config is not None])
        unclear = len({run.config is None for run in mine}) > 1
        by_label: dict[str, list[Run]] = {}
        for run in mine:
            by_label.setdefault(_label(run, fields, unclear), []).append(run)
        found += [Group(label, _by_seed(label, members)) for label, members in by_label.items()]
    return found


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields, by name, in which not all have the same value."""
    names = sorted({field for config in configs for field in config})
    return [n for n in names if any(c.get(n) != configs[0].get(n) for c in configs)]


def _label(run: Run, fields: Sequence[str], unclear: bool) -> str:
    method = f"method {run.method}" if run.method in REFERENCES else run.method
    if run.config is None:
        return f"{method} (config unknown)" if unclear else method
    if not fields:
        return method
    return f"{method} ({', '.join(f'{f}={run.config.get(f)}' for f in fields)})"


def _by_seed(label: str, members: Sequence[Run]) -> tuple[Run, ...]:
    first: dict[int, Run] = {}
    for run in members:
        if run.seed in first:
            remedy = (
                f"given twice for {label}, in {first[run.seed].source} and {run.source}; "
                "leave one of them out"
            )
            raise InputError("seed", run.seed, remedy)
        first[run.seed] = run
    return tuple(first[seed] for seed in sorted(first))


def references(runs: Sequence[Run], model: str) -> tuple[list[Reference], list[str]]:
    """The originals or oracles of the runs of one scenario, each counted once.

    Runs of several methods often share them. Two of one seed are one if they agree in every
    number that both have.

    Args:
      runs: of one scenario.
      model: ``original`` or ``oracle``.

    Returns:
      They, by seed, and a sentence for every seed that has several.
    """
    found: list[Reference] = []
    notes = []
    for run in sorted(runs, key=lambda r: r.seed):
        numbers = run.models.get(model)
        if numbers is None:
            continue
        rivals = [i for i, r in enumerate(found) if r.seed == run.seed]
        same = next((i for i in rivals if _unequal(found[i].numbers, numbers) is None), None)
        if same is not None:
            old = found[same]
            found[same] = Reference(run.seed, {**old.numbers, **numbers}, (*old.runs, run))
            continue
        if rivals:
            notes.append(_two(model, found[rivals[0]], run))
        found.append(Reference(run.seed, numbers, (run,)))
    return found, notes


def _unequal(a: Mapping[str, float], b: Mapping[str, float]) -> str | None:
    """The first key with two values."""
    for key in a:
        if key in b and a[key] != b[key] and not (math.isnan(a[key]) and math.isnan(b[key])):
            return key
    return None


def _two(model: str, old: Reference, run: Run) -> str:
    key = _unequal(old.numbers, run.models[model])
    values = f"{old.numbers[key]} and {run.models[model][key]}"  # they may be a bit apart
    return (
        f"The {model} of seed {run.seed} is not the same in {old.runs[0].source} and {run.source} "
        f"({key} is {values}); both are counted."
    )
