"""What a valid config is: every field is checked before any work starts.

Nothing here needs JAX, so that a mistake is answered at once.
"""

import json
import math
import re
import runpy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ec_jax import data_config, recipes, registry, rules
from ec_jax.errors import InputError, nearest
from ec_jax.recipes import flatten
from ec_jax.rules import Number

STAGES = ("original", "oracle", "proxy", "modules", "unlearn", "evaluate", "report")
_METRICS = "accuracy agreement cka knn variance probe misalignment mia recovery idi rus gap"
METRICS = tuple(_METRICS.split())  # those of ec_jax/evaluation/suite.py
WEIGHTS = ("uniform", "linear", "geometric", "reversed", "late")  # named layer weights


# What each of several processes may have for itself.
_OWN = (
    *("data.data_dir", "data.manual_dir", "evaluation.transfer_dir"),
    *("parallel.coordinator", "parallel.process"),
)
_COUNT, _COUNT_OR_0 = (Number(low, rules.INT32, integer=True) for low in (1, 0))
_AT_LEAST_0, _ABOVE_0 = Number(0), Number(0, closed=False)


def _optimizer_rules() -> dict[str, Any]:
    return {
        "name": ("sgd", "adamw"),
        "learning_rate": _ABOVE_0,
        "momentum": Number(0, 1, below=True),
        "weight_decay": _AT_LEAST_0,
        "schedule": ("constant", "linear", "cosine"),
        "warmup_steps": _COUNT_OR_0,
        "clip": _AT_LEAST_0,
    }


def _rules() -> dict[str, Any]:
    """{field: choices, a range, or str where a check of its own follows}."""
    found = {
        "seed": _COUNT_OR_0,
        "stages": str,
        "method": str,
        "data.name": str,
        "data.data_dir": str,
        "data.manual_dir": str,
        "data.groups": str,
        "data.validation": Number(0, 1, below=True),
        "data.subset": _COUNT_OR_0,
        "data.image_size": _COUNT_OR_0,
        "data.resize": _COUNT,
        "data.damaged": ("refuse", "skip"),
        "data.normalize": str,
        "data.augment": ("none", "flip", "crop", "crop+flip"),
        "data.batch_size": _COUNT,
        "data.retain_batch_size": _COUNT,
        "data.forget_batch_size": _COUNT,
        "data.eval_batch_size": _COUNT,
        "forget.classes": str,
        "forget.earlier": str,
        "forget.seed": _COUNT_OR_0,
        **rules.MODEL,
        "original.checkpoint": str,
        "original.epochs": _ABOVE_0,
        "oracle.checkpoint": str,
        "modules.kind": ("conv", "pool", "mlp"),
        "modules.epochs": _AT_LEAST_0,
        "proxy.share": Number(0, 1, closed=False),
        "unlearn.steps": _COUNT,
        "unlearn.batch_norm": ("inference", "train"),
        "unlearn.min_spread": Number(0, 1, below=True),
        "ec.points": str,
        "ec.weights": str,
        "ec.weights_sum": _ABOVE_0,
        "ec.lambda": _AT_LEAST_0,
        "ec.temperature": _ABOVE_0,
        "ec.candidates": ("forget", "retain", "both"),
        "ec.gather": ("float32", "bfloat16"),
        "ec.targets": ("all", "pseudo"),
        "ec.pseudo": _AT_LEAST_0,
        "ec.proxy": _AT_LEAST_0,
        "ec.calibrated": (True, False),
        "ec.plugin": (True, False),
        "ec.weight": _AT_LEAST_0,
        "ec.include_head": (True, False),
        "evaluation.metrics": str,
        "evaluation.features": ("gap", "map"),
        "evaluation.train_images": _COUNT_OR_0,
        "evaluation.transfer": str,
        "evaluation.transfer_dir": str,
        "evaluation.cka_batch_size": Number(4, rules.INT32, integer=True),
        "evaluation.neighbors": _COUNT,
        "evaluation.recovery_fraction": Number(0, 1, closed=False),
        "evaluation.recovery_images": _COUNT,
        "evaluation.recovery_steps": _COUNT,
        "evaluation.idi_seeds": _COUNT,
        "evaluation.idi_steps": _COUNT,
        "evaluation.idi_images": Number(64, rules.INT32, integer=True),
        "parallel.map": ("shard_map", "pmap"),
        "parallel.devices": _COUNT_OR_0,
        "parallel.at_once": _COUNT_OR_0,
        "parallel.coordinator": str,
        "parallel.processes": _COUNT,
        "parallel.process": _COUNT_OR_0,
        "checkpoint.every": _COUNT,
        "checkpoint.keep": _COUNT,
        "report.log_every": _COUNT,
        "report.profile": _COUNT_OR_0,
    }
    for group in ("original", "modules", "unlearn"):
        found |= {f"{group}.optimizer.{k}": v for k, v in _optimizer_rules().items()}
    return found


