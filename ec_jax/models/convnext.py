"""ConvNeXt, sowing the map of every stage.

Source: Liu et al. 2022 (arXiv 2201.03545). Depth 18 with width 96 is ConvNeXt-T.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ec_jax.models import convolution, transformer
from ec_jax.models.resnet import replace_sown
from ec_jax.models.transformer import POINTS

STAGE_SIZES = {4: (1, 1, 1, 1), 18: (3, 3, 9, 3), 36: (3, 3, 27, 3)}  # depth -> blocks a stage
_EPSILON = 1e-6
_KERNEL = 7
_SCALE = 1e-6  # at which every block starts


class Block(nn.Module):
    """x + scale · mlp(norm(depthwise convolution(x)))."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, h, w, c], as it came in."""
        c = x.shape[-1]
        y = nn.Conv(
            c,
            (_KERNEL, _KERNEL),
            feature_group_count=c,
            dtype=self.dtype,
            kernel_init=transformer.init,
            name="conv",
        )(x)
        y = transformer.LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="norm")(y)
        y = transformer.MLP(self.dtype, name="mlp")(y)
        scale = self.param("scale", nn.initializers.constant(_SCALE), (c,))
        return x + scale.astype(self.dtype).reshape(1, 1, 1, c) * y


class ConvNeXt(transformer.Backbone):
    """ConvNeXt; its depth is a key of ``STAGE_SIZES``.

    Sows into ``intermediates``: the map [b, h, w, c] of every stage and ``pooled`` [b, c], the
    normalised mean of the last one that the head reads.
    """

    depth: int = 18

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, after: str | None = None) -> jax.Array:
        """Maps normalised images [b, h, w, channels] to float32 logits [b, num_classes].

        With ``after``, x is the activation of that point and only the later layers run.
        """
        del train  # nothing here behaves otherwise in training
        norm = partial(transformer.LayerNorm, epsilon=_EPSILON)
        conv = partial(
            convolution.layer, padding="VALID", dtype=self.dtype, kernel_init=transformer.init
        )
        if after is None:
            side = (self.patch, self.patch)
            x = conv(self.width, side, side, name="stem")(x)
            x = norm(dtype=self.dtype, name="stem_norm")(x)
        make = nn.remat(Block) if self.remat else Block
        done = POINTS.index(after) + 1 if after else 0
        for i, blocks in list(enumerate(STAGE_SIZES[self.depth]))[done:]:
            if i:
                x = norm(dtype=self.dtype, name=f"{POINTS[i]}_norm")(x)
                x = conv(self.widths[i], (2, 2), (2, 2), name=f"{POINTS[i]}_merge")(x)
            for j in range(blocks):
                x = make(self.dtype, name=f"{POINTS[i]}_block{j + 1}")(x)
            self.sow("intermediates", POINTS[i], x, reduce_fn=replace_sown)
        pooled = norm(name="norm")(x.astype(jnp.float32).mean((1, 2)))
        self.sow("intermediates", "pooled", pooled, reduce_fn=replace_sown)
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(pooled)
