"""Unlearning a model of one's own, from Python: any Flax module, arrays, no config file."""

import contextlib
import dataclasses
import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from ec_jax import checkpoint, parallel, processes, recipes
from ec_jax import config as config_lib
from ec_jax.data import arrays
from ec_jax.data.arrays import Examples
from ec_jax.data.sources import Dataset
from ec_jax.errors import InputError
from ec_jax.evaluation.measure import measure
from ec_jax.models import own
from ec_jax.models.modules import ECModules
from ec_jax.models.network import Network, Variables, shapes
from ec_jax.pipeline import Experiment, checked
from ec_jax.report import table
from ec_jax.scenario import Scenario
from ec_jax.workdir import LOCK, contents, locked, read_json, read_metrics, write_json

# Methods that must know how a network is made inside.
UNSUITED = {
    "damp": "it projects the kernels of a ResNet",
    "head_distill": "it must know which layer is the head",
    "pour_d": "it must know which layer is the head",
}
# Fields that the arguments take the place of; of data's the batches and augmentation stay.
_GIVEN = ("model.", "data.", "forget.", "oracle.", "original.checkpoint", "method", "stages")
_GIVEN += ("evaluation.transfer",)
_BATCHES = ("batch_size", "retain_batch_size", "forget_batch_size", "eval_batch_size")
_FREE = (*(f"data.{name}" for name in _BATCHES), "data.augment")
_METRICS = "accuracy,agreement,cka,knn,variance,probe,gap"


@dataclasses.dataclass(frozen=True)
class Unlearned:
    """What came of it.

    Attributes:
      variables: as the model's own: ``params`` and, where it has some, ``batch_stats``.
      metrics: {"original", "unlearned" and, where there is one, "oracle": {key: number}}, see
        docs/metrics.md.
      workdir: where checkpoints and, with an oracle, the report are; None: nothing was kept.
      verdict: with an oracle, one of docs/metrics.md's: ``erased``, ``superficial``, …
    """

    variables: Variables
    metrics: dict[str, dict[str, float]]
    workdir: Path | None
    verdict: str | None = None


def unlearn(
    model: nn.Module,
    variables: Mapping[str, Any],
    *,
    forget: Examples,
    retain: Examples,
    points: Sequence[str] | None = None,
    test: Examples | None = None,
    oracle: Mapping[str, Any] | str | None = None,
    method: str = "ec",
    settings: Mapping[str, Any] | None = None,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    switch: str | None = None,
    workdir: str | Path | None = None,
) -> Unlearned:
    """Takes the forget set out of a trained model.

    Args:
      model: a Flax linen module; ``model.apply(variables, images)`` gives logits [b, C].
      variables: of the trained model; they are not changed.
      forget: images [n, h, w, c] and integer labels [n] of what is to be forgotten. Classes that
        ``retain`` has none of are forgotten as a whole; else these images are.
      retain: images and labels of what is to be kept.
      points: supervision points, first to last, by the names under which the model sows them or
        by its submodules' names; None: all that it sows.
      test: images and labels of both that were not trained on, for the metrics; None: the metrics
        are of the training images alone.
      oracle: variables of a model retrained without the forget set; ``"train"``: one is trained,
        as ``settings`` say of the original (``original.*``). With one there is a verdict, and a
        report in ``workdir``.
      method: as ``config.method``.
      settings: {field of the config: value}: ``{"unlearn.steps": 100, "ec.lambda": 3.0}``; all are
        described in configs/default.py. A method's recipe gives way to them.
      normalize: mean and deviation of every channel, of uint8 images scaled to [0, 1]; None:
        those of these images. Images of floating point are taken as they are.
      switch: the argument of ``model.__call__`` that says whether it trains: ``"train"``,
        ``"deterministic"``, or ``""`` for none; None: whichever of them it has.
      workdir: a new folder, or one of the same call that was cut off, which then goes on; None:
        nothing is kept.

    Returns:
      The variables without what was to be forgotten, and what was measured.

    Raises:
      InputError: names the argument, its value and the remedy.
      TrainingError: training could not go on.
    """
    if not processes.alone():
        remedy = "unlearn runs in one process; use ec_jax.main for several"
        raise InputError("jax.process_count()", jax.process_count(), remedy)
    for name, tree in {"variables": variables, "oracle": oracle}.items():
        if name == "variables" or isinstance(tree, Mapping):
            _check_variables(name, tree)
    if isinstance(oracle, Mapping):
        _check_oracle(oracle, variables)
    elif oracle not in (None, "train"):
        raise InputError("oracle", oracle, 'give variables, "train", or None')
    data, splits, forgotten = arrays.dataset(forget, retain, test)
    metrics = _METRICS if forgotten else f"{_METRICS},mia"  # by which samples are judged
    asked = {"evaluation.metrics": metrics, "parallel.devices": 1, **(settings or {})}
    config = _config(method, asked, oracle)
    config_lib.check_contrast(config, forgotten)
    adapted = own.adapt(model, variables, data.image_shape, points, switch)
    moments = arrays.moments(data.train_images, normalize)
    scenario = OwnScenario(config, adapted, data, splits, forgotten, moments)
    _check_together(scenario, variables, oracle)
    if workdir is not None:
        workdir = Path(workdir).expanduser().absolute()
        contents(workdir)
        with locked(workdir):
            return _run(config, scenario, variables, oracle, workdir)
    if oracle is not None:
        with config.unlocked():  # no report of what is not kept
            config.stages = "original,oracle,proxy,modules,unlearn,evaluate"
    with tempfile.TemporaryDirectory(prefix="ec_jax-") as made:
        found = _run(config, scenario, variables, oracle, Path(made))
        return dataclasses.replace(found, workdir=None)