def defaults() -> Any:
    """The default config, from its file: a program may have a package ``configs`` of its own."""
    path = Path(__file__).parent.parent / "configs" / "default.py"
    return runpy.run_path(str(path))["get_config"]()


def validate(config: Any, *, data_there: bool = True) -> None:
    """Checks every field, alone and against the others.

    Args:
      config: complete.
      data_there: the sets are looked for, too.

    Raises:
      InputError: names the first field that cannot work, its value and the remedy.
    """
    check_fields(config)
    rules.check_model(config)
    check_points(config, rules.points(config.model))
    data_config.check(config)
    asked = data_config.requests(config)
    if len(asked) > 1:
        _check_sequence(config)
    for request in asked:
        check_contrast(config, data_config.labels(config, request))
    if config.parallel.devices:
        check_batches(config, config.parallel.devices)
    if data_there:
        data_config.check_there(config)  # last: it takes the longest


def without_commas(config: Any) -> set[str]:
    """The fields in whose values a comma means nothing: numbers, switches, one of a few words."""
    found = _rules() | rules.of_methods(config)
    return {"method"} | {field for field, rule in found.items() if rule is not str}


def check_contrast(config: Any, forgotten: Sequence[int]) -> None:
    """Refuses candidates of EC's contrast with which it would be zero.

    Args:
      config: of whose group ``ec`` it is.
      forgotten: labels that are forgotten as a whole.
    """
    if config.ec.targets == "pseudo" and config.ec.candidates == "forget":
        remedy = "no forget sample is of the class that another is drawn to; use both or retain"
        raise InputError("ec.candidates", "forget", f"with ec.targets=pseudo {remedy}")
    rules.check_candidates("ec.candidates", config.ec.candidates, forgotten, "both")


def no_such_field(field: str, value: Any, known: Iterable[str]) -> InputError:
    """The error of a field that there is not."""
    return InputError(field, value, f"no such field; {nearest(field, list(known))}")


def check_fields(config: Any) -> None:
    """Refuses values of fields that cannot work whatever the data and the model are.

    Raises:
      InputError: names the first such field, its value and the remedy.
    """
    recipes.check_method(config.get("method"))
    _check_fields(flatten(config), _rules() | rules.of_methods(config))
    stage_names(config)
    _check_metrics(config.evaluation.metrics)
    _check_maps(config)
    _check_similarity(config)
    _check_processes(config.parallel)


_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^:\s]+):([0-9]{1,5})")  # HOST:PORT, [::1]:PORT


def _check_processes(parallel: Any) -> None:
    """Several processes, each told where the first one is and which one it is itself."""
    where, count, this = parallel.coordinator, parallel.processes, parallel.process
    found = _ADDRESS.fullmatch(where)
    if where not in ("", "auto") and not (found and 0 < int(found[2]) < 2**16):
        remedy = "give HOST:PORT of the first process, auto where the cluster says it, or nothing"
        raise InputError("parallel.coordinator", where, remedy)
    if count > 1 and where in ("", "auto"):
        remedy = "is for parallel.coordinator=HOST:PORT"
        raise InputError("parallel.processes", count, f"{remedy}; set that too, or leave this at 1")
    if this >= count:
        remedy = f"with parallel.processes={count} they are 0 to {count - 1}"
        raise InputError("parallel.process", this, remedy)
    if parallel.devices % count:
        remedy = f"{count} processes have equal shares; use a multiple, or 0 for all"
        raise InputError("parallel.devices", parallel.devices, remedy)
    if where and parallel.map == "pmap":
        remedy = "is of one process alone; use shard_map, which computes the same"
        raise InputError("parallel.map", "pmap", remedy)


def check_alone(config: Any, command: str) -> None:
    """Refuses several processes for a command that runs in one.

    Args:
      config: valid.
      command: what the user calls it.
    """
    if config.parallel.coordinator:
        remedy = f"{command} runs in one process; leave it empty"
        raise InputError("parallel.coordinator", config.parallel.coordinator, remedy)


def _check_fields(values: dict[str, Any], rules: dict[str, Any]) -> None:
    """Each field alone: it exists, and its value has the type and the range it must have."""
    for field, value in values.items():
        if field not in rules and not field.startswith("recipes."):
            raise no_such_field(field, value, rules)
    for field, rule in rules.items():
        if field not in values:
            raise InputError(field, None, "the config lacks this field; see configs/default.py")
        value = values[field]
        if isinstance(rule, Number):
            rule.check(field, value)
        elif rule is not str:
            _check_choice(field, value, rule)
        elif not isinstance(value, str):
            raise InputError(field, value, "give text")


def _check_maps(config: Any) -> None:
    size = config.data.eval_batch_size
    if config.evaluation.features == "map" and size < 4:
        remedy = "with evaluation.features=map it is a minibatch of unbiased CKA; at least 4"
        raise InputError("data.eval_batch_size", size, remedy)


