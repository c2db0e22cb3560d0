"""EC modules: what reads a class out of an intermediate activation.

A module turns a stage's activation into an embedding and classifies it. The paper
attaches modules to the intermediate layers; their inside is our choice
(docs/method.md): after deeply supervised and self-distilling networks,
Lee et al. 2015 (arXiv 1409.5185) and Zhang et al. 2019 (arXiv 1905.08094).
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ec_jax.models import convolution
from ec_jax.models.resnet import batch_norm, conv_init

KINDS = ("conv", "pool", "mlp")


def spatial_mean(x: jax.Array) -> jax.Array:
    """[b, ..., c] as float32 [b, c]: a large map is summed in float32 whatever its type."""
    return jnp.mean(x.astype(jnp.float32), axis=tuple(range(1, x.ndim - 1)))


class ECModule(nn.Module):
    """One auxiliary module A_l with its linear classifier c_l.

    Attributes:
      kind: ``conv`` (3x3 convolutions down to the last stage's resolution and width, then the
        spatial mean), ``pool`` (the spatial mean alone) or ``mlp`` (the spatial mean, then one
        hidden layer of the last stage's width).
      num_classes: outputs of the classifier.
      widths: channels of the later points; a ``conv`` module has one convolution for each.
      strides: of these convolutions: by how much a point's map is smaller than the one before.
      dtype: compute type of the convolutions.
      axis_name: device axis of BatchNorm's training statistics.
    """

    kind: str
    num_classes: int
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps an activation to (embedding [b, d], logits [b, C]), both float32.

        An activation is a map [b, h, w, c]; tokens [b, n, c] of a square of patches, where a class
        token before them is not read; or, unless ``kind`` is ``conv``, a vector [b, c].
        """
        if x.ndim == 3:
            side = math.isqrt(x.shape[1])
            x = x[:, -side * side :].reshape(x.shape[0], side, side, x.shape[2])
        if self.kind == "conv":
            for width, stride in zip(self.widths, self.strides, strict=True):
                x = convolution.layer(
                    width, (3, 3), stride, use_bias=False, dtype=self.dtype, kernel_init=conv_init
                )(x)
                x = nn.relu(batch_norm(train, self.axis_name, self.dtype)(x))
        embedding = spatial_mean(x)
        if self.kind == "mlp":
            embedding = nn.relu(nn.Dense(self.widths[-1], dtype=jnp.float32)(embedding))
        return embedding, nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(embedding)


class ECModules(nn.Module):
    """The modules of all points but the last, whose place the network's own head takes.

    Attributes: ``points``, ``widths`` and ``strides`` are those of the backbone; the rest as in
    ``ECModule``.
    """

    kind: str
    num_classes: int
    points: tuple[str, ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, activations: dict[str, jax.Array], train: bool
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Maps {point: activation} to ({point: embedding}, {point: logits})."""
        embeddings, logits = {}, {}
        for i, point in enumerate(self.points[:-1]):
            module = ECModule(
                self.kind,
                self.num_classes,
                self.widths[i + 1 :],
                self.strides[i + 1 :],
                self.dtype,
                self.axis_name,
                name=point,
            )
            embeddings[point], logits[point] = module(activations[point], train)
        return embeddings, logits
