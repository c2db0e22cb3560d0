"""What CKA is made of: features and kernels, centred, in float32 without leaving its range.

CKA depends on the scale of neither representation. Everything is therefore divided by a power
of two, which is exact, before it is multiplied: fourth powers of the features are summed.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

SMALLEST_BATCH = 4  # the unbiased estimator divides by n − 3
_HALVINGS = 2  # of a symmetric product: at n = 512 a third one costs more than it saves
_SMALLEST_BLOCK = 128
_HIGHEST = jax.lax.Precision.HIGHEST  # the default of TPUs and GPUs rounds inputs to 10 bits
_EPSILON = float(np.finfo(np.float32).eps)
# Rounding of a sum or difference, in units of the largest term; seen: below 4 at n = 4,000.
_NOISE = 16 * _EPSILON

Blocks = list[tuple[float, jax.Array]]


def flat(x: jax.Array, mask: jax.Array) -> jax.Array:
    """[n, ...] as float32 [n, d]; rows that are not valid are zero, whatever they hold."""
    n = x.shape[0]
    x = jnp.asarray(x, jnp.float32).reshape(n, math.prod(x.shape[1:]))
    return jnp.where(mask[:, None], x, 0.0)


def unit_of(x: jax.Array) -> jax.Array:
    """The largest power of two <= max |x|: float32 scalar, 0 if x is zero, inf if not finite."""
    largest = jnp.max(jnp.abs(x), initial=0.0)
    exponent = jax.lax.bitcast_convert_type(largest, jnp.uint32) & np.uint32(0x7F800000)
    return jax.lax.bitcast_convert_type(exponent, jnp.float32)


def over(x: jax.Array, unit: jax.Array) -> jax.Array:
    """x / unit; x where the unit is 0, the unit of zeros."""
    return x / jnp.where(unit == 0, 1.0, unit)


def scaled(x: jax.Array) -> jax.Array:
    """x in its own unit: entries below 2."""
    return over(x, unit_of(x))


def centre(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Removes the mean of the valid rows.

    Args:
      x: float32 [n, d].
      mask: bool [n], the valid rows.

    Returns:
      float32 [n, d], its other rows zero, and the mean as two terms, [d] each.
    """
    n, d = x.shape
    if not n:
        return x, (jnp.zeros(d, jnp.float32),) * 2
    # A valid row goes first: constant features become exactly zero, which the rounded mean
    # alone would not give, and a large mean costs no digits.
    valid, first = mask[:, None], x[jnp.argmax(mask)]
    x = jnp.where(valid, x - first[None], 0.0)
    count = jnp.maximum(jnp.sum(mask.astype(jnp.float32)), 1.0)
    mean = jnp.sum(x, axis=0) / count
    return jnp.where(valid, x - mean[None], 0.0), (first, mean)