def _config(method: str, settings: dict[str, Any], oracle: Any) -> Any:
    if method in UNSUITED:
        raise InputError("method", method, f"{UNSUITED[method]}; use another")
    config = config_lib.defaults().unlock()
    known = config_lib.flatten(config)
    for field, value in settings.items():
        if field not in known:
            raise config_lib.no_such_field(field, value, known)
        if field.startswith(_GIVEN) and field not in _FREE:
            raise InputError(field, value, "is given by the arguments of unlearn; leave it out")
    for field, value in {"method": method, **settings}.items():
        try:
            config.update_from_flattened_dict({field: value})
        except (TypeError, ValueError) as error:
            kind = type(known[field]).__name__
            raise InputError(field, value, f"give a value of type {kind}") from error
    config.stages = "all" if oracle is not None else "proxy,modules,unlearn"
    config = recipes.complete(config.lock(), settings)
    config_lib.check_fields(config)
    config_lib.check_alone(config, "ec_jax.unlearn")
    return config


def _check_together(scenario: "OwnScenario", variables: Mapping[str, Any], oracle: Any) -> None:
    """Refuses a method, a module and settings that do not go together."""
    config, model = scenario.config, scenario.model
    config_lib.check_points(config, model.points)
    _, method = checked(config, scenario)
    if method.uses_modules and len(model.points) < 2:
        remedy = f"{config.method} stands on modules at all points but the last; name two or more"
        raise InputError("points", ",".join(model.points), remedy)
    if config.modules.kind == "conv" and (flat := set(model.vectors) & set(model.points[:-1])):
        remedy = f"{sorted(flat)[0]} is a vector, which has no map; use pool or mlp"
        raise InputError("modules.kind", "conv", remedy)
    anew = oracle == "train" or "proxy" in method.needs or method.fresh is not None
    if not anew and config.unlearn.batch_norm != "train":
        return
    what = "training a network anew" if anew else "unlearn.batch_norm=train"
    own.check_training(model, variables, scenario.image_shape, what)
    if variables.get("batch_stats") and scenario.mesh.size > 1:
        remedy = f"BatchNorm of an own module sees one device's images, which {what} would need"
        raise InputError("parallel.devices", config.parallel.devices, f"{remedy}; use 1")


def _check_variables(name: str, tree: Any) -> None:
    if not isinstance(tree, Mapping):
        raise InputError(name, type(tree).__name__, 'give {"params": …} as model.init does')
    if "params" not in tree:
        listed = ", ".join(map(str, sorted(tree)[:3]))
        raise InputError(name, listed, 'has no "params"; give {"params": …} as model.init does')


