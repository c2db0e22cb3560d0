"""Weights of PyTorch's models as ours, and ours as theirs; arrays alone, no PyTorch needed."""

import dataclasses
import math
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ec_jax.models import convnext, network, resnet, swin
from ec_jax.models.torch_layouts import LAYOUTS, TURNS, Architecture, entries

Variables = dict[str, Any]
State = dict[str, np.ndarray]
# Buffers that hold nothing learned: they follow from the architecture.
_DERIVED = re.compile(r"(^|\.)(num_batches_tracked|relative_position_index|attn_mask)$")
_ALIASES = (  # of the CIFAR ResNets that are passed around
    (re.compile(r"^(layer\d+\.\d+)\.shortcut\."), r"\1.downsample."),
    (re.compile(r"^linear\."), "fc."),
    (re.compile(r"^classifier\.(weight|bias)$"), r"head.\1"),  # of UUEF's ConvNeXt
)
_WIDE_HEADS = (1280, 1408, 1664)  # ViT-H, -g and -G, whose heads have 80, 88 and 104 channels
_SHOWN = 8  # names in a message
_SIDE = 224  # of an image, where weights do not depend on it


class UnknownWeightsError(ValueError):
    """A state dict that is no network of ours; the message names what does not fit."""


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
    """The network that a state dict is of.

    Args:
      shapes: {name: shape} of its arrays, wrappers and prefixes taken off.

    Raises:
      UnknownWeightsError: it is none of ours.
    """
    shapes = {_name(key): shape for key, shape in shapes.items()}
    for find in (_resnet, _vit, _swin, _convnext):
        try:
            if found := find(shapes):
                return found
        except KeyError as error:
            why = f"it has the names of a {find.__name__[1:]}, but lacks {error.args[0]}"
            raise UnknownWeightsError(why) from error
    names = ", ".join(list(shapes)[:_SHOWN])
    raise UnknownWeightsError(f"none of {', '.join(LAYOUTS)} has such names: {names}, …")


def _name(key: str) -> str:
    for pattern, name in _ALIASES:
        key = pattern.sub(name, key)
    return key


def _count(shapes: Iterable[str], pattern: str) -> int:
    """How many different first groups of the pattern there are."""
    found = (re.match(pattern, key) for key in shapes)
    return len({match.group(1) for match in found if match})


def _depth(sizes: Mapping[int, Any], blocks: Any) -> int:
    """The depth with these blocks a stage."""
    for depth, found in sizes.items():
        if found == blocks:
            return depth
    raise UnknownWeightsError(f"none of that family has {blocks} blocks a stage")


def _stages(shapes: Mapping[str, Any], pattern: str, numbers: Iterable[int]) -> tuple[int, ...]:
    return tuple(_count(shapes, pattern.format(i)) for i in numbers)


def _resnet(shapes: Mapping[str, tuple[int, ...]]) -> Architecture | None:
    if "layer1.0.conv1.weight" not in shapes:
        return None
    counts = _stages(shapes, r"layer{}\.(\d+)\.", range(1, 6))
    blocks = tuple(c for c in counts if c)
    kind = (blocks, "layer1.0.conv3.weight" in shapes)
    stem = shapes["conv1.weight"]
    return Architecture(
        "resnet",
        _depth(resnet.STAGE_SIZES, kind),
        stem[0],
        shapes["fc.weight"][0],
        "torchvision",
        stem="cifar" if stem[-1] == 3 else "imagenet",
    )


