"""ResNet, sowing the activation of every stage.

Sources: He et al. 2016 (arXiv 1512.03385): basic and bottleneck blocks, the 7x7 stem with pooling
for ImageNet, the 3x3 stem without it for small images (their section 4.2). The stride of a
bottleneck is in its 3x3 convolution, as in torchvision and timm.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ec_jax.models import convolution

# depth -> (blocks of every stage, bottleneck blocks?)
STAGE_SIZES: dict[int, tuple[tuple[int, ...], bool]] = {
    8: ((1, 1, 1), False),
    10: ((1, 1, 1, 1), False),
    14: ((2, 2, 2), False),
    18: ((2, 2, 2, 2), False),
    20: ((3, 3, 3), False),
    26: ((3, 3, 3, 3), False),
    32: ((5, 5, 5), False),
    34: ((3, 4, 6, 3), False),
    44: ((7, 7, 7), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
}
STEMS = ("cifar", "imagenet")
PADDINGS = ("same", "symmetric")

BOTTLENECK_EXPANSION = 4

# He initialisation for ReLU networks, as in the reference implementations.
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")


def batch_norm(train: bool, axis_name: str | None, dtype: Any, **kwargs) -> nn.BatchNorm:
    """BatchNorm whose statistics are those of all devices' images together."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        # Without an axis name every device would use the statistics of its own share.
        axis_name=axis_name if train else None,
        **kwargs,
    )


def replace_sown(_, new):
    """Reduction for ``sow`` that keeps one array instead of a growing tuple."""
    return new


def pad(kind: str, kernel: int) -> Any:
    """The padding of a convolution: XLA's, or PyTorch's with as many zeros on both sides."""
    return "SAME" if kind == "same" else 2 * [(kernel // 2, kernel // 2)]


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or the 1x1-3x3-1x1 bottleneck."""

    width: int
    stride: int
    bottleneck: bool
    dtype: Any
    axis_name: str | None = None
    padding: str = "same"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [b, h, w, c] to [b, h/stride, w/stride, out]."""
        conv = partial(convolution.layer, use_bias=False, dtype=self.dtype, kernel_init=conv_init)
        norm = partial(batch_norm, train, self.axis_name, self.dtype)
        stride = (self.stride, self.stride)
        out = self.width * (BOTTLENECK_EXPANSION if self.bottleneck else 1)
        if self.bottleneck:
            layers = [(self.width, 1, 1), (self.width, 3, stride), (out, 1, 1)]
        else:
            layers = [(self.width, 3, stride), (out, 3, 1)]
        y = x
        for i, (width, kernel, strides) in enumerate(layers):
            if i:
                y = nn.relu(y)
            padding = pad(self.padding, kernel)
            y = norm()(conv(width, (kernel, kernel), strides, padding=padding)(y))
        if x.shape != y.shape:
            x = norm()(conv(out, (1, 1), stride)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet.

    Attributes:
      num_classes: outputs of the head.
      depth: a key of ``STAGE_SIZES``.
      width: channels of the first stage; doubled at every further one.
      dtype: compute type; parameters and logits are float32.
      axis_name: device axis over which BatchNorm's training statistics are averaged.
      stem: ``cifar`` (3x3) or ``imagenet`` (7x7 and 3x3 pooling, either with stride 2).
      padding: where a stride leaves a pixel over, ``same`` pads at the end alone and
        ``symmetric`` on both sides, as PyTorch does.
      remat: blocks keep nothing for the gradient but their input, and are computed again.

    Sows into ``intermediates``: one array [b, h, w, c] a stage under the stage's
    name, and ``pooled`` [b, c], the feature that the head reads.
    """

    num_classes: int
    depth: int = 10
    width: int = 16
    dtype: Any = jnp.float32
    axis_name: str | None = None
    stem: str = "cifar"
    padding: str = "same"
    remat: bool = False

    @property
    def points(self) -> tuple[str, ...]:
        """Names of the supervision points, first to last."""
        return points(self.depth)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at every supervision point."""
        expansion = BOTTLENECK_EXPANSION if STAGE_SIZES[self.depth][1] else 1
        return tuple(self.width * expansion * 2**i for i in range(len(self.points)))

    @property
    def strides(self) -> tuple[int, ...]:
        """By how much every point's map is smaller than the last one's before it."""
        return (1, *(2 for _ in self.points[1:]))

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, after: str | None = None) -> jax.Array:
        """Maps normalised images [b, h, w, channels] to float32 logits [b, num_classes].

        With ``after``, x is the activation of that point and only the later layers run.
        """
        sizes, bottleneck = STAGE_SIZES[self.depth]
        if after is None:
            x = self._stem(x, train)
        done = self.points.index(after) + 1 if after else 0
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for i, blocks in list(enumerate(sizes))[done:]:
            for j in range(blocks):
                x = block(
                    width=self.width * 2**i,
                    stride=2 if i and not j else 1,
                    bottleneck=bottleneck,
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                    padding=self.padding,
                    name=f"{self.points[i]}_block{j + 1}",
                )(x, train)
            self.sow("intermediates", self.points[i], x, reduce_fn=replace_sown)
        # The mean over up to a thousand positions is taken in float32 whatever the compute type.
        pooled = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        self.sow("intermediates", "pooled", pooled, reduce_fn=replace_sown)
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(pooled)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        small = self.stem == "cifar"
        kernel, stride = (3, 1) if small else (7, 2)
        x = convolution.layer(
            self.width,
            (kernel, kernel),
            stride,
            padding=pad(self.padding, kernel),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=conv_init,
            name="stem",
        )(x)
        x = nn.relu(batch_norm(train, self.axis_name, self.dtype, name="stem_norm")(x))
        # Padding is with -inf, so that it never is the largest.
        return x if small else nn.max_pool(x, (3, 3), (2, 2), pad(self.padding, 3))


def points(depth: int) -> Sequence[str]:
    """Names of the supervision points of the ResNet of this depth.

    >>> points(18)
    ('stage1', 'stage2', 'stage3', 'stage4')
    """
    return tuple(f"stage{i + 1}" for i in range(len(STAGE_SIZES[depth][0])))


def readers(depth: int, point: str) -> Sequence[tuple[str, ...]]:
    """Paths, in the backbone's parameters, of the kernels that read a point's activation.

    Of the last point it is the head that reads the spatial mean; of the others the next stage's
    first block, in its first convolution and in its shortcut. The input channels are the
    kernels' last axis but one.

    >>> readers(8, "stage2")
    (('stage3_block1', 'Conv_0', 'kernel'), ('stage3_block1', 'Conv_2', 'kernel'))
    >>> readers(8, "stage3")
    (('head', 'kernel'),)
    """
    names = points(depth)
    following = names[names.index(point) + 1 :]
    if not following:
        return (("head", "kernel"),)
    # Flax numbers the convolutions in the order of their calls; the shortcut's is the last.
    shortcut = 3 if STAGE_SIZES[depth][1] else 2
    convs = ("Conv_0", f"Conv_{shortcut}")
    return tuple((f"{following[0]}_block1", conv, "kernel") for conv in convs)
