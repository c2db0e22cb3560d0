"""Centred kernel alignment (CKA): how alike two models' features are.

Two kernels, linear and Gaussian, and two estimators: the biased one, on a whole split, and the
unbiased one, also over minibatches, whose value does not depend on their size in expectation.

Answers that hold for all of them, so that finite features never give NaN:

- A representation that is the same for all inputs is similar to nothing, itself included: 0.
  To the unbiased estimators, so are inputs that are all equally far from one another.
- Biased: 0 for no row and for one. Unbiased: a ValueError for under four rows, as n − 3
  divides; ``update`` leaves such minibatches out, and ``result`` is 0 if none counted.
- The unbiased HSIC₁(K, L) may be negative, and the similarity then is: it is not clipped and
  lies in [−1, 1]. HSIC₁(K, K) is computed as a sum of squares, and its root is safe.
- Features that are not finite give NaN.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ec_jax import kernels
from ec_jax.kernels import SMALLEST_BATCH


def linear_cka(x: jax.Array, y: jax.Array, *, unbiased: bool = False) -> jax.Array:
    """Similarity of two representations of the same n inputs.

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) · HSIC(L, L)), K = XXᵀ, L = YYᵀ. With centred X, Y the
    biased form is ‖YᵀX‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) = tr(KL) / (‖K‖_F ‖L‖_F): the cheaper side is
    computed.

    Args:
      x: [n, ...]; trailing axes are flattened. Computed in float32.
      y: [n, ...].
      unbiased: HSIC₁ in place of the biased HSIC; the value may then be slightly negative.

    Returns:
      float32 scalar; 0 where a representation is constant.

    Raises:
      ValueError: x and y differ in n, or ``unbiased`` with n < 4.

    Source: Kornblith et al. 2019, arXiv 1905.00414, equations 4 and 5; HSIC₁: Song et al. 2012,
    as in Nguyen et al. 2021, arXiv 2010.15327, equation 3.

    >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0], [3.0, 3.0]])
    >>> float(linear_cka(x, -2 * x).round(4)), float(linear_cka(x, jnp.ones((4, 3))))
    (1.0, 0.0)
    """
    return cka_matrix((x,), (y,), unbiased=unbiased)[0, 0]


@functools.partial(jax.jit, static_argnames="unbiased")
def cka_matrix(
    xs: Sequence[jax.Array], ys: Sequence[jax.Array], *, unbiased: bool = False
) -> jax.Array:
    """Linear CKA of every representation in xs with every one in ys, in one compiled call.

    Each representation is centred, and its kernel or norm computed, once. The biased form takes
    feature space, n·(Σd_x·Σd_y + Σd²) products, or sample space, n²·Σd, for all pairs: whichever
    takes fewer, symmetry left out of the count. Sample space and the unbiased form hold some
    n² numbers a representation: stream with ``update`` where that is too much.

    Args:
      xs: num_x arrays [n, ...] of the same n inputs, float32 or narrower: pooled features or
        whole activations, whose trailing axes are flattened.
      ys: num_y arrays [n, ...].
      unbiased: HSIC₁ in place of the biased HSIC.

    Returns:
      float32 [num_x, num_y]: ``linear_cka(xs[i], ys[j])``.

    Raises:
      ValueError: the arrays differ in n, or ``unbiased`` with n < 4.

    Source: as ``linear_cka``.

    >>> x, y = jnp.eye(4), jnp.arange(4.0)[:, None]
    >>> cka_matrix((x, y), (y, y + 1, 0 * y)).round().tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    """
    if not xs or not ys:
        return jnp.zeros((len(xs), len(ys)), jnp.float32)
    n = xs[0].shape[0]
    for x in (*xs, *ys):
        _require_rows(n, x.shape[0], unbiased)
    if unbiased:
        return result(update(init(len(xs), len(ys)), xs, ys))
    mask = jnp.ones(n, bool)
    a, b = ([kernels.centred(x, mask)[0] for x in group] for group in (xs, ys))
    return kernels.biased_matrix(a, b)


def _require_rows(n: int, other: int, unbiased: bool) -> None:
    if other != n:
        raise ValueError(f"x has {n} rows, y has {other}: the same inputs are needed")
    if unbiased and n < SMALLEST_BATCH:
        raise ValueError(f"{n} rows: unbiased CKA needs at least {SMALLEST_BATCH}")


def rbf_cka(
    x: jax.Array, y: jax.Array, *, fraction: float = 1.0, unbiased: bool = False
) -> jax.Array:
    """Similarity of two representations under a Gaussian kernel.

    CKA as in ``linear_cka``, with K_ij = exp(−‖x_i − x_j‖² / (2σ²)) and σ² = ``fraction`` ×
    the median of ‖x_i − x_j‖² over i ≠ j, of each representation its own. Where a bandwidth σ
    is given as a multiple f of the median *distance*, as Kornblith et al. do, that is
    ``fraction`` = f²; their code also counts the n zeros of i = j into the median.

    Args:
      x: [n, ...]; trailing axes are flattened. Computed in float32, in memory of n² numbers.
      y: [n, ...].
      fraction: of the median squared distance, > 0. With a wide bandwidth the value nears
        ``linear_cka``'s.
      unbiased: HSIC₁ in place of the biased HSIC; the value may then be negative.

    Returns:
      float32 scalar. Where over half of the distances are 0, σ is 0 and the kernel says only
      which rows are equal: the limit of narrow bandwidths.

    Raises:
      ValueError: x and y differ in n, ``unbiased`` with n < 4, or ``fraction`` is not positive
        and finite.

    Source: Kornblith et al. 2019, arXiv 1905.00414, section 3.

    >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0], [3.0, 3.0]])
    >>> float(rbf_cka(x, -2 * x + 1).round(4)), float(rbf_cka(x, jnp.ones((4, 3))))
    (1.0, 0.0)
    """
    if not 0 < fraction < math.inf:
        raise ValueError(f"fraction = {fraction}: it multiplies a bandwidth; use a positive number")
    _require_rows(x.shape[0], y.shape[0], unbiased)
    return kernels.rbf_similarity(x, y, np.float32(fraction), unbiased)


@functools.partial(jax.jit, static_argnames="batch_size")
def uuef_cka(x: jax.Array, y: jax.Array, batch_size: int = 512) -> jax.Array:
    """CKA as a published unlearning benchmark reports it: comparable with its tables only.

    100 × the unweighted mean over consecutive batches, in the given order, of biased linear CKA;
    the last batch may be smaller and weighs as much. Biased CKA grows as batches shrink, and
    batches of one class measure something else: see ``update`` for the estimate to trust.

    Args:
      x: [n, ...], the unlearned model's pooled features in the benchmark's class order.
      y: [n, ...], the retrained model's.
      batch_size: rows a batch, >= 1.

    Returns:
      float32 scalar in percent; 0 for n = 0. A batch of one row, or of constant features,
      counts as 0, where the formula has no value.

    Raises:
      ValueError: x and y differ in n, or ``batch_size`` < 1.

    Source: the benchmark of arXiv 2503.06991, as docs/metrics.md describes it.

    >>> x = jnp.arange(6.0)[:, None]
    >>> float(uuef_cka(x, x**2, batch_size=3).round())
    96.0
    """
    n = x.shape[0]
    _require_rows(n, y.shape[0], unbiased=False)
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: a batch needs at least one row")
    if not n:
        return jnp.zeros((), jnp.float32)
    count = n // batch_size
    whole = [a[: count * batch_size].reshape(count, batch_size, *a.shape[1:]) for a in (x, y)]
    # One batch after another: all at once would hold all of their kernels.
    values = jax.lax.map(lambda pair: linear_cka(*pair), tuple(whole)) if count else jnp.zeros(0)
    if n % batch_size:
        last = linear_cka(x[count * batch_size :], y[count * batch_size :])
        values = jnp.concatenate([values, last[None]])
    return 100.0 * jnp.mean(values)


def sharded_linear_cka(
    x: jax.Array, y: jax.Array, *, axis_name: str, mask: jax.Array | None = None
) -> jax.Array:
    """Biased linear CKA of rows that lie on several devices: a per-device program.

    ‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F), with XᵀY = Σ_p [X_pᵀY_p + n_p (x̄_p − x̄)(ȳ_p − ȳ)ᵀ] for
    devices p with n_p rows, X_p, Y_p centred on their own means x̄_p, ȳ_p: no digit is lost to
    a large mean, as it is in Σ xyᵀ − n x̄ȳᵀ. No row leaves its device. One sum over the devices
    of d_x² + d_x d_y + d_y² numbers, the means beside them; before it the largest entries, two
    numbers, are agreed upon.

    Args:
      x: [n_p, ...], this device's rows; trailing axes are flattened. All devices have the same
        shape: pad, and name the valid rows by ``mask``.
      y: [n_p, ...].
      axis_name: the mapped axis, of ``jax.shard_map`` or ``jax.pmap``.
      mask: bool [n_p], the valid rows; the others may hold anything. None: all are valid.

    Returns:
      float32 scalar, equal on all devices: ``linear_cka`` of all valid rows.

    Raises:
      ValueError: x and y differ in n_p.

    Source: as ``linear_cka``; the sum over parts: Chan, Golub and LeVeque 1979, equation 2.1.
    """
    n = x.shape[0]
    _require_rows(n, y.shape[0], unbiased=False)
    mask = jnp.ones(n, bool) if mask is None else mask
    return kernels.product_ratio(*kernels.sharded_products(x, y, mask, axis_name))


@flax.struct.dataclass
class State:
    """Sums over minibatches; its size depends on the number of representations only.

    A minibatch weighs as much as it has rows, so that every example counts alike where sizes
    differ; with equal sizes this is the plain mean of Nguyen et al.

    Attributes:
      xy: float32 [num_x, num_y], of HSIC₁(K_x, K_y), in units of x_unit² · y_unit².
      xx: float32 [num_x], of HSIC₁(K_x, K_x), in units of x_unit⁴.
      yy: float32 [num_y], of HSIC₁(K_y, K_y), in units of y_unit⁴.
      rows: float32 scalar, of the rows.
      x_unit: float32 [num_x], the power of two next to the largest centred feature so far;
        0 before any. It keeps the sums in range and cancels in the similarity.
      y_unit: float32 [num_y].
    """

    xy: jax.Array
    xx: jax.Array
    yy: jax.Array
    rows: jax.Array
    x_unit: jax.Array
    y_unit: jax.Array


def init(num_x: int, num_y: int) -> State:
    """Sums over no minibatch, for ``num_x`` and ``num_y`` representations."""
    shapes = {"xy": (num_x, num_y), "xx": num_x, "yy": num_y, "rows": ()}
    shapes |= {"x_unit": num_x, "y_unit": num_y}
    return State(**{name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()})


@jax.jit
def update(
    state: State,
    xs: Sequence[jax.Array],
    ys: Sequence[jax.Array],
    mask: jax.Array | None = None,
) -> State:
    """Adds one minibatch, weighted by its valid rows; all pairs of representations at once.

    HSIC₁(K, L) = [tr(K̄L̄) + (1ᵀK̄1)(1ᵀL̄1)/((n−1)(n−2)) − 2/(n−2)·1ᵀK̄L̄1] / (n(n−3)), K̄ and L̄
    with zero diagonals; computed as ⟨A, B⟩/(n(n−3)) of the U-centred matrices, which is
    equal, loses fewer digits, and is never negative for A = B.

    Args:
      state: the sums so far.
      xs: num_x arrays [n, ...] of the same n inputs; trailing axes are flattened.
      ys: num_y arrays [n, ...].
      mask: bool [n], the valid rows; the others may hold anything. None: all are valid.

    Returns:
      The new sums; unchanged if fewer than four rows are valid.

    Source: Nguyen et al. 2021, arXiv 2010.15327, equations 2 and 3; U-centring: Székely and
    Rizzo 2014, arXiv 1310.2926, definition 2.
    """
    mask = jnp.ones(xs[0].shape[0], bool) if mask is None else mask
    a, x_unit, x_shrunk = kernels.in_common_unit(xs, state.x_unit, mask)
    b, y_unit, y_shrunk = kernels.in_common_unit(ys, state.y_unit, mask)
    n = jnp.sum(mask.astype(jnp.float32))
    enough = n >= SMALLEST_BATCH
    weight = n / jnp.where(enough, n * (n - 3), 1.0)

    def squares(a):
        return jnp.einsum("ik,ik->i", a, a, precision=jax.lax.Precision.HIGHEST)

    new = State(
        xy=state.xy * x_shrunk[:, None] * y_shrunk[None] + weight * kernels.product(a, b.T),
        xx=state.xx * x_shrunk**2 + weight * squares(a),
        yy=state.yy * y_shrunk**2 + weight * squares(b),
        rows=state.rows + n,
        x_unit=x_unit,
        y_unit=y_unit,
    )
    return jax.tree.map(lambda new, old: jnp.where(enough, new, old), new, state)


def together(state: State, own: State, axis_name: str) -> State:
    """The sums of ``state``, which all devices have, and of what is each device's ``own``."""
    x_unit, y_unit = (
        jnp.maximum(unit, jax.lax.pmax(more, axis_name))
        for unit, more in ((state.x_unit, own.x_unit), (state.y_unit, own.y_unit))
    )
    old, new = (_in_units(s, x_unit, y_unit) for s in (state, own))
    return State(
        xy=old.xy + jax.lax.psum(new.xy, axis_name),
        xx=old.xx + jax.lax.psum(new.xx, axis_name),
        yy=old.yy + jax.lax.psum(new.yy, axis_name),
        rows=old.rows + jax.lax.psum(new.rows, axis_name),
        x_unit=x_unit,
        y_unit=y_unit,
    )


