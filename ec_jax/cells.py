"""Many runs that share what they start from: one original, oracle, proxy and modules a seed.

A cell is a config run in a folder of its own. What precedes unlearning is trained once for all
cells whose configs agree in it, in the folder ``shared``, and what is measured of original and
oracle is measured once. Everything resumes like any run.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ec_jax import checkpoint
from ec_jax import config as config_lib
from ec_jax import workdir as workdir_lib
from ec_jax.errors import InputError, TrainingError
from ec_jax.evaluation import measure
from ec_jax.pipeline import BROUGHT, Experiment, checked

STARTS = ("proxy", "modules")  # of unlearning, beside the original
# Groups and fields of the config on which a shared training depends.
_ON_REFERENCES = ("seed", "data.", "forget.", "model.", "original.", "oracle.")
_ON_STARTS = (*_ON_REFERENCES, "proxy.", "modules.")


class Cells:
    """The cells of one config in one folder."""

    def __init__(self, config: Any, folder: Path):
        """Nothing is made yet.

        Args:
          config: complete and valid; what the fields of a cell are that a shared training does
            not depend on, as its folder holds a whole config.
          folder: that of the shared trainings.
        """
        self._config, self._folder = config, folder
        self._done: dict[Path, bool] = {}  # what was looked at already
        self._last: tuple[Any, ...] = (None,)  # what was measured last, as cells come seed by seed

    def references_name(self, config: Any) -> str:
        """The name of the original and the oracle that a cell starts from."""
        return f"references-{_digest(config, _ON_REFERENCES)}"

    def is_shared(self, config: Any) -> bool:
        """All that a cell shares with others is trained and measured."""
        references = self._folder / self.references_name(config)
        wanted = {references: BROUGHT}
        if _uses_starts(config):
            wanted[self._folder / self._starts_name(config)] = STARTS
        for folder, stages in wanted.items():
            if folder not in self._done:
                self._done[folder] = _is_done(folder, stages)
        return all(self._done[f] for f in wanted) and _measured_file(config, references).is_file()

    def share(self, config: Any) -> None:
        """Trains and measures what a cell shares with others, unless that is done.

        Cells that run at once must not do this at once: they would train into the same folders.

        Args:
          config: of the cell; complete and valid.
        """
        if self.is_shared(config):
            return
        self._done.clear()
        references = self._references(config)
        self._measured(config, references)
        if _uses_starts(config):
            self._starts(config, references)

    def run(self, config: Any, cell: Path) -> dict[str, Any]:
        """Runs a cell, or finishes one that was cut off.

        Args:
          config: complete and valid.
          cell: its workdir.

        Returns:
          The contents of its ``metrics.json``; where training could not go on, {"failed": why}.
        """
        result, failure = cell / "metrics.json", cell / "failed.json"
        for path, field, kind in ((result, "scenario", dict), (failure, "failed", str)):
            if path.is_file():
                return kept(path, field, kind)
        references = self._references(config)
        known, seen = self._measured(config, references)
        starts = self._starts(config, references) if _uses_starts(config) else None
        c = config.copy_and_resolve_references().unlock()
        c.stages = "unlearn,evaluate"
        with workdir_lib.locked(cell.absolute()):
            workdir_lib.write_resolved(c, cell)  # before the links: a folder without it is foreign
            _link(references, BROUGHT, cell)
            if starts:
                _link(starts, STARTS, cell)
            try:
                Experiment(c.lock(), cell, known=known, seen=seen).run()
            except TrainingError as error:
                workdir_lib.write_json(failure, {"failed": str(error)})
                return {"failed": str(error)}
        return workdir_lib.read_metrics(cell)

    def _references(self, config: Any) -> Path:
        """The workdir of the original and the oracle."""
        shared = self._shared(config, _ON_REFERENCES)
        return self._train(shared, BROUGHT, self._folder / self.references_name(config))

    def _starts(self, config: Any, references: Path) -> Path:
        """The workdir of the proxy and the modules."""
        shared = self._shared(config, _ON_STARTS)
        folder = self._folder / self._starts_name(config)
        _link(references, BROUGHT, folder)
        return self._train(shared, STARTS, folder)

    def _starts_name(self, config: Any) -> str:
        return f"starts-{_digest(config, _ON_STARTS)}"

    def _shared(self, config: Any, fields: tuple[str, ...]) -> Any:
        """The common config with the fields of a cell on which a training depends."""
        c = self._config.copy_and_resolve_references().unlock()
        c.method, c.ec.plugin, c.ec.proxy = "ec", False, 1.0  # which uses modules and a proxy
        for field, value in config_lib.flatten(config).items():
            if field.startswith(fields):
                c.update_from_flattened_dict({field: value})
        return c

    def _train(self, config: Any, stages: tuple[str, ...], folder: Path) -> Path:
        if not _is_done(folder, stages):
            config.stages = ",".join(stages)
            Experiment(config.lock(), folder).run()
            (folder / "done").touch()
        return folder

    def _measured(self, config: Any, references: Path) -> tuple[dict, dict]:
        """({model: its numbers}, {model: its features}) of original and oracle."""
        path = _measured_file(config, references)
        if self._last[0] != path:
            c = config.copy_and_resolve_references().unlock()
            c.stages = ",".join(BROUGHT)
            experiment = Experiment(c.lock(), references)
            models = {name: experiment.model(name) for name in BROUGHT}
            seen = measure.features(experiment.scenario, models)
            if not path.is_file():
                numbers, _ = measure.measure(experiment.scenario, models, seen=seen)
                workdir_lib.write_json(path, numbers)
            self._last = path, kept(path), seen
        return self._last[1:]


def kept(path: Path, field: str | None = None, kind: type = object) -> dict[str, Any]:
    """What an earlier run left in a file.

    Args:
      path: of the file, of JSON.
      field: it must have.
      kind: of that field.

    Raises:
      InputError: the file is damaged.
    """
    try:
        found = workdir_lib.read_json(path)
        if field and not isinstance(found.get(field), kind):
            raise ValueError(f"it has no {field}")
    except ValueError as error:
        remedy = f"is damaged ({error}); delete it and give the same command again"
        raise InputError("workdir", str(path), remedy) from error
    return found


def _measured_file(config: Any, references: Path) -> Path:
    return references / f"measured-{_digest(config, ('evaluation.',))}.json"


def _uses_starts(config: Any) -> bool:
    """A cell's method has a use for modules or a proxy."""
    method = checked(config)[1]
    return method.uses_modules or "proxy" in method.needs


def _is_done(folder: Path, stages: tuple[str, ...]) -> bool:
    """A shared training is complete, and its checkpoints are whole."""
    return (folder / "done").exists() and not any(_damaged(folder, stage) for stage in stages)


def _damaged(workdir: Path, stage: str) -> str:
    """What is wrong with the newest checkpoint of a stage."""
    folder = workdir / "checkpoints" / stage
    step = checkpoint.latest_step(folder)
    return "" if step is None else checkpoint.damage(folder / str(step))


def _digest(config: Any, fields: tuple[str, ...]) -> str:
    """A short name of some fields of a config, alike only where they are."""
    values = {
        field: value
        for field, value in config_lib.flatten(config).items()
        if field.startswith(fields) and not field.startswith(workdir_lib.FREE)
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


def _link(source: Path, stages: tuple[str, ...], workdir: Path) -> None:
    """Puts what was trained elsewhere among a workdir's checkpoints."""
    checkpoints = workdir / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        link, trained = checkpoints / stage, source / "checkpoints" / stage
        if trained.is_dir() and not link.exists():
            link.symlink_to(os.path.relpath(trained.absolute(), checkpoints.resolve()))
