"""How PyTorch names the weights of our networks: one table of pairs a family and layout.

Layouts: ``torchvision`` and ``timm``; of Swin also ``microsoft``, the naming of its authors' code
and of timm before 0.9, of ConvNeXt ``facebook``, that of its authors, and of ViT ``uuef``, that of
the code of arXiv 2503.06991, which cuts patches by a linear layer (its LayerNorm adds
1e-5 where ours adds 1e-6: logits differ in the fourth digit). Of ResNet all are the same.
A table's entry is (path in our variables, name in the state dict, kind), where the kind says how an
array is turned: see ``TURNS``.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from ec_jax.models import convnext, resnet, swin

Entry = tuple[tuple[str, ...], str, str]
LAYOUTS = {
    "resnet": ("torchvision", "timm"),
    "vit": ("torchvision", "timm", "uuef"),
    "swin": ("torchvision", "timm", "microsoft"),
    "convnext": ("torchvision", "timm", "facebook"),
}
# {kind: (from PyTorch's array to ours, and back)}
TURNS = {
    "as it is": (lambda a: a, lambda a: a),
    "conv": (lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1)),
    "dense": (np.transpose, np.transpose),
    # timm and Facebook have a vector, torchvision [c, 1, 1].
    "scale map": (lambda a: a.reshape(-1), lambda a: a.reshape(-1, 1, 1)),
    # A linear layer over the pixels of a patch: row by row, the three colours of each.
    "patches": (
        lambda a: a.T.reshape(*(math.isqrt(a.shape[1] // 3),) * 2, 3, -1),
        lambda a: a.reshape(-1, a.shape[-1]).T,
    ),
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a state dict's names and shapes say of its network.

    Attributes:
      name: ``resnet``, ``vit``, ``swin`` or ``convnext``.
      depth: as the field ``model.depth``.
      width: as ``model.width``.
      stem: as ``model.stem``; of a ResNet alone.
      patch: as ``model.patch``; of the others.
      num_classes: outputs of the head.
      layout: whose names they are.
    """

    name: str
    depth: int
    width: int
    num_classes: int
    layout: str
    stem: str = "imagenet"
    patch: int = 0


def entries(name: str, depth: int, layout: str) -> list[Entry]:
    """The table of a network, sorted by nothing but its layers' order.

    Args:
      name: of the family.
      depth: as the field ``model.depth``.
      layout: one of ``LAYOUTS[name]``.
    """
    return list(_FAMILIES[name](depth, layout))


def _layer(ours: str, theirs: str, kind: str = "dense", bias: bool = True) -> Iterator[Entry]:
    path = ("params", *ours.split("/"))
    yield (*path, "kernel"), f"{theirs}.weight", kind
    if bias:
        yield (*path, "bias"), f"{theirs}.bias", "as it is"


def _norm(ours: str, theirs: str) -> Iterator[Entry]:
    path = ours.split("/")
    yield ("params", *path, "scale"), f"{theirs}.weight", "as it is"
    yield ("params", *path, "bias"), f"{theirs}.bias", "as it is"


def _batch_norm(ours: str, theirs: str) -> Iterator[Entry]:
    yield from _norm(ours, theirs)
    path = ours.split("/")
    yield ("batch_stats", *path, "mean"), f"{theirs}.running_mean", "as it is"
    yield ("batch_stats", *path, "var"), f"{theirs}.running_var", "as it is"


def _resnet(depth: int, layout: str) -> Iterator[Entry]:
    del layout  # torchvision's and timm's are the same
    sizes, bottleneck = resnet.STAGE_SIZES[depth]
    yield from _layer("stem", "conv1", "conv", bias=False)
    yield from _batch_norm("stem_norm", "bn1")
    for i, blocks in enumerate(sizes, 1):
        for j in range(blocks):
            ours, theirs, convs = f"stage{i}_block{j + 1}", f"layer{i}.{j}", 3 if bottleneck else 2
            for k in range(convs):
                yield from _layer(f"{ours}/Conv_{k}", f"{theirs}.conv{k + 1}", "conv", bias=False)
                yield from _batch_norm(f"{ours}/BatchNorm_{k}", f"{theirs}.bn{k + 1}")
            if j == 0 and (i > 1 or bottleneck):
                yield from _layer(f"{ours}/Conv_{convs}", f"{theirs}.downsample.0", "conv", False)
                yield from _batch_norm(f"{ours}/BatchNorm_{convs}", f"{theirs}.downsample.1")
    yield from _layer("head", "fc")


