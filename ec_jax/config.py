"""What a valid config is: every field is checked before any work starts.

Nothing here needs JAX, so that a mistake is answered at once.
"""

import dataclasses
import difflib
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ec_jax.errors import InputError

STAGES = ("original", "oracle", "modules", "unlearn", "evaluate", "report")
# Fields that do not change what a run computes: they may differ between two starts.
FREE = ("stages", "data.data_dir", "data.manual_dir", "checkpoint.", "report.", "parallel.")
_DEPTHS = {8: 3, 10: 4, 14: 3, 18: 4, 20: 3, 26: 4, 32: 3, 34: 4, 44: 3, 50: 4}  # depth: stages


@dataclasses.dataclass(frozen=True)
class _Number:
    """A range; ``low`` itself is allowed where ``closed``."""

    low: float
    high: float = math.inf
    closed: bool = True
    below: bool = False  # high itself is not allowed

    def check(self, field: str, value: Any) -> None:
        inside = value >= self.low if self.closed else value > self.low
        inside &= value < self.high if self.below else value <= self.high
        if not inside or not math.isfinite(value):
            raise InputError(field, value, f"give a number {self}")

    def __str__(self) -> str:
        low = f"{'>=' if self.closed else '>'} {self.low:g}"
        if math.isinf(self.high):
            return low
        return f"{low} and {'<' if self.below else '<='} {self.high:g}"


_AT_LEAST_0, _AT_LEAST_1, _ABOVE_0 = _Number(0), _Number(1), _Number(0, closed=False)
_SEED = _Number(0, 2**31 - 1)


def _optimizer_rules() -> dict[str, Any]:
    return {
        "name": ("sgd", "adamw"),
        "learning_rate": _ABOVE_0,
        "momentum": _Number(0, 1, below=True),
        "weight_decay": _AT_LEAST_0,
        "schedule": ("constant", "linear", "cosine"),
        "warmup_steps": _AT_LEAST_0,
        "clip": _AT_LEAST_0,
    }


def _method_names() -> tuple[str, ...]:
    folder = Path(__file__).parent / "methods"
    return tuple(sorted(p.stem for p in folder.glob("[!_]*.py")))


def _rules() -> dict[str, Any]:
    """{field: choices, a range, or None where a check of its own follows}."""
    rules = {
        "seed": _SEED,
        "stages": None,
        "method": _method_names(),
        "data.name": None,
        "data.data_dir": None,
        "data.manual_dir": None,
        "data.subset": _AT_LEAST_0,
        "data.augment": ("none", "flip", "crop", "crop+flip"),
        "data.batch_size": _AT_LEAST_1,
        "data.retain_batch_size": _AT_LEAST_1,
        "data.forget_batch_size": _AT_LEAST_1,
        "data.eval_batch_size": _AT_LEAST_1,
        "forget.classes": None,
        "forget.seed": _SEED,
        "model.name": ("resnet",),
        "model.depth": tuple(_DEPTHS),
        "model.width": _AT_LEAST_1,
        "model.dtype": ("float32", "bfloat16"),
        "original.checkpoint": None,
        "original.epochs": _ABOVE_0,
        "modules.kind": ("conv", "pool", "mlp"),
        "modules.epochs": _AT_LEAST_0,
        "unlearn.steps": _AT_LEAST_1,
        "unlearn.batch_norm": ("inference", "train"),
        "unlearn.min_spread": _Number(0, 1, below=True),
        "ec.points": None,
        "ec.weights": None,
        "ec.weights_sum": _ABOVE_0,
        "ec.lambda": _AT_LEAST_0,
        "ec.temperature": _ABOVE_0,
        "ec.candidates": ("forget", "retain", "both"),
        "evaluation.features": ("gap", "map"),
        "evaluation.cka_batch_size": _Number(4),
        "evaluation.neighbors": _AT_LEAST_1,
        "parallel.map": ("shard_map", "pmap"),
        "parallel.devices": _AT_LEAST_0,
        "checkpoint.every": _AT_LEAST_1,
        "checkpoint.keep": _AT_LEAST_1,
        "report.log_every": _AT_LEAST_1,
    }
    for group in ("original", "modules", "unlearn"):
        rules |= {f"{group}.optimizer.{k}": v for k, v in _optimizer_rules().items()}
    return rules


def validate(config: Any) -> None:
    """Checks every field, alone and against the others.

    Raises:
      InputError: names the first field that cannot work, its value and the remedy.
    """
    values = flatten(config)
    rules = _rules()
    for field in (*rules, *values):
        if field not in values or field not in rules:
            near = nearest(field, rules)
            raise InputError(
                field,
                values.get(field),
                f"the schema has no such field; {near}"
                if field not in rules
                else "the config lacks this field",
            )
    for field, rule in rules.items():
        if isinstance(rule, _Number):
            rule.check(field, values[field])
        elif rule is not None:
            _check_choice(field, values[field], rule)
    stage_names(config)
    _check_points(config)
    from ec_jax.data import sources

    sources.check(config.data.name, config.data.data_dir, config.data.manual_dir)
    chosen = forget_classes(config)
    if config.ec.candidates == "forget" and len(chosen) == 1:
        raise InputError(
            "ec.candidates",
            "forget",
            "with a single class to forget no candidate is of another class and the loss is "
            "identically zero; use both, or forget several classes",
        )
    if config.parallel.devices:
        check_batches(config, config.parallel.devices)


