"""What vision transformers are made of: attention, the block of two residual branches.

Sources: Vaswani et al. 2017 (arXiv 1706.03762) for attention, Dosovitskiy et al. 2021 (arXiv
2010.11929) for the block with normalisation first.
"""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

POINTS = ("stage1", "stage2", "stage3", "stage4")  # of every family but ResNet
MLP_RATIO = 4
init = nn.initializers.truncated_normal(0.02)


class Backbone(nn.Module):
    """What the families of four stages have in common.

    Attributes:
      num_classes: outputs of the head.
      depth: layers, as the family counts them.
      width: channels of the first stage, doubled at every further one.
      patch: pixels along the side of a patch.
      dtype: compute type; parameters and logits are float32.
      axis_name: as of ResNet; without statistics of a batch it is not used.
      remat: blocks keep nothing for the gradient but their input, and are computed again.
    """

    num_classes: int
    depth: int = 12
    width: int = 96
    patch: int = 4
    dtype: Any = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @property
    def points(self) -> tuple[str, ...]:
        """Names of the supervision points, first to last."""
        return POINTS

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at every supervision point."""
        return tuple(self.width * 2**i for i in range(len(POINTS)))

    @property
    def strides(self) -> tuple[int, ...]:
        """By how much every point's map is smaller than the last one's before it."""
        return (1, 2, 2, 2)


def dense(features: int, dtype: Any, **kwargs) -> nn.Dense:
    """A linear layer as transformers start it."""
    return nn.Dense(features, dtype=dtype, kernel_init=init, dot_general=_dot_general, **kwargs)


def _dot_general(x: jax.Array, kernel: jax.Array, *_: Any, precision: Any = None) -> jax.Array:
    """What ``nn.Dense`` asks of ``lax.dot_general``."""
    del precision  # no layer here asks for one
    return product(x, kernel)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x kernel, of [..., c] and [c, d]; the gradients are as fast as the platform makes them."""
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def _product_backward(
    kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    of_x = jax.lax.dot_general(gradient, kernel, (((gradient.ndim - 1,), (1,)), ((), ())))
    return of_x, jax.lax.platform_dependent(x, gradient, cpu=_over_one_axis, default=_over_axes)


def _over_axes(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """The kernel's gradient, a sum over all axes but the last."""
    axes = tuple(range(x.ndim - 1))
    return jax.lax.dot_general(x, gradient, ((axes, axes), ((), ())))


def _over_one_axis(x: jax.Array, gradient: jax.Array) -> jax.Array:
    # XLA turns what it sums over several axes on a CPU. A TPU would have to turn it to make
    # one axis of them.
    return _over_axes(*(a.reshape(-1, a.shape[-1]) for a in (x, gradient)))


product.defvjp(lambda x, kernel: (product(x, kernel), (x, kernel)), _product_backward)


@jax.checkpoint  # of the forward pass x alone is kept: the rest is cheaper computed than read
def gelu(x: jax.Array) -> jax.Array:
    """GELU with the error function itself, as PyTorch's default is."""
    # jax.nn.gelu takes erfc, which is exact for large negative x, and more work.
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


@jax.custom_vjp
def softmax(x: jax.Array) -> jax.Array:
    """Softmax over the last axis, whose gradient keeps the result alone."""
    return jax.nn.softmax(x)


def _softmax_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = jax.nn.softmax(x)
    return y, y


def _softmax_backward(y: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (y * (gradient - jnp.sum(gradient * y, axis=-1, keepdims=True)),)


softmax.defvjp(_softmax_forward, _softmax_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Layer normalisation over the last axis (Ba et al. 2016, arXiv 1607.06450).

    The gradient keeps the input and two numbers of each row of it: what JAX would derive keeps
    arrays of the input's size in their place.

    Args:
      x: float32 [..., c].
      scale: float32 [c], and so ``bias``.
      bias: added in the end.
      epsilon: added to the variance.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, Any]:
    mean = jnp.mean(x, axis=-1)
    variance = jnp.mean(jnp.square(x), axis=-1) - jnp.square(mean)
    inverse = jax.lax.rsqrt(jnp.maximum(variance, 0.0) + epsilon)
    y = (x - mean[..., None]) * inverse[..., None]
    return y * _as_row(scale, x) + _as_row(bias, x), (x, mean, inverse, scale)


def _layer_norm_backward(epsilon: float, kept: Any, gradient: jax.Array) -> tuple[jax.Array, ...]:
    x, mean, inverse, scale = kept
    # Sums as products with vectors, which a CPU makes fast: XLA's sums of rows are passes of their
    # own. The mean comes off the sums, so that the normalised input is not made once more.
    n = "abdefgh"[: x.ndim - 1]
    over_c = partial(jnp.einsum, f"{n}c,c->{n}", precision=jax.lax.Precision.HIGHEST)
    over_rows = partial(jnp.einsum, f"{n},{n}c->c", precision=jax.lax.Precision.HIGHEST)
    product, share = gradient * x, scale / x.shape[-1]
    shift = over_c(gradient, share)
    slope = jnp.square(inverse) * (over_c(product, share) - mean * shift)
    of_x = gradient * _as_row(scale, x) - shift[..., None]
    of_x = inverse[..., None] * (of_x - (x - mean[..., None]) * slope[..., None])
    of_scale = over_rows(inverse, product) - over_rows(inverse * mean, gradient)
    return of_x, of_scale, jnp.sum(gradient, axis=range(x.ndim - 1))


def _as_row(vector: jax.Array, x: jax.Array) -> jax.Array:
    return vector.reshape(*[1] * (x.ndim - 1), -1)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nn.Module):
    """``layer_norm`` with its parameters ``scale`` and ``bias``, in float32.

    Attributes:
      epsilon: added to the variance.
      dtype: of the result.
    """

    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., c], as it came in."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        return layer_norm(x.astype(jnp.float32), scale, bias, self.epsilon).astype(self.dtype)


def attend(qkv: jax.Array, heads: int, bias: jax.Array | None = None) -> jax.Array:
    """Softmax attention among tokens, the softmax in float32.

    Args:
      qkv: [b, n, 3c], queries, keys and values side by side.
      heads: among which c is divided.
      bias: added to the scaled products, [b or 1, heads, n, n]; None for none.

    Returns:
      [b, n, c].
    """
    b, n, c = *qkv.shape[:2], qkv.shape[2] // 3
    q, k, v = _by_head(qkv, heads)
    q = q * (c // heads) ** -0.5
    scores = _scores(q, k)
    shares = softmax(scores if bias is None else scores + bias).astype(v.dtype)
    return jnp.einsum("bhts,bhsd->bhtd", shares, v).transpose(0, 2, 1, 3).reshape(b, n, c)


@jax.custom_vjp
def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    """q kᵀ, float32 [b, heads, n, n].

    The gradients are products in the type of q and k: a matrix unit takes float32 more slowly.
    """
    return jnp.einsum("bhtd,bhsd->bhts", q, k, preferred_element_type=jnp.float32)


def _scores_backward(
    kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    (q, k), gradient = kept, gradient.astype(kept[0].dtype)
    of_q = jnp.einsum("bhts,bhsd->bhtd", gradient, k)
    return of_q, jnp.einsum("bhts,bhtd->bhsd", gradient, q)


_scores.defvjp(lambda q, k: (_scores(q, k), (q, k)), _scores_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _by_head(qkv: jax.Array, heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values [b, heads, n, c / heads], as they are multiplied.

    The gradient of a part alone would be filled up with zeros to the whole, three times.
    """
    b, n, width = qkv.shape
    return tuple(qkv.reshape(b, n, 3, heads, width // 3 // heads).transpose(2, 0, 3, 1, 4))


def _by_head_backward(heads: int, _: None, parts: tuple[jax.Array, ...]) -> tuple[jax.Array]:
    b, _, n, width = parts[0].shape
    joined = jnp.stack(parts).transpose(1, 3, 0, 2, 4)
    return (joined.reshape(b, n, 3 * heads * width),)


_by_head.defvjp(lambda qkv, heads: (_by_head(qkv, heads), None), _by_head_backward)


class Attention(nn.Module):
    """Multi-head self-attention over [b, n, c]."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, n, c], as it came in."""
        y = attend(dense(3 * x.shape[-1], self.dtype, name="qkv")(x), self.heads)
        return dense(x.shape[-1], self.dtype, name="proj")(y)


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., c], as it came in."""
        y = gelu(dense(MLP_RATIO * x.shape[-1], self.dtype, name="fc1")(x))
        return dense(x.shape[-1], self.dtype, name="fc2")(y)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes:
      attention: the module of the first branch, made with a name.
      epsilon: of both normalisations.
      dtype: compute type.
    """

    attention: Any
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, ..., c], as it came in."""
        norm = partial(LayerNorm, epsilon=self.epsilon, dtype=self.dtype)
        x = x + self.attention(name="attention")(norm(name="norm1")(x))
        return x + MLP(self.dtype, name="mlp")(norm(name="norm2")(x))