def _vit(depth: int, layout: str) -> Iterator[Entry]:
    tv = layout == "torchvision"
    yield ("params", "class_token"), "class_token" if tv else "cls_token", "as it is"
    positions = "encoder.pos_embedding" if tv else "pos_embed"
    yield ("params", "positions"), positions, "as it is"
    if layout == "uuef":
        yield from _layer("stem", "patch_embed.1", "patches")
    else:
        yield from _layer("stem", "conv_proj" if tv else "patch_embed.proj", "conv")
    for i in range(depth):
        ours = f"block{i + 1}"
        theirs = f"encoder.layers.encoder_layer_{i}" if tv else f"blocks.{i}"
        yield from _norm(f"{ours}/norm1", f"{theirs}.{'ln_1' if tv else 'norm1'}")
        if tv:
            qkv = ("params", ours, "attention", "qkv")
            yield (*qkv, "kernel"), f"{theirs}.self_attention.in_proj_weight", "dense"
            yield (*qkv, "bias"), f"{theirs}.self_attention.in_proj_bias", "as it is"
        else:
            yield from _layer(f"{ours}/attention/qkv", f"{theirs}.attn.qkv")
        proj = "self_attention.out_proj" if tv else "attn.proj"
        yield from _layer(f"{ours}/attention/proj", f"{theirs}.{proj}")
        yield from _norm(f"{ours}/norm2", f"{theirs}.{'ln_2' if tv else 'norm2'}")
        yield from _mlp(ours, theirs, "mlp.0" if tv else "mlp.fc1", "mlp.3" if tv else "mlp.fc2")
    yield from _norm("norm", "encoder.ln" if tv else "norm")
    yield from _layer("head", "heads.head" if tv else "head")


def _mlp(ours: str, theirs: str, first: str, second: str) -> Iterator[Entry]:
    yield from _layer(f"{ours}/mlp/fc1", f"{theirs}.{first}")
    yield from _layer(f"{ours}/mlp/fc2", f"{theirs}.{second}")


def _swin(depth: int, layout: str) -> Iterator[Entry]:
    tv = layout == "torchvision"
    yield from _layer("stem", "features.0.0" if tv else "patch_embed.proj", "conv")
    yield from _norm("stem_norm", "features.0.2" if tv else "patch_embed.norm")
    for i, blocks in enumerate(swin.STAGE_SIZES[depth]):
        stage = f"features.{2 * i + 1}" if tv else f"layers.{i}.blocks"
        if i:
            merge = f"layers.{i if layout == 'timm' else i - 1}.downsample"
            merge = f"features.{2 * i}" if tv else merge
            ours = f"stage{i + 1}_merge"
            yield from _norm(f"{ours}/norm", f"{merge}.norm")
            yield from _layer(f"{ours}/reduce", f"{merge}.reduction", bias=False)
        for j in range(blocks):
            ours, theirs = f"stage{i + 1}_block{j + 1}", f"{stage}.{j}"
            yield from _norm(f"{ours}/norm1", f"{theirs}.norm1")
            table = ("params", ours, "attention", "bias")
            yield table, f"{theirs}.attn.relative_position_bias_table", "as it is"
            yield from _layer(f"{ours}/attention/qkv", f"{theirs}.attn.qkv")
            yield from _layer(f"{ours}/attention/proj", f"{theirs}.attn.proj")
            yield from _norm(f"{ours}/norm2", f"{theirs}.norm2")
            names = ("mlp.0", "mlp.3") if tv else ("mlp.fc1", "mlp.fc2")
            yield from _mlp(ours, theirs, *names)
    yield from _norm("norm", "norm")
    yield from _layer("head", "head.fc" if layout == "timm" else "head")


def _convnext(depth: int, layout: str) -> Iterator[Entry]:
    tv, timm = layout == "torchvision", layout == "timm"
    stem = "features.0" if tv else "stem" if timm else "downsample_layers.0"
    yield from _layer("stem", f"{stem}.0", "conv")
    yield from _norm("stem_norm", f"{stem}.1")
    block = ("block.0", "block.2", "block.3", "block.5") if tv else ()
    block = block or ("conv_dw", "norm", "mlp.fc1", "mlp.fc2") if timm or tv else block
    conv, norm, first, second = block or ("dwconv", "norm", "pwconv1", "pwconv2")
    for i, blocks in enumerate(convnext.STAGE_SIZES[depth]):
        if i:
            merge = f"stages.{i}.downsample" if timm else f"downsample_layers.{i}"
            merge = f"features.{2 * i}" if tv else merge
            yield from _norm(f"stage{i + 1}_norm", f"{merge}.0")
            yield from _layer(f"stage{i + 1}_merge", f"{merge}.1", "conv")
        stage = f"stages.{i}.blocks" if timm else f"stages.{i}"
        stage = f"features.{2 * i + 1}" if tv else stage
        for j in range(blocks):
            ours, theirs = f"stage{i + 1}_block{j + 1}", f"{stage}.{j}"
            scale = ("layer_scale", "scale map") if tv else ("gamma", "as it is")
            yield ("params", ours, "scale"), f"{theirs}.{scale[0]}", scale[1]
            yield from _layer(f"{ours}/conv", f"{theirs}.{conv}", "conv")
            yield from _norm(f"{ours}/norm", f"{theirs}.{norm}")
            yield from _mlp(ours, theirs, first, second)
    norm, head = ("classifier.0", "classifier.2") if tv else ("norm", "head")
    yield from _norm("norm", "head.norm" if timm else norm)
    yield from _layer("head", "head.fc" if timm else head)


_FAMILIES = {"resnet": _resnet, "vit": _vit, "swin": _swin, "convnext": _convnext}