def _check_oracle(oracle: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
    """Refuses variables that are not of the model's own form."""
    found, wanted = shapes(dict(oracle)), shapes(dict(variables))
    for name in sorted(found.keys() | wanted.keys()):
        here, there = found.get(name, "nothing"), wanted.get(name, "nothing")
        if here != there:
            remedy = f"the model's own is {there}; give variables of the same model"
            raise InputError("oracle", f"{name} {here}", remedy)


class OwnScenario(Scenario):
    """What the arguments of ``unlearn`` say, in the place of a config."""

    def __init__(
        self,
        config: Any,
        model: own.OwnModel,
        data: Dataset,
        splits: Mapping[str, np.ndarray],
        forgotten: tuple[int, ...],
        moments: tuple[np.ndarray, np.ndarray],
    ):
        """Loads nothing: all is given."""
        if len(data.class_names) > model.num_classes:
            remedy = f"the model has {model.num_classes} outputs; labels go up to one less"
            raise InputError("labels", len(data.class_names) - 1, remedy)
        self.config = config
        self.mesh = parallel.make_mesh(config.parallel.devices)
        self.class_names = tuple(map(str, range(model.num_classes)))
        self.forget_classes = self.forget_labels = forgotten
        self.earlier_classes = ()
        self.model, self._of_classes = model, bool(forgotten)
        # In the places of the properties of the same names, which would read a config.
        self.__dict__ |= {"data": data, "splits": dict(splits), "moments": moments}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.data.image_shape

    @property
    def names(self) -> tuple[str, str]:
        """What a report calls the data and the model."""
        return "own data", type(self.model.module).__name__

    @property
    def transfer(self) -> list:
        """No other sets."""
        return []

    def network(self, modules: bool = True) -> Network:
        """The model, with EC modules or without."""
        if not modules:
            return Network(self.model)
        m, kind = self.model, self.config.modules.kind
        made = ECModules(
            kind, m.num_classes, m.points, m.widths, m.strides, axis_name=parallel.AXIS
        )
        return Network(m, made)

    def _before(self) -> dict[str, list]:
        return {}

    def _in_part(self) -> dict[str, str]:
        if self._of_classes:
            return {}
        return {"forget": f"{len(self.splits['forget_train'])} training images"}


def _run(
    config: Any,
    scenario: OwnScenario,
    variables: Mapping[str, Any],
    oracle: Mapping[str, Any] | str | None,
    workdir: Path,
) -> Unlearned:
    given = {"original": variables} | ({"oracle": oracle} if isinstance(oracle, Mapping) else {})
    _check_call(config, scenario, given, workdir)
    config = config.copy_and_resolve_references().unlock()
    for name, tree in given.items():
        folder = workdir / "given" / name
        if not (folder / "model").exists():  # which is there once it is whole
            checkpoint.save_model(folder, _whole(tree))
        config[name].checkpoint = str(folder)
    _tell(config, scenario)
    scenario.config = config = config.lock()
    run = Experiment(config, workdir, scenario=scenario)
    run.run()
    found, verdict = run.model("unlearned"), None
    if oracle is not None:
        metrics = run.metrics()
        judged, _ = table.judged(read_metrics(workdir))
        verdict = judged.name if judged else None
    else:
        models = {"original": _whole(variables), "unlearned": found}
        metrics, _ = measure(scenario, models)
        print(_in_short(metrics["unlearned"]), flush=True)
    kept = {name: tree for name, tree in found.items() if name in variables}
    return Unlearned(kept, metrics, workdir, verdict)


def _in_short(numbers: Mapping[str, float]) -> str:
    """What a model is right on, in one line."""
    told = []
    for what, split in (("forgotten", "forget"), ("kept", "retain")):
        # Of the test images, where there are some.
        found = [numbers.get(f"accuracy/{split}_{part}") for part in ("test", "train")]
        told += [f"{n:.1f} % of the {what}" for n in found if n is not None][:1]
    return f"unlearned: right on {' and '.join(told)} images"


def _tell(config: Any, scenario: OwnScenario) -> None:
    """Puts into a config what was given in the place of its fields, for who reads the report."""
    config.data.name, config.model = "own", {"name": scenario.names[1]}
    config.data.normalize = ";".join(
        ",".join(f"{v:.6g}" for v in np.asarray(row)) for row in scenario.moments
    )
    config.forget.classes = ",".join(map(str, scenario.forget_classes)) or "given images"


def _check_call(
    config: Any, scenario: OwnScenario, given: Mapping[str, Any], workdir: Path
) -> None:
    """Refuses a folder of anything but the very same call."""
    asked = {"sha256": _digest(config, scenario, given)}
    mark = workdir / "given" / "call.json"
    with contextlib.suppress(ValueError):  # a damaged one is not this call's
        if read_json(mark) == asked:
            return
    if contents(workdir) - {LOCK}:
        what = "another call's run" if mark.is_file() else "files that are no call's"
        raise InputError("workdir", str(workdir), f"holds {what}; choose a new folder")
    mark.parent.mkdir(parents=True, exist_ok=True)
    write_json(mark, asked)


def _digest(config: Any, scenario: OwnScenario, given: Mapping[str, Any]) -> str:
    """Of all on which a call's result depends."""
    data = scenario.data
    values = jax.tree.leaves((dict(given), data.train_images, data.train_labels))
    values += [data.test_images, data.test_labels, *scenario.moments]
    found = hashlib.sha256(json.dumps(config_lib.resolved(config), sort_keys=True).encode())
    # A function among a module's fields is told by its place in memory, new in every process.
    named = re.sub(r" at 0x[0-9a-f]+", "", repr((scenario.model, scenario.forget_classes)))
    found.update(named.encode())
    for array in map(np.asarray, [*values, *scenario.splits.values()]):
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _whole(variables: Mapping[str, Any]) -> Variables:
    return {name: jax.device_get(variables.get(name, {})) for name in own.COLLECTIONS}