def _vit(shapes: Mapping[str, tuple[int, ...]]) -> Architecture | None:
    if "encoder.pos_embedding" in shapes:
        layout, stem, head = "torchvision", "conv_proj.weight", "heads.head.weight"
        depth = _count(shapes, r"encoder\.layers\.encoder_layer_(\d+)\.")
    elif "cls_token" in shapes and "pos_embed" in shapes:
        layout, stem, head = "timm", "patch_embed.proj.weight", "head.weight"
        depth = _count(shapes, r"blocks\.(\d+)\.")
        if "patch_embed.1.weight" in shapes:
            layout, stem = "uuef", "patch_embed.1.weight"
    else:
        return None
    found = _patched("vit", depth, shapes[stem], shapes[head], layout)
    if found.width in _WIDE_HEADS:
        raise UnknownWeightsError(f"a ViT of width {found.width} has heads that are not 64 wide")
    if layout == "uuef":  # whose layer is [width, patch² · 3]
        return dataclasses.replace(found, patch=math.isqrt(found.patch // 3))
    return found


def _patched(
    name: str, depth: int, stem: Sequence[int], head: Sequence[int], layout: str
) -> Architecture:
    """A network whose first layer, [width, ..., patch], cuts patches."""
    return Architecture(name, depth, stem[0], head[0], layout, patch=stem[-1])


def _swin(shapes: Mapping[str, tuple[int, ...]]) -> Architecture | None:
    if "features.1.0.attn.qkv.weight" in shapes:
        layout, stem, head = "torchvision", "features.0.0.weight", "head.weight"
        blocks = _stages(shapes, r"features\.{}\.(\d+)\.", (1, 3, 5, 7))
    elif "layers.0.blocks.0.attn.qkv.weight" in shapes:
        layout = "microsoft" if "layers.0.downsample.norm.weight" in shapes else "timm"
        head = "head.weight" if layout == "microsoft" else "head.fc.weight"
        stem = "patch_embed.proj.weight"
        blocks = _stages(shapes, r"layers\.{}\.blocks\.(\d+)\.", range(4))
    else:
        return None
    depth = _depth(swin.STAGE_SIZES, blocks)
    return _patched("swin", depth, shapes[stem], shapes[head], layout)


def _convnext(shapes: Mapping[str, tuple[int, ...]]) -> Architecture | None:
    if "features.1.0.block.0.weight" in shapes:
        layout, stem, head = "torchvision", "features.0.0.weight", "classifier.2.weight"
        blocks = _stages(shapes, r"features\.{}\.(\d+)\.", (1, 3, 5, 7))
    elif "stages.0.blocks.0.conv_dw.weight" in shapes:
        layout, stem, head = "timm", "stem.0.weight", "head.fc.weight"
        blocks = _stages(shapes, r"stages\.{}\.blocks\.(\d+)\.", range(4))
    elif "stages.0.0.dwconv.weight" in shapes:
        layout, stem, head = "facebook", "downsample_layers.0.0.weight", "head.weight"
        blocks = _stages(shapes, r"stages\.{}\.(\d+)\.", range(4))
    else:
        return None
    depth = _depth(convnext.STAGE_SIZES, blocks)
    return _patched("convnext", depth, shapes[stem], shapes[head], layout)


def to_variables(state: Mapping[str, np.ndarray], architecture: Architecture) -> Variables:
    """Our backbone's float32 {"params", "batch_stats"} of a state dict.

    Args:
      state: {name: array}, wrappers and prefixes taken off.
      architecture: as ``recognise`` gives it.

    Raises:
      UnknownWeightsError: names are missing or left over; all are counted, the first shown.
    """
    missing, left = apart(state, architecture)
    if missing or left:
        told = _listed("missing", missing), _listed("unknown", left)
        raise UnknownWeightsError("; ".join(filter(None, told)))
    state = {_name(key): array for key, array in state.items()}
    table = entries(architecture.name, architecture.depth, architecture.layout)
    flat = {ours: _ours(state[theirs], kind) for ours, theirs, kind in table}
    variables = {"batch_stats": {}, **traverse_util.unflatten_dict(flat)}
    _check_shapes(variables, architecture)
    return variables


def _check_shapes(variables: Variables, a: Architecture) -> None:
    """Refuses a relative of a network of ours: the same names, and other sizes."""
    fields = {"name": a.name, "depth": a.depth, "width": a.width, "patch": a.patch}
    fields |= {"stem": a.stem, "padding": "symmetric", "remat": False, "dtype": "float32"}
    net = network.build(types.SimpleNamespace(**fields), a.num_classes).backbone
    params = variables["params"]
    side = _SIDE
    if a.name == "vit":  # the only one that is of one size of images
        side = math.isqrt(params["positions"].shape[1] - 1) * a.patch
    image = jnp.zeros((1, side, side, params["stem"]["kernel"].shape[-2]))
    wanted = jax.eval_shape(lambda key: net.init(key, image, train=False), jax.random.key(0))
    found = traverse_util.flatten_dict({"params": params, "batch_stats": variables["batch_stats"]})
    for path, like in traverse_util.flatten_dict(
        {kind: wanted.get(kind, {}) for kind in ("params", "batch_stats")}
    ).items():
        if found[path].shape != like.shape:
            told = f"{'/'.join(path[1:])} is {found[path].shape} there and {like.shape} in ours"
            raise UnknownWeightsError(told)


def apart(names: Iterable[str], architecture: Architecture) -> tuple[list[str], list[str]]:
    """(names of the network's that are not among these, names here that are not the network's)."""
    found = {_name(key) for key in names}
    wanted = {
        theirs
        for _, theirs, _ in entries(architecture.name, architecture.depth, architecture.layout)
    }
    left = (key for key in found - wanted if not _DERIVED.search(key))
    return sorted(wanted - found), sorted(left)


def _ours(array: np.ndarray, kind: str) -> np.ndarray:
    return np.ascontiguousarray(TURNS[kind][0](np.asarray(array, np.float32)))


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what}: {', '.join(names[:_SHOWN])}{more}"


def of_variables(variables: Variables, layout: str) -> Architecture:
    """The network that a backbone's variables are of, to be named as a layout does.

    Args:
      variables: {"params", …}, or their shapes.
      layout: a layout of the network's.

    Raises:
      UnknownWeightsError: they are none of our networks', or the layout is not one of it.
    """
    try:
        found = _architecture(variables["params"], layout)
    except (KeyError, TypeError, AttributeError) as error:
        told = "it is no network of ours, but perhaps a module of your own"
        raise UnknownWeightsError(told) from error
    if layout not in LAYOUTS[found.name]:
        listed = ", ".join(LAYOUTS[found.name])
        raise UnknownWeightsError(f"a {found.name} has no layout {layout!r}; one of {listed}")
    return found


def _architecture(params: Mapping[str, Any], layout: str) -> Architecture:
    stem, classes = params["stem"]["kernel"].shape, params["head"]["kernel"].shape[-1]
    blocks = _stages(params, r"stage{}_block(\d+)$", range(1, 6))
    blocks = tuple(count for count in blocks if count)
    first = params.get("stage1_block1", {})
    if "Conv_0" in first:
        bottleneck = first["Conv_0"]["kernel"].shape[0] == 1
        depth = _depth(resnet.STAGE_SIZES, (blocks, bottleneck))
        kind = "cifar" if stem[0] == 3 else "imagenet"
        return Architecture("resnet", depth, stem[-1], classes, layout, stem=kind)
    if "class_token" in params:
        depth = _count(params, r"block(\d+)$")
        return Architecture("vit", depth, stem[-1], classes, layout, patch=stem[0])
    name, sizes = "swin", swin.STAGE_SIZES
    if "attention" not in first:
        name, sizes = "convnext", convnext.STAGE_SIZES
    return Architecture(name, _depth(sizes, blocks), stem[-1], classes, layout, patch=stem[0])


def to_state(variables: Variables, architecture: Architecture) -> State:
    """The state dict that PyTorch's own class loads, buffers and all.

    Args:
      variables: the backbone's {"params", "batch_stats"}.
      architecture: of the network; its layout says whose names are wanted.
    """
    flat = traverse_util.flatten_dict(variables)
    table = entries(architecture.name, architecture.depth, architecture.layout)
    state = {theirs: _theirs(flat[ours], kind) for ours, theirs, kind in table}
    return state | _buffers(state, architecture)


def _theirs(array: Any, kind: str) -> np.ndarray:
    return np.ascontiguousarray(TURNS[kind][1](np.asarray(array, np.float32)))


def _buffers(state: State, architecture: Architecture) -> State:
    """What PyTorch's classes keep beside what is learned."""
    found = {}
    for key in state:
        stem, _, last = key.rpartition(".")
        if last == "running_mean":
            found[f"{stem}.num_batches_tracked"] = np.zeros((), np.int64)
        if last == "relative_position_bias_table" and architecture.layout == "torchvision":
            index = swin.offsets().astype(np.int64).reshape(-1)
            found[f"{stem}.relative_position_index"] = index
    return found