def _check_similarity(config: Any) -> None:
    """The similarity of a forget batch has an unbiased estimate, where one is taken."""
    size = config.data.forget_batch_size
    if config.ec.calibrated and size < 4:
        remedy = "ec.calibrated measures unbiased CKA on it; at least 4"
        raise InputError("data.forget_batch_size", size, remedy)


def _check_sequence(config: Any) -> None:
    """Every request has an oracle of its own, and starts from the last one's result."""
    if config.oracle.checkpoint:
        remedy = "every request of a sequence has an oracle of its own; leave it empty"
        raise InputError("oracle.checkpoint", config.oracle.checkpoint, remedy)
    if stage_names(config) != STAGES:
        remedy = "every request of a sequence runs all stages; use all"
        raise InputError("stages", config.stages, remedy)


def _check_choice(field: str, value: Any, choices: Sequence[Any]) -> None:
    if any(value == choice and type(value) is type(choice) for choice in choices):
        return
    listed = ", ".join(map(str, choices))
    named = isinstance(value, str) and all(isinstance(c, str) for c in choices)
    near = f"{nearest(value, choices)} " if named else ""
    raise InputError(field, value, f"{near}one of {listed}")


def stage_names(config: Any) -> tuple[str, ...]:
    """The stages asked for, in the order in which they run.

    Raises:
      InputError: a stage that does not exist, or none.
    """
    if config.stages == "all":
        return STAGES
    asked = [s.strip() for s in config.stages.split(",") if s.strip()]
    for stage in asked:
        if stage not in STAGES:
            near = nearest(stage, STAGES)
            raise InputError(
                "stages", config.stages, f"no stage {stage!r}; {near} one of {', '.join(STAGES)}"
            )
    if not asked:
        raise InputError("stages", config.stages, f"names no stage; all, or of {', '.join(STAGES)}")
    return tuple(s for s in STAGES if s in asked)


def check_points(config: Any, points: Sequence[str]) -> None:
    """Refuses ``ec.points`` that are not the model's, in its order, with a weight for each.

    Args:
      config: of whose group ``ec`` it is.
      points: of the model, first to last.
    """
    spec = config.ec.points
    # Blanks are not stripped: the method would look for a point of that name.
    chosen = list(points) if spec == "all" else spec.split(",")
    for point in chosen:
        if point not in points:
            listed = ",".join(points)
            raise InputError(
                "ec.points", spec, f"the model has no point {point!r}; all, or of {listed}"
            )
    ordered = [p for p in points if p in chosen]
    if chosen != ordered:  # a list of weights would go with other points than it stands beside
        raise InputError(
            "ec.points", spec, f"name each point once, in the model's order: {','.join(ordered)}"
        )
    _check_weights(config.ec.weights, len(chosen))


def metric_names(config: Any) -> tuple[str, ...]:
    """The metrics asked for."""
    spec = config.evaluation.metrics
    return METRICS if spec == "all" else tuple(spec.split(","))


def _check_metrics(spec: str) -> None:
    for name in [] if spec == "all" else spec.split(","):
        if name not in METRICS:
            near = f"{nearest(name, METRICS)} all, or of {','.join(METRICS)}"
            raise InputError("evaluation.metrics", spec, f"there is no metric {name!r}; {near}")


def _check_weights(spec: str, count: int) -> None:
    if spec in WEIGHTS:
        return
    try:
        numbers = [float(w) for w in spec.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(n >= 0 for n in numbers) or not 0 < sum(numbers) < math.inf:
        raise InputError(
            "ec.weights",
            spec,
            f"{', '.join(WEIGHTS)}, or {count} finite numbers separated by commas, none "
            "negative and not all zero",
        )


def check_batches(config: Any, devices: int) -> None:
    """Refuses batches of training that the devices cannot share equally."""
    for name in ("batch_size", "retain_batch_size", "forget_batch_size"):
        size = config.data[name]
        if size % devices:
            above = -(-size // devices) * devices
            near = above if size < devices else f"{above - devices} or {above}"
            raise InputError(
                f"data.{name}", size, f"is not divisible by {devices} devices; use {near}"
            )


def in_common(config: Any) -> dict[str, str]:
    """{field: its value as text} of what the processes of one run must agree in."""
    fields = flatten(resolved(config))
    return {name: repr(value) for name, value in fields.items() if name not in _OWN}


def resolved(config: Any) -> dict[str, Any]:
    """The config as nested dictionaries for JSON, without the groups of methods not chosen."""
    whole = json.loads(config.to_json())
    unused = {registry.group(n) for n in registry.names() if registry.settings(n)}
    unused = (unused | {"recipes"}) - {registry.group(config.method)}
    return {key: value for key, value in whole.items() if key not in unused}
