"""The command that finds recipes: the same small number of trials for every method.

    python -m ec_jax.tune --config=configs/digits.py --workdir=runs/tune --methods=scrub,ec

Every method is tried with ``TRIALS`` settings: those of its ``SEARCH``, or its recipe's learning
rate times ``FACTORS``; then with two more, around the best of them (``around``). All are judged on
a part of the training images (``data.validation``), by the mean of ``gap/logit`` / 100 and
``gap/representation``, the distance to an oracle that was trained without that part, too; the test
images are never looked at. A setting that damages the model, or with which training cannot go on,
is chosen only if there is no other. With ``--confirm=1,2`` the best is run with these seeds, too,
and passed over for the next one if it does so with any of them.

It leaves ``search.json``, every trial with its numbers and what was passed over, and
``recipes.json``, {method: {field: value}} of the best, as a config file's ``recipes``. The same
command goes on where it stopped.
"""

import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ec_jax import config as config_lib
from ec_jax import config_file, recipes, registry, sweep
from ec_jax import workdir as workdir_lib
from ec_jax.errors import InputError

FLAGS = {
    "workdir": ("Where the trials and what was found go.", "runs/tune"),
    "methods": ("Which methods, separated by commas; all without it.", "ec,scrub"),
    "confirm": ("Seeds with which the best must leave the model whole, too.", "1,2"),
}
TRIALS = 6
FACTORS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
VALIDATION = 0.2  # where the config holds out no part of its own
METRICS = "accuracy,cka,knn,variance,gap"
SPOILT = ("damaged", "failed")  # verdicts of what is chosen only if there is no other
_RATE = "unlearn.optimizer.learning_rate"


def trials(method: str, config: Any) -> list[dict[str, Any]]:
    """The settings that are tried, {dotted field: value} each.

    Args:
      method: its name.
      config: complete, of the method.
    """
    found = registry.search(method)
    if found:
        return [dict(trial) for trial in found]
    rate = config_lib.flatten(config)[_RATE]
    return [{_RATE: float(f"{rate * factor:.3g}")} for factor in FACTORS]


def score(metrics: dict[str, Any]) -> float:
    """Mean of the two gaps to the oracle, as fractions; infinite where there is none."""
    values = metrics["models"]["unlearned"] if "models" in metrics else {}
    if "gap/logit" not in values or "gap/representation" not in values:
        return math.inf
    return (values["gap/logit"] / 100 + values["gap/representation"]) / 2