def centred(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Centred features in units of their own.

    Args:
      x: [n, ...]; trailing axes are flattened.
      mask: bool [n], the valid rows.

    Returns:
      float32 [n, d] with entries below 2, and the unit: the centred features are the product.
    """
    x = flat(x, mask)
    if not x.shape[0]:
        return x, jnp.zeros((), jnp.float32)
    # Rounding keeps the order, so a column's extremes stay its extremes: looking at them spares
    # reading all entries once more for each unit.
    padded = jnp.where(mask[:, None], x, x[jnp.argmax(mask)][None])
    extremes = jnp.stack([jnp.max(padded, axis=0), jnp.min(padded, axis=0)])
    unit = unit_of(extremes)  # before centring: differences and sums of large entries overflow
    x, (first, mean) = centre(over(x, unit), mask)
    # After centring, too: a large mean leaves small entries.
    spread = unit_of(over(extremes, unit) - first[None] - mean[None])
    return over(x, spread), unit * spread


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """The matrix product in full float32."""
    return jnp.matmul(a, b, precision=_HIGHEST)


def gram(x: jax.Array) -> jax.Array:
    """XXᵀ of [n, d]."""
    return product(x, x.T)


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """⟨A, B⟩ = tr(AᵀB) in full float32."""
    return jnp.vdot(a, b, precision=_HIGHEST)


def half_gram(x: jax.Array, halvings: int = _HALVINGS) -> Blocks:
    """XXᵀ of [n, d] without most of what symmetry repeats: 5/8 of it, where n is large.

    Returns:
      Blocks, and how often each stands in the matrix: 1.0 on the diagonal, 2.0 beside it.
    """
    half = x.shape[0] // 2
    if not halvings or half < _SMALLEST_BLOCK:
        return [(1.0, gram(x))]
    first, second = x[:half], x[half:]
    rest = [*half_gram(first, halvings - 1), *half_gram(second, halvings - 1)]
    return [(2.0, product(first, second.T)), *rest]


def half_dot(a: Blocks, b: Blocks) -> jax.Array:
    """⟨A, B⟩ of two symmetric matrices as ``half_gram`` gives them: float32 scalar."""
    return sum(times * dot(p, q) for (times, p), (_, q) in zip(a, b, strict=True))


def rbf(x: jax.Array, fraction: jax.Array) -> jax.Array:
    """Gaussian kernel exp(−d²_ij / 2σ²), σ² = fraction × median of d²_ij over i ≠ j.

    Args:
      x: float32 [n, d], n >= 2, centred and scaled.
      fraction: float32 scalar, > 0.

    Returns:
      float32 [n, n]; less one, which centring removes, where fraction >= 1: entries near
      one would keep few digits of what tells them apart. Where the median is 0, the limit of
      a narrow bandwidth: whether rows are equal.
    """
    n = x.shape[0]
    square = gram(x)
    norms = jnp.diagonal(square)
    sums = norms[:, None] + norms[None]
    distance = sums - 2 * square
    # Distances of equal rows are rounding of their norms; they may be negative too.
    distance = jnp.where(distance <= _NOISE * sums, 0.0, distance)
    off = ~jnp.eye(n, dtype=bool)
    ordered = jnp.sort(jnp.where(off, distance, -1.0).ravel())[n:]  # the diagonal comes first
    middle = n * (n - 1) // 2
    median = (ordered[middle - 1] + ordered[middle]) / 2
    # The median first: its product with a small fraction may round to zero.
    narrow = median == 0
    relative = distance / jnp.where(narrow, 1.0, median)
    exponent = jnp.where(
        off & (relative != 0),
        jnp.where(narrow, -jnp.inf, -relative / (2 * fraction)),
        0.0,
    )
    return jnp.where(fraction >= 1, jnp.expm1(exponent), jnp.exp(exponent))


def double_centred(kernel: jax.Array) -> jax.Array:
    """HKH, H = I − 11ᵀ/n, of a symmetric [n, n]; n = 0 is allowed."""
    means = jnp.sum(kernel, axis=1) / max(kernel.shape[0], 1)
    return kernel - means[:, None] - means[None] + jnp.sum(means) / max(kernel.shape[0], 1)


def u_centred(kernel: jax.Array, mask: jax.Array) -> jax.Array:
    """A_ij = K_ij − K_i·/(n−2) − K_·j/(n−2) + K_··/((n−1)(n−2)) for valid i ≠ j, else 0.

    The sums K_i·, K_·j, K_·· leave the diagonal out.

    Args:
      kernel: float32 [n, n], symmetric.
      mask: bool [n], the valid rows; below, n is their number.

    Returns:
      float32 [n, n]; exactly zero if no entry exceeds its rounding: examples that are all
      equally far from one another, whose HSIC₁ is 0, would else be compared by noise.

    Source: Székely and Rizzo 2014, arXiv 1310.2926, definition 2.
    """
    n = jnp.maximum(jnp.sum(mask.astype(jnp.float32)), SMALLEST_BATCH)
    pairs = mask[:, None] & mask[None] & ~jnp.eye(kernel.shape[0], dtype=bool)
    norms = jnp.sqrt(jnp.abs(jnp.diagonal(kernel)))  # K_ij is a sum of terms that may cancel
    kernel = jnp.where(pairs, kernel, 0.0)
    sums = jnp.sum(kernel, axis=1) / (n - 2)
    total = jnp.sum(sums) / (n - 1)
    out = jnp.where(pairs, kernel - sums[:, None] - sums[None] + total, 0.0)
    rounded = jnp.maximum(jnp.abs(kernel), jnp.where(pairs, norms[:, None] * norms[None], 0.0))
    largest, left = (jnp.max(a, initial=0.0) for a in (rounded, jnp.abs(out)))
    return jnp.where(left <= _NOISE * largest, 0.0, out)


def compare(a: jax.Array, b: jax.Array) -> jax.Array:
    """⟨A, B⟩ / (‖A‖ ‖B‖): float32 scalar, 0 where A or B is zero."""
    return ratio(dot(a, b), dot(a, a), dot(b, b))


def ratio(xy: jax.Array, xx: jax.Array, yy: jax.Array) -> jax.Array:
    """xy / sqrt(xx · yy); 0 where xx or yy is not positive, NaN where they are NaN."""
    undefined = (xx <= 0) | (yy <= 0)
    # Two roots: the product of two small or large numbers leaves float32's range sooner.
    below = jnp.sqrt(jnp.where(undefined, 1.0, xx)) * jnp.sqrt(jnp.where(undefined, 1.0, yy))
    return jnp.where(undefined, 0.0, xy / below)


@jax.jit
def unbiased_similarity(x: jax.Array, y: jax.Array) -> jax.Array:
    """Unbiased linear CKA of two representations in one piece, for use inside other programs.

    CKA = HSIC₁(K, L) / sqrt(HSIC₁(K, K) · HSIC₁(L, L)), K = XXᵀ, L = YYᵀ

    Args:
      x: [n, ...], n >= 4; trailing axes are flattened. Computed in float32; holds n² numbers.
      y: [n, ...], of the same inputs.

    Returns:
      float32 scalar in [−1, 1]; 0 where a representation is constant.

    Source: HSIC₁: Song et al. 2012, as in Nguyen et al. 2021, arXiv 2010.15327, equation 3.
    """
    mask = jnp.ones(x.shape[0], bool)
    return compare(*(scaled(u_centred(gram(centred(a, mask)[0]), mask)) for a in (x, y)))


@functools.partial(jax.jit, static_argnames="unbiased")
def rbf_similarity(x: jax.Array, y: jax.Array, fraction: jax.Array, unbiased: bool) -> jax.Array:
    """``cka.rbf_cka`` of x and y with equally many rows."""
    n = x.shape[0]
    if n < 2:  # no distance, no median
        return jnp.zeros((), jnp.float32)
    mask = jnp.ones(n, bool)

    def kernel(x):
        k = rbf(centred(x, mask)[0], fraction)
        return scaled(u_centred(k, mask) if unbiased else double_centred(k))

    return compare(kernel(x), kernel(y))


def biased_matrix(a: Sequence[jax.Array], b: Sequence[jax.Array]) -> jax.Array:
    """Biased CKA of all pairs of centred features, [n, d] each."""
    n = a[0].shape[0]
    da, db = ([x.shape[1] for x in group] for group in (a, b))
    widths = da + db
    if sum(da) * sum(db) + sum(d * d for d in widths) > n * sum(widths):
        a, b = ([half_gram(x) for x in group] for group in (a, b))
        xx, yy = ([half_dot(k, k) for k in group] for group in (a, b))
        xy = [half_dot(k, m) for k in a for m in b]
    else:
        halves = ([half_gram(x.T) for x in group] for group in (a, b))
        xx, yy = ([half_dot(k, k) for k in group] for group in halves)
        xy = [square_norm(product(x.T, y)) for x in a for y in b]
    xx, yy = jnp.stack(xx), jnp.stack(yy)
    return ratios(jnp.stack(xy).reshape(len(a), len(b)), xx, yy)


def square_norm(a: jax.Array) -> jax.Array:
    """‖A‖²_F."""
    return dot(a, a)


def ratios(xy: jax.Array, xx: jax.Array, yy: jax.Array) -> jax.Array:
    """xy_ij / sqrt(xx_i · yy_j)."""
    return ratio(xy, *jnp.broadcast_arrays(xx[:, None], yy[None]))


def in_common_unit(
    group: Sequence[jax.Array], units: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """U-centred kernels of a minibatch, in the larger of its unit and that of the sums.

    Returns:
      The kernels, float32 [num, n²]; the new units, [num]; and (old unit / new unit)², [num],
      what a sum of K shrinks by.
    """
    found = [centred(x, mask) for x in group]
    own = jnp.stack([unit for _, unit in found])
    new = jnp.maximum(own, units)
    rows = [u_centred(gram(x), mask).ravel() for x, _ in found]
    return (
        jnp.stack(rows) * (over(own, new) ** 2)[:, None],
        new,
        over(units, new) ** 2,
    )


def product_ratio(xy: jax.Array, xx: jax.Array, yy: jax.Array) -> jax.Array:
    """‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) of the three products, of any scale."""
    # Their squares are summed: a spread that is small beside the mean would leave the range.
    ux, uy = unit_of(xx), unit_of(yy)
    xy = over(over(xy, jnp.sqrt(ux)), jnp.sqrt(uy))
    return ratio(*(square_norm(a) for a in (xy, over(xx, ux), over(yy, uy))))


def sharded_products(
    x: jax.Array, y: jax.Array, mask: jax.Array, axis_name: str
) -> tuple[jax.Array, ...]:
    """XᵀY, XᵀX and YᵀY of centred X, Y over the rows of all devices, in common units."""
    x, y = flat(x, mask), flat(y, mask)
    units = jax.lax.pmax((unit_of(x), unit_of(y)), axis_name)
    (x, x_mean), (y, y_mean) = (
        centre(over(a, unit), mask) for a, unit in zip((x, y), units, strict=True)
    )
    x_mean, y_mean = sum(x_mean), sum(y_mean)
    device = jax.lax.axis_index(axis_name)
    devices = jax.lax.axis_size(axis_name)

    def placed(value):  # the sum over the devices then gathers
        return jnp.zeros((devices, *value.shape), jnp.float32).at[device].set(value)

    parts = (product(x.T, y), gram(x.T), gram(y.T))
    own = (x_mean, y_mean, jnp.sum(mask.astype(jnp.float32)))
    parts, gathered = jax.lax.psum((parts, tuple(placed(a) for a in own)), axis_name)
    return tuple(a + b for a, b in zip(parts, _between(*gathered), strict=True))


def _between(x_means: jax.Array, y_means: jax.Array, counts: jax.Array) -> tuple[jax.Array, ...]:
    """Σ_p n_p (x̄_p − x̄)(ȳ_p − ȳ)ᵀ and the same of x, x and y, y; means [devices, d]."""
    valid = counts > 0
    first = jnp.argmax(valid)

    def spread(means):
        # As in ``centre``: equal means become exactly zero.
        means = jnp.where(valid[:, None], means - means[first][None], 0.0)
        mean = product(counts[None], means)[0] / jnp.maximum(jnp.sum(counts), 1.0)
        return jnp.where(valid[:, None], means - mean[None], 0.0)

    x, y = spread(x_means), spread(y_means)
    wx, wy = counts[:, None] * x, counts[:, None] * y
    return product(wx.T, y), product(wx.T, x), product(wy.T, y)
