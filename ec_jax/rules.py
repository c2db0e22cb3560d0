"""What a field of the config may hold."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ec_jax import registry
from ec_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Number:
    """A range; ``low`` itself is allowed where ``closed``."""

    low: float
    high: float = math.inf
    closed: bool = True
    below: bool = False  # high itself is not allowed
    integer: bool = False

    def check(self, field: str, value: Any) -> None:
        """Refuses, by an InputError, what is no number of this range."""
        kinds = int if self.integer else (int, float)
        # To Python a bool is an int; to a reader it is not a number.
        if not isinstance(value, kinds) or isinstance(value, bool) or not self._holds(value):
            raise InputError(field, value, f"give {self}")

    def _holds(self, value: float) -> bool:
        above = value >= self.low if self.closed else value > self.low
        under = value < self.high if self.below or math.isinf(self.high) else value <= self.high
        return above and under  # NaN and infinity are neither

    def __str__(self) -> str:
        kind = "an integer" if self.integer else "a number"
        low = f"{kind} {'>=' if self.closed else '>'} {self.low}"
        return (
            low if math.isinf(self.high) else f"{low} and {'<' if self.below else '<='} {self.high}"
        )


INT32 = 2**31 - 1  # steps and seeds are 32-bit in JAX
# {depth: stages} of the networks, by model.name; of vit any depth from 4 has four.
DEPTHS = {
    "resnet": {8: 3, 10: 4, 14: 3, 18: 4, 20: 3, 26: 4, 32: 3, 34: 4, 44: 3, 50: 4, 101: 4},
    "vit": {},
    "swin": {4: 4, 12: 4, 24: 4},
    "convnext": {4: 4, 18: 4, 36: 4},
}
HEADS = {"vit": 64, "swin": 32}  # width of a head of attention
_COUNT = Number(1, INT32, integer=True)
MODEL = {  # rules of the fields alone; ``check_model`` has those between them
    "model.name": tuple(DEPTHS),
    "model.depth": Number(1, 1_000, integer=True),
    "model.width": Number(1, 2**14, integer=True),  # wider ones would not be made in an hour
    "model.stem": ("cifar", "imagenet"),
    "model.padding": ("same", "symmetric"),
    "model.patch": _COUNT,
    "model.remat": (True, False),
    "model.dtype": ("float32", "bfloat16"),
}


def check_model(config: Any) -> None:
    """Refuses fields of the model that do not go together.

    Raises:
      InputError: there is no such depth or width, or the method needs another network.
    """
    model, depths = config.model, DEPTHS[config.model.name]
    if depths and model.depth not in depths:
        listed = ", ".join(map(str, depths))
        raise InputError("model.depth", model.depth, f"of a {model.name} one of {listed}")
    if not depths and model.depth < 4:
        raise InputError("model.depth", model.depth, f"a {model.name} has four stages; at least 4")
    head = HEADS.get(model.name, 1)
    if model.width > head and model.width % head:
        remedy = f"a head of attention has {head} channels; a multiple of it"
        raise InputError("model.width", model.width, remedy)
    if config.method == "damp" and model.name != "resnet":
        remedy = "projects the kernels that read a stage, which here are behind a normalisation"
        raise InputError("method", "damp", f"{remedy}; use another, or model.name=resnet")


def points(model: Any) -> list[str]:
    """Names of the supervision points of a config's model, first to last."""
    return [f"stage{i + 1}" for i in range(DEPTHS[model.name].get(model.depth, 4))]


def check_timm_size(field: str, side: int, patch: int) -> None:
    """Refuses images on which timm's Swin computes something else than ours from the same weights.

    Where windows do not divide a map, or one is larger than it, timm and Microsoft shift before
    they pad, and shrink the window; ours does as torchvision's.

    Args:
      field: that gives the side.
      side: pixels of an image.
      patch: pixels along the side of a patch.

    Raises:
      InputError: some stage's map is not made of whole windows.
    """
    whole = patch * 8 * 7  # the last of four stages is one window
    if side % whole:
        remedy = f"timm's Swin pads and shifts smaller maps in another way; a multiple of {whole}"
        raise InputError(field, side, remedy)


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's mean and deviation
Moments = tuple[tuple[float, ...], tuple[float, ...]]


def moments(spec: str, channels: int) -> Moments | None:
    """Mean and deviation of every channel as ``data.normalize`` says; None: the data's own.

    Args:
      spec: ``data``; ``imagenet``; or the means and deviations of all channels, of values in
        [0, 1], such as ``0.5,0.5,0.5;0.25,0.25,0.25``.
      channels: of an image.

    Raises:
      InputError: it is none of them.

    >>> moments("0.5;0.25", 1)
    ((0.5,), (0.25,))
    """
    if spec == "data":
        return None
    try:
        rows = [row.split(",") for row in spec.split(";")]
        found = IMAGENET if spec == "imagenet" else [tuple(map(float, row)) for row in rows]
    except ValueError:
        found = ()
    good = [len(row) for row in found] == [channels] * 2
    if not good or not all(map(math.isfinite, (*found[0], *found[1]))) or min(found[1]) <= 0:
        numbers = f"{channels} means, a semicolon and {channels} deviations, of values in [0, 1]"
        raise InputError("data.normalize", spec, f"data, imagenet, or {numbers}")
    return tuple(found)


def check_candidates(field: str, value: str, labels: Sequence[int], others: str) -> None:
    """Refuses candidates of a contrast that are the forget images alone and all have one label.

    Args:
      field: of the config.
      value: its candidates.
      labels: that forget images have; none where single images are forgotten.
      others: the values that work.

    Raises:
      InputError: no candidate could ever have another label than an anchor.
    """
    if value == "forget" and len(labels) == 1:
        remedy = "all that is forgotten has one label: no candidate has another, and the loss is "
        remedy += f"identically zero; use {others}, or forget classes of several labels"
        raise InputError(field, value, remedy)


def of_methods(config: Any) -> dict[str, Any]:
    """Rules for the groups of the methods with a name, and for that of the chosen one."""
    rules = {}
    for name in {*registry.names(), config.method}:
        for field, (default, allowed, _) in registry.settings(name).items():
            rules[f"{registry.group(name)}.{field}"] = _of_setting(allowed, default)
    return rules


def _of_setting(text: str, default: Any) -> Any:
    """The rule of a method's setting, as its file states it: ``> 0``, ``[0, 1)``, ``a | b``."""
    if isinstance(default, bool):
        return (True, False)
    if isinstance(default, str):
        return tuple(choice.strip() for choice in text.split("|"))
    integer = isinstance(default, int)
    if text.startswith(">"):
        return Number(float(text.lstrip(">= ")), closed=">=" in text, integer=integer)
    low, high = (float(edge) for edge in text[1:-1].split(","))
    return Number(low, high, text[0] == "[", text[-1] == ")", integer)
