"""Convolutions whose gradients a CPU computes fast; elsewhere they are as JAX derives them."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata

Pair = tuple[int, int]
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def layer(features: int, kernel_size: Pair, strides: Any = 1, **kwargs) -> nn.Conv:
    """``nn.Conv`` over maps [b, h, w, c], neither dilated nor in groups.

    Raises:
      ValueError: at its call, where ``kwargs`` ask for that, for a precision, or for as much
        padding as the kernel has rows or columns.
    """
    return nn.Conv(
        features, kernel_size, strides, conv_general_dilated_cls=lambda: _asked, **kwargs
    )


def _asked(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **others: Any) -> jax.Array:
    """What ``nn.Conv`` asks of ``lax.conv_general_dilated``."""
    factors = others["feature_group_count"], *others["lhs_dilation"], *others["rhs_dilation"]
    if set(factors) != {1} or others["precision"] is not None:
        raise ValueError("dilated, in groups or of a precision: use nn.Conv")
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    if any(max(pair) >= size for pair, size in zip(padding, kernel.shape[:2], strict=True)):
        # Some outputs would read nothing; XLA computes their gradients wrong on a CPU (0.10.2).
        raise ValueError(f"padding {padding}: give less than the kernel's {kernel.shape[:2]}")
    return convolve(x, kernel, tuple(strides), tuple(map(tuple, padding)))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, strides: Pair, pads: tuple[Pair, Pair]) -> jax.Array:
    """The convolution of x [b, h, w, c] with a kernel [i, j, c, d].

        y[b, p, q] = Σ_kl x[b, s p + k − top, t q + l − left] kernel[k, l],   x = 0 outside

    Args:
      x: the maps.
      kernel: of the same type.
      strides: (s, t), down and across.
      pads: zeros before and after, down (top, bottom) and across (left, right).

    Returns:
      y [b, h', w', d] of the same type, h' = ⌊(h + top + bottom − i) / s⌋ + 1, w' likewise.
    """
    return _plain(strides, pads, x, kernel)


def _plain(strides: Pair, pads: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_LAYOUT)


def _backward(
    strides: Pair, pads: tuple[Pair, Pair], kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    ways = {"cpu": _on_cpu, "default": _derived}
    ways = {name: partial(way, strides, pads) for name, way in ways.items()}
    return jax.lax.platform_dependent(*kept, gradient, **ways)


convolve.defvjp(lambda x, kernel, *rest: (convolve(x, kernel, *rest), (x, kernel)), _backward)


def _derived(
    strides: Pair, pads: Any, x: jax.Array, kernel: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(partial(_plain, strides, pads), x, kernel)[1](gradient)


def _on_cpu(
    strides: Pair, pads: Any, x: jax.Array, kernel: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # The kernel's gradient is a convolution of turned arrays. XLA joins their turning with what
    # they are computed from, and reads all of that along columns: many times slower than turning
    # alone.
    gradient = _apart(gradient)
    of_x, of_kernel = _derived(strides, pads, _apart(x), kernel, gradient)
    if strides != (1, 1) and all(n % s == 0 for n, s in zip(x.shape[1:3], strides, strict=True)):
        of_x = _of_strided(strides, pads, x.shape, kernel, gradient)
    return of_x, of_kernel


def _apart(x: jax.Array) -> jax.Array:
    """x, computed before all that reads it: a call that XLA keeps as one."""
    with set_xla_metadata(inlineable="false"):
        return jax.jit(jax.lax.optimization_barrier)(x)


def _of_strided(
    strides: Pair, pads: Any, shape: tuple[int, ...], kernel: jax.Array, gradient: jax.Array
) -> jax.Array:
    """The gradient of the input, of a shape that the strides divide.

    JAX puts zeros between the rows and columns of the output's gradient, and convolves them too.
    Here every phase of the input (its rows and columns modulo the strides) is a convolution with
    the part of the kernel that reaches it.
    """
    b, h, w, c = shape
    down, across = strides
    phases = [
        [_of_phase((i, j), strides, pads, shape, kernel, gradient) for j in range(across)]
        for i in range(down)
    ]
    return jnp.stack([jnp.stack(row, 3) for row in phases], 2).reshape(b, h, w, c)


def _of_phase(
    phase: Pair,
    strides: Pair,
    pads: Any,
    shape: tuple[int, ...],
    kernel: jax.Array,
    gradient: jax.Array,
) -> jax.Array:
    b, *size, c = shape
    counts = [n // s for n, s in zip(size, strides, strict=True)]
    part, around = kernel, []
    for axis in (0, 1):
        s, first = strides[axis], phase[axis] + pads[axis][0]
        # Input s·j + phase is reached by tap t from output j + (first − t)/s; last taps first.
        taps = [t for t in range(kernel.shape[axis]) if (first - t) % s == 0][::-1]
        if not taps:
            return jnp.zeros((b, *counts, c), gradient.dtype)
        before = (taps[0] - first) // s
        after = counts[axis] - before + len(taps) - 1 - gradient.shape[1 + axis]
        part = part.take(np.array(taps), axis)
        # Outputs that reach nothing here are cut off: fewer than no zeros around them are computed
        # wrong by XLA on a CPU (jaxlib 0.10.2).
        rows = slice(max(-before, 0), gradient.shape[1 + axis] - max(-after, 0))
        gradient = gradient[(slice(None),) * (1 + axis) + (rows,)]
        if not gradient.size:
            return jnp.zeros((b, *counts, c), gradient.dtype)
        around.append((max(before, 0), max(after, 0)))
    return convolve(gradient, part.swapaxes(2, 3), (1, 1), tuple(around))
