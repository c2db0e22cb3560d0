"""Any Flax module as a backbone: its supervision points are found among its intermediates."""

import dataclasses
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError

from ec_jax.errors import InputError
from ec_jax.models.modules import spatial_mean

COLLECTIONS = ("params", "batch_stats")
SWITCHES = ("train", "deterministic")
POOLED = "pooled"  # what the last point's feature is called inside a network


@dataclasses.dataclass(frozen=True, eq=False)  # the same only as itself: a module's fields may be
class OwnModel:  # lists, which have no hash
    """A Flax module that is used as it is: ``module.apply(variables, images) -> logits [b, C]``.

    Attributes:
      module: the module.
      paths: {point: path} as pairs, first to last; a path is that of what the module sows, or of a
        submodule of which ``capture_intermediates`` takes the output.
      widths: channels of each point.
      strides: by how much a point's map is smaller than the one before.
      num_classes: C.
      switch: the argument that says whether it trains: ``train``, ``deterministic`` or none.
      vectors: points whose activation is [b, c], no map.
    """

    module: nn.Module
    paths: tuple[tuple[str, str], ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    num_classes: int
    switch: str = "train"
    vectors: tuple[str, ...] = ()

    @property
    def points(self) -> tuple[str, ...]:
        """Names of the supervision points, first to last."""
        return tuple(point for point, _ in self.paths)

    def init(self, key: jax.Array, images: jax.Array, *, train: bool, mutable: Any) -> Any:
        """As ``nn.Module.init``."""
        kinds = [kind for kind in mutable if kind != "intermediates"]
        made = self.module.init(
            {"params": key, "dropout": key}, images, **_argument(self.switch, train), mutable=kinds
        )
        made = nn.meta.unbox(made)
        _, sown = self.apply(made, images, train=train, mutable=["intermediates"])
        return {**made, "intermediates": sown["intermediates"]}

    def apply(
        self, variables: Any, images: jax.Array, *, train: bool, mutable: Sequence[str]
    ) -> tuple[jax.Array, dict[str, Any]]:
        """As ``nn.Module.apply``; the intermediates are the points and ``pooled``, float32."""
        logits, sown = _run(self.module, variables, images, train, self.switch, mutable)
        found = flatten(sown.pop("intermediates"))
        points = {point: found[path] for point, path in self.paths}
        pooled = spatial_mean(points[self.points[-1]])
        return logits.astype(jnp.float32), {**sown, "intermediates": {**points, POOLED: pooled}}


def adapt(
    module: nn.Module,
    variables: Mapping[str, Any],
    image_shape: Sequence[int],
    points: Sequence[str] | None = None,
    switch: str | None = None,
) -> OwnModel:
    """A module as a backbone, after a look at what it does; nothing is computed.

    Args:
      module: of whose ``__call__`` images [b, h, w, c] are the first argument.
      variables: its ``params`` and, where it has some, ``batch_stats``.
      image_shape: [h, w, c] of its images.
      points: names of its supervision points, first to last: what it sows, or its submodules,
        such as ``encoder/block3``. None: all that it sows, in that order. The last one should be
        what its head reads, or a map of which the head reads the mean.
      switch: as for ``OwnModel``; None: whichever its ``__call__`` takes.

    Raises:
      InputError: the module cannot be run so, or has no such points.
    """
    if isinstance(points, str):
        raise InputError("points", points, f"give a list of names, such as [{points!r}, …]")
    if switch is None:
        taken = inspect.signature(type(module).__call__).parameters
        switch = next((name for name in SWITCHES if name in taken), "")
    if unknown := sorted(variables.keys() - set(COLLECTIONS)):
        remedy = f"only {' and '.join(COLLECTIONS)} are carried on; leave it out"
        raise InputError("variables", unknown[0], remedy)
    boxed = jax.tree.leaves(variables, is_leaf=lambda v: isinstance(v, nn.meta.AxisMetadata))
    if any(isinstance(leaf, nn.meta.AxisMetadata) for leaf in boxed):
        remedy = "holds boxes with axes' names; give flax.linen.meta.unbox(variables)"
        raise InputError("variables", type(module).__name__, remedy)
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    order: list[str] = []

    def look(variables, images):
        logits, sown = _run(module, variables, images, False, switch, ["intermediates"])
        found = flatten(sown.get("intermediates", {}))
        order.extend(found)  # as it was sown: what comes back of a trace is sorted
        return logits, found

    try:
        logits, found = jax.eval_shape(look, dict(variables), images)
    except TypeError as error:
        raise InputError("model", type(module).__name__, _why(error)) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError("model", type(module).__name__, f"cannot be run: {reason}") from error
    if logits.ndim != 2:
        remedy = f"gives {logits.shape}; its output should be logits [images, classes]"
        raise InputError("model", type(module).__name__, remedy)
    chosen = list(points or [path for path in order if not path.endswith("/__call__")])
    if not chosen:
        remedy = "the module sows nothing; name its submodules: " + ", ".join(_named(order))
        raise InputError("points", points, remedy)
    for i, point in enumerate(chosen):
        if _name(point) in map(_name, chosen[:i]):
            raise InputError("points", point, "is there twice; name every point once")
    paths = tuple((_name(point), _path(point, found, order)) for point in chosen)
    shapes = [found[path].shape for _, path in paths]
    for (point, _), shape in zip(paths[:-1], shapes, strict=False):
        tokens = shape[1] if len(shape) == 3 else 1
        if math.isqrt(tokens) ** 2 not in (tokens, tokens - 1):
            remedy = f"has {tokens} tokens, neither a square nor one more; reshape it to a map"
            raise InputError("points", point, remedy)
    return OwnModel(
        module,
        paths,
        tuple(shape[-1] for shape in shapes),
        tuple(_stride(*pair) for pair in zip([shapes[0], *shapes], shapes, strict=False)),
        logits.shape[-1],
        switch,
        tuple(point for (point, _), shape in zip(paths, shapes, strict=True) if len(shape) == 2),
    )


def check_training(
    model: OwnModel, variables: Mapping[str, Any], image_shape: Sequence[int], what: str
) -> None:
    """Refuses a module that cannot be run as in training; nothing is computed.

    Args:
      model: the adapted module.
      variables: its own.
      image_shape: [h, w, c].
      what: is asked for that trains it so, for the message.

    Raises:
      InputError: it draws random numbers, as dropout does.
    """
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    kinds = ["batch_stats", "intermediates"]
    try:
        jax.eval_shape(
            lambda v, x: model.apply(v, x, train=True, mutable=kinds), dict(variables), images
        )
    except InvalidRngError as error:
        name = type(model.module).__name__
        remedy = f"draws random numbers (dropout) in training, which {what} would need; give an "
        raise InputError(
            "model", name, f"{remedy}oracle's variables, or set dropout to 0"
        ) from error


def _run(module, variables, images, train, switch, mutable):
    kept = _capture if "intermediates" in mutable else False
    return module.apply(
        variables,
        images,
        **_argument(switch, train),
        mutable=list(mutable),
        capture_intermediates=kept,
    )


def _capture(module: nn.Module, method: str) -> bool:
    return method == "__call__" and bool(module.path)  # the module's own output is the logits


def _argument(switch: str, train: bool) -> dict[str, bool]:
    if not switch:
        return {}
    return {switch: (not train) if switch == "deterministic" else train}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{path: the array that was sown last} of a collection of intermediates, as it was sown."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out |= flatten(value, f"{prefix}{key}/")
        else:
            last = value[-1] if isinstance(value, tuple) else value
            if hasattr(last, "ndim") and last.ndim >= 2:
                out[prefix + key] = last
    return out


def _name(point: str) -> str:
    return point.replace("/", ".")  # a slash would cut a metric's key


def _named(order: Sequence[str]) -> list[str]:
    return [path.removesuffix("/__call__") for path in order]


def _path(point: str, found: Mapping[str, Any], order: Sequence[str]) -> str:
    for path in (point, f"{point}/__call__"):
        if path in found:
            return path
    listed = ", ".join(dict.fromkeys(_named(order)))
    raise InputError("points", point, f"the module neither sows it nor has it; there are {listed}")


def _stride(before: Sequence[int], after: Sequence[int]) -> int:
    """Of a map's height; tokens and vectors have none."""
    return max(round(before[1] / after[1]), 1) if len(before) == len(after) == 4 else 1


def _why(error: TypeError) -> str:
    text = " ".join(str(error).split())[:160]
    return f'cannot be called so ({text}); switch="train", "deterministic" or "" says how'