def _in_units(state: State, x_unit: jax.Array, y_unit: jax.Array) -> State:
    """The same sums in units that are no smaller."""
    x, y = kernels.over(state.x_unit, x_unit) ** 2, kernels.over(state.y_unit, y_unit) ** 2
    return state.replace(xy=state.xy * x[:, None] * y[None], xx=state.xx * x**2, yy=state.yy * y**2)


def result(state: State) -> jax.Array:
    """Minibatch CKA of every pair: means over the rows' minibatches, then the division.

    Args:
      state: the sums of all minibatches.

    Returns:
      float32 [num_x, num_y] in [−1, 1] up to rounding; 0 where a representation is constant
      or no minibatch counted.
    """
    rows = jnp.maximum(state.rows, 1.0)
    return kernels.ratios(state.xy / rows, state.xx / rows, state.yy / rows)


def minibatch_slices(n: int, batch_size: int) -> list[slice]:
    """Cuts n rows into ceil(n / batch_size) parts whose sizes differ by at most one.

    There are fewer parts, a little larger than ``batch_size``, where parts would otherwise
    have under four rows and be lost to the unbiased estimator.

    Args:
      n: rows, >= 0.
      batch_size: at most that many rows a part, >= 4.

    Returns:
      Slices that cover range(n) in order; the first are the longer ones.

    >>> minibatch_slices(10, 4)
    [slice(0, 5, None), slice(5, 10, None)]
    """
    count = min(-(-n // batch_size), max(n // SMALLEST_BATCH, 1)) if n else 0
    bounds = [-(-n * i // count) for i in range(count + 1)] if count else []
    return [slice(*pair) for pair in itertools.pairwise(bounds)]