def main(config: Any, flags: Any) -> None:
    """Tries every method."""
    if not flags.workdir:
        raise config_file.missing("workdir", flags.workdir, FLAGS)
    workdir = Path(os.path.expanduser(flags.workdir)).absolute()
    names = flags.methods.split(",") if flags.methods else _tunable()
    for name in names:
        recipes.check_method(name, "--methods")
        if name == "retrain":
            raise InputError("--methods", name, "its recipe is the original's; leave it out")
    seeds = sweep.seeds("confirm", flags.confirm) if flags.confirm else []
    kept = config_file.overridden()
    found = {name: _configs(config, name, kept) for name in names}
    common = _held_out(config, "ec", kept)
    _check(common, found, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    workdir_lib.write_resolved(common, workdir)
    from ec_jax.cells import Cells

    search = _Search(Cells(common, workdir / "shared"), workdir)
    for name, configs in found.items():
        search.run(name, configs)
        more = _configs(config, name, kept, around(search.tried[name]))
        search.run(name, _allowed(more))
        search.confirm(name, seeds)
        search.write(common)
    search.show()


class _Search:
    """The trials so far, and what of the best ones other seeds did not confirm."""

    def __init__(self, cells: Any, workdir: Path):
        self._cells, self._workdir = cells, workdir
        self._configs: dict[str, list[Any]] = {}
        self.tried: dict[str, list[dict[str, Any]]] = {}
        self.passed_over: dict[str, list[dict[str, Any]]] = {}

    def run(self, name: str, configs: list[tuple[dict[str, Any], Any]]) -> None:
        """Adds trials of a method."""
        tried = self.tried.setdefault(name, [])
        _check_folders(self._workdir / name, configs, len(tried) + 1)
        for overrides, cell in configs:
            number = len(tried) + 1
            print(f"tune: {name}, trial {number}: {overrides}", flush=True)
            metrics = self._cells.run(cell, self._workdir / name / f"trial{number}")
            tried.append(_trial(overrides, metrics))
            self._configs.setdefault(name, []).append(cell)

    def confirm(self, name: str, seeds: Sequence[int]) -> None:
        """Passes over the best as long as one of the seeds spoils it and there is another."""
        tried, over = self.tried[name], []
        whole = [trial for trial in tried if trial["verdict"] not in SPOILT]
        for trial in sorted(whole, key=lambda trial: trial["score"]):
            if not (why := self._spoilt(name, tried.index(trial), seeds)):
                break
            over.append({"settings": trial["settings"], "why": why})
            self.passed_over[name] = over

    def _spoilt(self, name: str, index: int, seeds: Sequence[int]) -> str:
        """With which seed a trial damages the model or fails; empty where with none."""
        for seed in seeds:
            cell = self._configs[name][index].copy_and_resolve_references().unlock()
            cell.seed = seed
            folder = self._workdir / name / f"trial{index + 1}-seed{seed}"
            workdir_lib.check_workdir(cell, folder)
            print(f"tune: {name}, trial {index + 1} with seed {seed}", flush=True)
            verdict = _trial({}, self._cells.run(cell.lock(), folder))["verdict"]
            if verdict in SPOILT:
                return f"{verdict} with seed {seed}"
        return ""

    def write(self, config: Any) -> None:
        """The files of what was found so far."""
        found = {
            "schema": 1,
            "score": "(gap/logit / 100 + gap/representation) / 2 on held-out training images",
            "config": config_lib.resolved(config),
            "methods": self.tried,
            "passed_over": self.passed_over,
        }
        workdir_lib.write_json(self._workdir / "search.json", found)
        chosen = {
            name: best(tried, self.passed_over.get(name, []))["settings"]
            for name, tried in sorted(self.tried.items())
        }
        workdir_lib.write_json(self._workdir / "recipes.json", chosen)

    def show(self) -> None:
        """Says what was found, and where it is."""
        for name, tried in self.tried.items():
            found = best(tried, self.passed_over.get(name, []))
            told = "none" if found["score"] is None else f"{found['score']:.4f}"
            print(f"tune: {name}: {found['settings']}, score {told}, {found['verdict']}")
        print(f"Written to {self._workdir}: search.json, recipes.json", flush=True)


def _tunable() -> list[str]:
    """Without fresh training, whose recipe is the original's."""
    return [name for name in registry.names() if name != "retrain"]


def _held_out(config: Any, name: str, kept: list[str]) -> Any:
    """The complete config of a method, judged on held-out training images."""
    c = config.copy_and_resolve_references().unlock()
    c.method, c.recipes = name, {}  # a search does not start from what an earlier one found
    c.data.validation = config.data.validation or VALIDATION
    c.evaluation.metrics = METRICS
    return recipes.complete(c, kept)


def _configs(
    config: Any, name: str, kept: list[str], settings: list[dict[str, Any]] | None = None
) -> list[tuple[dict[str, Any], Any]]:
    """(what is tried, its config) of these settings, or of the first trials."""
    complete, found = _held_out(config, name, kept), []
    for overrides in trials(name, complete) if settings is None else settings:
        cell = complete.copy_and_resolve_references().unlock()
        cell.update_from_flattened_dict(overrides)
        found.append((overrides, cell.lock()))
    return found


def _allowed(configs: list[tuple[dict[str, Any], Any]]) -> list[tuple[dict[str, Any], Any]]:
    """Those that can be run: a value beyond the last one tried may be none."""
    found = []
    for overrides, cell in configs:
        with contextlib.suppress(InputError):
            config_lib.validate(cell)
            found.append((overrides, cell))
    return found


def _check(common: Any, found: dict[str, list[tuple[dict[str, Any], Any]]], workdir: Path) -> None:
    """Makes the checks that can be made before the first trial."""
    trials = [cell for configs in found.values() for _, cell in configs]
    for config in (common, *trials):
        config_lib.validate(config)
    config_lib.check_alone(common, "a search")
    workdir_lib.check_workdir(common, workdir, foreign=workdir_lib.OF_A_RUN)
    for name, configs in found.items():
        _check_folders(workdir / name, configs, 1)
    from ec_jax import pipeline  # JAX is imported only for input that can work

    for trial in trials:
        pipeline.checked(trial)


def _check_folders(folder: Path, configs: list[tuple[dict[str, Any], Any]], first: int) -> None:
    """Refuses folders of trials, from number ``first`` on, that hold those of other settings."""
    for number, (_, cell) in enumerate(configs, first):
        workdir_lib.check_workdir(cell, folder / f"trial{number}")


def _trial(overrides: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    from ec_jax.report import table

    if "failed" in metrics:
        why = metrics["failed"].partition(";")[0]  # the rest names folders of this machine
        return {"settings": overrides, "score": None, "verdict": "failed", "failed": why}
    values, (verdict, _) = metrics["models"]["unlearned"], table.judged(metrics)
    shown = [k for k in values if k.startswith(("accuracy/", "gap/"))]
    return {
        "settings": overrides,
        "score": round(score(metrics), 5),
        "verdict": verdict.name if verdict else "none",
        "numbers": {key: round(values[key], 4) for key in shown},
    }


def best(tried: list[dict[str, Any]], passed_over: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """The trial nearest to the oracle among those that leave the model whole, if any does.

    Args:
      tried: the trials.
      passed_over: {"settings", …} each of those that are not chosen while there is another.
    """
    over = [trial["settings"] for trial in passed_over]

    def order(trial):
        score = math.inf if trial["score"] is None else trial["score"]
        return trial["verdict"] in SPOILT, trial["settings"] in over, score

    return min(tried, key=order)


def around(tried: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two more settings: the best one's, with two other values of its first number above zero.

    Among trials that differ from it by this field alone: half-way, in ratios, to the next value on
    either side; if there is none on one side, beyond it there, by half and by all of the distance
    to the next on the other.

    >>> tried = [{"settings": {"a": a}, "verdict": "", "score": s} for a, s in ((1, 2.0), (4, 1.0))]
    >>> around(tried)
    [{'a': 8}, {'a': 16}]
    """
    chosen = best(tried)["settings"]
    numbers = {k: v for k, v in chosen.items() if type(v) in (int, float) and v > 0}
    if not numbers:
        return []
    field, value = next(iter(numbers.items()))
    along = [t["settings"][field] for t in tried if t["settings"] | {field: value} == chosen]
    below = max((v for v in along if v < value), default=None)
    above = min((v for v in along if v > value), default=None)
    if below and above:
        found = [math.sqrt(below * value), math.sqrt(value * above)]
    elif below or above:
        ratio = value / (below or above)
        found = [value * math.sqrt(ratio), value * ratio]
    else:
        found = [value / 2, value * 2]
    return [chosen | {field: type(value)(float(f"{v:.3g}"))} for v in found]


if __name__ == "__main__":
    config_file.run(
        main,
        FLAGS,
        interrupted="interrupted; the same command goes on where it stopped",
        complete=False,
    )
