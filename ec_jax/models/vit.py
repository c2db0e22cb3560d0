"""Vision transformer, sowing the tokens after four of its blocks.

Source: Dosovitskiy et al. 2021 (arXiv 2010.11929); Ti and S after Touvron et al. 2021 (arXiv
2012.12877). Depth 12 with width 192, 384 and 768 are ViT-Ti, ViT-S and ViT-B.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from ec_jax.models import transformer
from ec_jax.models.resnet import replace_sown
from ec_jax.models.transformer import POINTS

HEAD_WIDTH = 64
_EPSILON = 1e-6


class ViT(transformer.Backbone):
    """Vision transformer with a class token; its depth is its blocks, at least four.

    A stage is a quarter of the blocks, and all have the first one's width; a head of attention has
    64 channels, or all.

    Sows into ``intermediates``: the tokens [b, 1 + n, c] after every stage, the class token first,
    and ``pooled`` [b, c], the normalised class token that the head reads.
    """

    width: int = 192
    patch: int = 16

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at every supervision point."""
        return (self.width,) * len(POINTS)

    @property
    def strides(self) -> tuple[int, ...]:
        """No stage has fewer tokens than the one before."""
        return (1,) * len(POINTS)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, after: str | None = None) -> jax.Array:
        """Maps normalised images [b, h, w, channels] to float32 logits [b, num_classes].

        With ``after``, x is the activation of that point and only the later layers run.
        """
        del train  # nothing here behaves otherwise in training
        if after is None:
            x = self._tokens(x)
        make = nn.remat(transformer.Block) if self.remat else transformer.Block
        heads = max(self.width // HEAD_WIDTH, 1)
        attention = partial(transformer.Attention, heads, self.dtype)
        ends = [self.depth * (i + 1) // len(POINTS) for i in range(len(POINTS))]
        start = ends[POINTS.index(after)] if after else 0
        for i in range(start, self.depth):
            x = make(attention, _EPSILON, self.dtype, name=f"block{i + 1}")(x)
            if i + 1 in ends:
                point = POINTS[ends.index(i + 1)]
                self.sow("intermediates", point, x, reduce_fn=replace_sown)
        pooled = transformer.LayerNorm(epsilon=_EPSILON, name="norm")(x[:, 0].astype(jnp.float32))
        self.sow("intermediates", "pooled", pooled, reduce_fn=replace_sown)
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(pooled)

    def _tokens(self, x: jax.Array) -> jax.Array:
        """Patches as tokens, with the class token before them and their positions added."""
        side = (self.patch, self.patch)
        x = nn.Conv(self.width, side, side, padding="VALID", dtype=self.dtype, name="stem")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        first = self.param("class_token", nn.initializers.zeros_init(), (1, 1, self.width))
        shape = (1, 1 + x.shape[1], self.width)
        positions = self.param("positions", transformer.init, shape)
        first = jnp.broadcast_to(first, (x.shape[0], 1, self.width)).astype(self.dtype)
        return jnp.concatenate([first, x], 1) + positions.astype(self.dtype)
