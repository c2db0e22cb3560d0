"""A backbone with its EC modules: one forward pass, every supervision point."""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from ec_jax.models import convnext, resnet, swin, vit
from ec_jax.models import modules as ec_modules

Variables = dict[str, Any]


@flax.struct.dataclass
class Outputs:
    """What a forward pass gives for [b] images.

    Attributes:
      logits: {point: float32 [b, C]}; the last point's are the network's own.
      embeddings: {point: float32 [b, d]}; the last point's is the pooled feature.
      features: {point: float32 [b, c]}: the backbone's own, the spatial mean of each activation.
    """

    logits: dict[str, jax.Array]
    embeddings: dict[str, jax.Array]
    features: dict[str, jax.Array] = flax.struct.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Network:
    """A backbone and, where ``modules`` is given, its EC modules.

    Variables are ``{"params": {"backbone", "modules"}, "batch_stats": {...}}``, without the
    ``modules`` entries where there are none; ``backbone`` alone is the deliverable.
    """

    backbone: nn.Module
    modules: ec_modules.ECModules | None = None

    @property
    def points(self) -> tuple[str, ...]:
        """Names of the supervision points, first to last."""
        return self.backbone.points

    def init(self, key: jax.Array, image_shape: tuple[int, int, int]) -> Variables:
        """Fresh float32 variables for images of shape [h, w, c]."""
        images = jnp.zeros((1, *image_shape), jnp.float32)
        backbone_key, modules_key = jax.random.split(key)
        # The per-device axis does not exist here, and no statistics are taken: train=False.
        kinds = ["params", "batch_stats", "intermediates"]
        made = {"backbone": self.backbone.init(backbone_key, images, train=False, mutable=kinds)}
        activations = made["backbone"].pop("intermediates")
        if self.modules is not None:
            made["modules"] = self.modules.init(modules_key, activations, train=False)
        collections = {"batch_stats", *(name for variables in made.values() for name in variables)}
        return {
            c: {part: variables.get(c, {}) for part, variables in made.items()}
            for c in sorted(collections)
        }

    def apply(
        self, variables: Variables, images: jax.Array, *, train_backbone: bool, train_modules: bool
    ) -> tuple[Outputs, Variables]:
        """One forward pass over normalised images [b, h, w, c].

        Args:
          variables: as ``init`` gives them.
          images: float32 [b, h, w, c].
          train_backbone: BatchNorm of the backbone uses (and updates) batch statistics.
          train_modules: the same for the modules.

        Returns:
          The outputs and the updated ``batch_stats``.
        """
        logits, sown = self.backbone.apply(
            _part(variables, "backbone"),
            images,
            train=train_backbone,
            mutable=["intermediates", "batch_stats"],
        )
        activations = sown["intermediates"]
        embeddings, point_logits = {}, {}
        stats = {"backbone": sown.get("batch_stats", {})}
        if self.modules is not None:
            (embeddings, point_logits), updated = self.modules.apply(
                _part(variables, "modules"),
                activations,
                train=train_modules,
                mutable=["batch_stats"],
            )
            stats["modules"] = updated.get("batch_stats", {})
        last = self.points[-1]
        return Outputs(
            logits={**point_logits, last: logits},
            embeddings={**embeddings, last: activations["pooled"]},
            features={p: ec_modules.spatial_mean(activations[p]) for p in self.points},
        ), stats

    def activations(
        self, variables: Variables, images: jax.Array
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        """({point: the backbone's raw activation}, logits) in inference mode."""
        logits, sown = self.backbone.apply(
            _part(variables, "backbone"), images, train=False, mutable=["intermediates"]
        )
        return {p: sown["intermediates"][p] for p in self.points}, logits

    def after(self, variables: Variables, point: str, activation: jax.Array) -> jax.Array:
        """The backbone's pooled feature, float32 [b, d], from one point's activation on.

        In inference mode. Variables of the layers up to ``point`` are not read, and may be left
        out.

        Args:
          variables: as ``init`` gives them.
          point: a supervision point.
          activation: [b, h, w, c], that point's raw activation.
        """
        _, sown = self.backbone.apply(
            _part(variables, "backbone"),
            activation,
            train=False,
            after=point,
            mutable=["intermediates"],
        )
        return sown["intermediates"]["pooled"]


def _part(variables: Variables, part: str) -> Variables:
    return {c: tree[part] for c, tree in variables.items() if part in tree}


def build(
    model: Any, num_classes: int, *, module_kind: str | None = None, axis_name: str | None = None
) -> Network:
    """The network that a config's ``model`` group names.

    Args:
      model: the group; its fields are described in ``configs/default.py``.
      num_classes: outputs of every head.
      module_kind: a kind of EC module, or None for the backbone alone.
      axis_name: device axis of BatchNorm's training statistics.
    """
    dtype = jnp.dtype(model.dtype)
    backbone = _backbone(model, num_classes, dtype, axis_name)
    if module_kind is None:
        return Network(backbone)
    return Network(
        backbone,
        ec_modules.ECModules(
            module_kind,
            num_classes,
            backbone.points,
            backbone.widths,
            backbone.strides,
            dtype,
            axis_name,
        ),
    )


def _backbone(model: Any, num_classes: int, dtype: Any, axis_name: str | None) -> nn.Module:
    common = {
        "num_classes": num_classes,
        "depth": model.depth,
        "width": model.width,
        "dtype": dtype,
        "axis_name": axis_name,
        "remat": model.remat,
    }
    if model.name == "resnet":
        return resnet.ResNet(**common, stem=model.stem, padding=model.padding)
    kinds = {"vit": vit.ViT, "swin": swin.Swin, "convnext": convnext.ConvNeXt}
    return kinds[model.name](**common, patch=model.patch)


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every array of a tree."""
    return {name: tuple(leaf.shape) for name, leaf in named_arrays(tree).items()}


def named_arrays(tree: Any) -> dict[str, Any]:
    """{name: array, or whatever has a shape} of a tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {"/".join(str(getattr(k, "key", k)) for k in keys): leaf for keys, leaf in leaves}