def _check_choice(field: str, value: Any, choices: Sequence[Any]) -> None:
    if value in choices:
        return
    listed = ", ".join(map(str, choices))
    if isinstance(value, str):
        raise InputError(field, value, f"{nearest(value, choices)} one of {listed}")
    raise InputError(field, value, f"one of {listed}")


def nearest(name: str, names: Sequence[str]) -> str:
    """A question that offers the nearest name."""
    return f"did you mean {difflib.get_close_matches(name, list(names), 1, 0.0)[0]!r}?"


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


def forget_classes(config: Any) -> tuple[int, ...]:
    """The ids of the classes to forget, ascending."""
    from ec_jax.data import sources, splits

    names = sources.class_names(config.data.name)
    return splits.parse_forget(config.forget.classes, names, config.forget.seed)


def _check_points(config: Any) -> None:
    """Points that the model has, and one weight for each of them."""
    points = [f"stage{i + 1}" for i in range(_DEPTHS[config.model.depth])]
    spec = config.ec.points
    chosen = points if spec == "all" else [p.strip() for p in spec.split(",")]
    for point in chosen:
        if point not in points:
            raise InputError(
                "ec.points",
                spec,
                f"the model has no point {point!r}; all, or of {','.join(points)}",
            )
    if len(set(chosen)) != len(chosen):
        raise InputError("ec.points", spec, "names a point twice")
    weights = config.ec.weights
    if weights in ("uniform", "linear", "reversed"):
        return
    try:
        numbers = [float(w) for w in weights.split(",")]
    except ValueError:
        numbers = []
    usable = all(0 <= n < math.inf for n in numbers) and sum(numbers) > 0
    if len(numbers) != len(chosen) or not usable:
        raise InputError(
            "ec.weights",
            weights,
            f"uniform, linear, reversed, or {len(chosen)} numbers separated by commas, none "
            "negative and not all zero",
        )


def check_batches(config: Any, devices: int) -> None:
    """Refuses batch sizes that the devices cannot share equally."""
    for name in ("batch_size", "retain_batch_size", "forget_batch_size", "eval_batch_size"):
        size = config.data[name]
        if size % devices:
            above = -(-size // devices) * devices
            near = above if size < devices else f"{above - devices} or {above}"
            raise InputError(
                f"data.{name}", size, f"is not divisible by {devices} devices; use {near}"
            )


def flatten(config: Any) -> dict[str, Any]:
    """{dotted field: value}."""
    out: dict[str, Any] = {}

    def visit(group: Any, prefix: str) -> None:
        for key in group:
            value = group[key]
            if hasattr(value, "keys"):
                visit(value, f"{prefix}{key}.")
            else:
                out[prefix + key] = value

    visit(config, "")
    return out


def resolved(config: Any) -> dict[str, Any]:
    """The config as nested dictionaries for JSON."""
    return json.loads(config.to_json())


def check_workdir(config: Any, workdir: str | Path) -> None:
    """Refuses a workdir that cannot be written or that belongs to another config.

    Raises:
      InputError: names the folder and the reason, or the first fields that differ.
    """
    workdir = Path(workdir).absolute()
    ancestor = next(p for p in (workdir, *workdir.parents) if p.exists())
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise InputError("workdir", str(workdir), f"cannot be written: {ancestor}; choose another")
    if not workdir.exists() or not any(workdir.iterdir()):
        return
    path = workdir / "config.json"
    if not path.is_file():
        raise InputError("workdir", str(workdir), "holds other files; choose an empty folder")
    try:
        found = flatten(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, OSError) as error:
        raise InputError(
            "workdir", str(workdir), "its config.json cannot be read; choose another folder"
        ) from error
    _check_same(found, flatten(resolved(config)), workdir)


def _check_same(found: dict, wanted: dict, workdir: Path) -> None:
    different = [
        f"{field} is {found.get(field)!r} there and {wanted.get(field)!r} here"
        for field in sorted(found.keys() | wanted.keys())
        if found.get(field) != wanted.get(field) and not field.startswith(FREE)
    ]
    if different:
        more = f" (and {len(different) - 3} more)" if len(different) > 3 else ""
        raise InputError(
            "workdir",
            str(workdir),
            f"belongs to another config: {'; '.join(different[:3])}{more}; choose another folder, "
            "or set the field back",
        )


def write_resolved(config: Any, workdir: Path) -> None:
    """Writes ``config.json``, whole or not at all."""
    write_json(workdir / "config.json", resolved(config))


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    write_whole(path, lambda part: part.write_text(json.dumps(value, indent=2) + "\n"))


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls ``write`` on a temporary name and renames the file when it is complete."""
    part = path.with_name(path.name + ".part")
    write(part)
    os.replace(part, path)
