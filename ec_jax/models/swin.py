"""Swin transformer, sowing the map of every stage.

Source: Liu et al. 2021 (arXiv 2103.14030). Depth 12 with width 96 is Swin-T. Maps that windows do
not divide are padded, and a map within one window is not shifted, as in torchvision and timm.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ec_jax.models import transformer
from ec_jax.models.resnet import replace_sown
from ec_jax.models.transformer import POINTS

STAGE_SIZES = {4: (1, 1, 1, 1), 12: (2, 2, 6, 2), 24: (2, 2, 18, 2)}  # depth -> blocks a stage
HEAD_WIDTH = 32
WINDOW = 7
_EPSILON = 1e-5
_FAR = -100.0  # added between tokens that a cyclic shift alone made neighbours


class WindowAttention(nn.Module):
    """Self-attention within (shifted) windows of a map, with a bias for every offset.

    Attributes:
      heads: among which the channels are divided.
      shift: by how much windows are moved.
      dtype: compute type.
    """

    heads: int
    shift: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, h, w, c], as it came in."""
        b, h, w, c = x.shape
        table = self.param("bias", transformer.init, ((2 * WINDOW - 1) ** 2, self.heads))
        bias = table[offsets()].transpose(2, 0, 1)[None]  # [1, heads, n, n]
        tall, wide = (-(-side // WINDOW) * WINDOW for side in (h, w))
        shift = [self.shift if side > WINDOW else 0 for side in (tall, wide)]
        x = jnp.pad(x, ((0, 0), (0, tall - h), (0, wide - w), (0, 0)))
        if any(shift):
            x = jnp.roll(x, [-s for s in shift], (1, 2))
            bias = bias + _apart(tall, wide, *shift)[:, None]
        qkv = transformer.dense(3 * c, self.dtype, name="qkv")(_windows(x))
        y = jax.vmap(partial(transformer.attend, heads=self.heads, bias=bias.astype(self.dtype)))(
            qkv.reshape(b, -1, WINDOW**2, 3 * c)
        )
        y = transformer.dense(c, self.dtype, name="proj")(y)
        y = y.reshape(b, tall // WINDOW, wide // WINDOW, WINDOW, WINDOW, c)
        y = y.transpose(0, 1, 3, 2, 4, 5).reshape(b, tall, wide, c)
        return jnp.roll(y, shift, (1, 2))[:, :h, :w]


def _windows(x: Any) -> Any:
    """[b, h, w, c] as [b * windows, window², c], row by row."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW**2, c)


def offsets() -> np.ndarray:
    """int [n, n]: which row of the bias table is that of two tokens of a window."""
    place = np.stack(np.unravel_index(np.arange(WINDOW**2), (WINDOW, WINDOW)), -1)
    down, right = np.moveaxis(place[:, None] - place[None] + WINDOW - 1, -1, 0)
    return down * (2 * WINDOW - 1) + right


def _apart(tall: int, wide: int, down: int, right: int) -> np.ndarray:
    """float32 [windows, n, n]: what keeps apart tokens that were no neighbours before a shift."""

    def part(side, shift):
        place = np.arange(side)
        return (place >= side - WINDOW) * 1 + (place >= side - shift) * (shift > 0)

    parts = 3 * part(tall, down)[:, None] + part(wide, right)[None]
    found = _windows(parts[None, ..., None])[..., 0]
    return np.where(found[:, :, None] == found[:, None], 0.0, _FAR).astype(np.float32)


class Merge(nn.Module):
    """Four neighbours become one token of twice the width."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, h, w, c] as [b, h/2, w/2, 2c], rounded up."""
        b, h, w, c = x.shape
        x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
        x = x.reshape(b, (h + 1) // 2, 2, (w + 1) // 2, 2, c)
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(b, (h + 1) // 2, (w + 1) // 2, 4 * c)
        x = transformer.LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="norm")(x)
        return transformer.dense(2 * c, self.dtype, use_bias=False, name="reduce")(x)


class Swin(transformer.Backbone):
    """Swin transformer; its depth is a key of ``STAGE_SIZES``.

    A head of attention has 32 channels, or all.

    Sows into ``intermediates``: the map [b, h, w, c] of every stage, before it is merged, and
    ``pooled`` [b, c], the mean of the normalised last one that the head reads.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, after: str | None = None) -> jax.Array:
        """Maps normalised images [b, h, w, channels] to float32 logits [b, num_classes].

        With ``after``, x is the activation of that point and only the later layers run.
        """
        del train  # nothing here behaves otherwise in training
        norm = partial(transformer.LayerNorm, epsilon=_EPSILON)
        if after is None:
            side = (self.patch, self.patch)
            x = nn.Conv(self.width, side, side, padding="VALID", dtype=self.dtype, name="stem")(x)
            x = norm(dtype=self.dtype, name="stem_norm")(x)
        make = nn.remat(transformer.Block) if self.remat else transformer.Block
        done = POINTS.index(after) + 1 if after else 0
        for i, blocks in list(enumerate(STAGE_SIZES[self.depth]))[done:]:
            if i:
                x = Merge(self.dtype, name=f"{POINTS[i]}_merge")(x)
            heads = max(self.widths[i] // HEAD_WIDTH, 1)
            for j in range(blocks):
                shift = WINDOW // 2 if j % 2 else 0
                attention = partial(WindowAttention, heads, shift, self.dtype)
                x = make(attention, _EPSILON, self.dtype, name=f"{POINTS[i]}_block{j + 1}")(x)
            self.sow("intermediates", POINTS[i], x, reduce_fn=replace_sown)
        pooled = norm(name="norm")(x.astype(jnp.float32)).mean((1, 2))
        self.sow("intermediates", "pooled", pooled, reduce_fn=replace_sown)
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(pooled)
