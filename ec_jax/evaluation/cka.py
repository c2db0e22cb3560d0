"""Linear centred kernel alignment (CKA): how alike two models' features are.

Two estimators: the biased one on a whole split, and the unbiased one over minibatches,
whose value does not depend on the batch size in expectation.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ec_jax import rng
from ec_jax.evaluation.features import Context, Features

SMALLEST_BATCH = 4  # the unbiased estimator divides by n − 3
_HIGHEST = jax.lax.Precision.HIGHEST  # the default of TPUs and GPUs rounds inputs to 10 bits


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
      float32 scalar; 0 where a representation is constant. Finite features never give NaN;
      others do.

    Raises:
      ValueError: x and y differ in n, or ``unbiased`` with n < 4.

    Source: Kornblith et al. 2019, arXiv 1905.00414, equations 4 and 5; HSIC₁: Song et al. 2012,
    as in Nguyen et al. 2021, arXiv 2010.15327, equation 3.

    >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0], [3.0, 3.0]])
    >>> float(linear_cka(x, -2 * x).round(4)), float(linear_cka(x, jnp.ones((4, 3))))
    (1.0, 0.0)
    """
    n = x.shape[0]
    if y.shape[0] != n:
        raise ValueError(f"x has {n} rows, y has {y.shape[0]}: the same inputs are needed")
    if unbiased and n < SMALLEST_BATCH:
        raise ValueError(f"{n} rows: unbiased CKA needs at least {SMALLEST_BATCH}")
    mask = jnp.ones(n, bool)
    # CKA does not depend on the scale; entries of at most 1 keep the fourth powers in range.
    x, y = (_unit_scale(_centred(a, mask)) for a in (x, y))
    if unbiased:
        return _compare(*(_u_centred(_gram(a), mask) for a in (x, y)))
    dx, dy = x.shape[1], y.shape[1]
    if dx * dx + dx * dy + dy * dy > n * (dx + dy):
        return _compare(_gram(x), _gram(y))
    cross = _product(x.T, y)
    return _ratio(_dot(cross, cross), *(_dot(c, c) for c in (_gram(x.T), _gram(y.T))))


@flax.struct.dataclass
class State:
    """Sums over minibatches, each weighted by its number of rows.

    Attributes:
      xy: float32 [num_x, num_y], of HSIC₁(K_x, K_y).
      xx: float32 [num_x], of HSIC₁(K_x, K_x).
      yy: float32 [num_y], of HSIC₁(K_y, K_y).
      rows: float32 scalar, of the rows.
    """

    xy: jax.Array
    xx: jax.Array
    yy: jax.Array
    rows: jax.Array


def init(num_x: int, num_y: int) -> State:
    """Sums over no minibatch, for ``num_x`` and ``num_y`` representations."""
    return State(
        xy=jnp.zeros((num_x, num_y), jnp.float32),
        xx=jnp.zeros(num_x, jnp.float32),
        yy=jnp.zeros(num_y, jnp.float32),
        rows=jnp.zeros((), jnp.float32),
    )


@jax.jit
def update(
    state: State,
    xs: Sequence[jax.Array],
    ys: Sequence[jax.Array],
    mask: jax.Array | None = None,
) -> State:
    """Adds one minibatch; all pairs of representations at once.

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
    a, b = (
        jnp.stack([_u_centred(_gram(_centred(x, mask)), mask).ravel() for x in group])
        for group in (xs, ys)
    )
    n = jnp.sum(mask.astype(jnp.float32))
    enough = n >= SMALLEST_BATCH
    weight = n / jnp.where(enough, n * (n - 3), 1.0)

    def add(total, products):
        return total + jnp.where(enough, weight * products, 0.0)

    return State(
        xy=add(state.xy, _product(a, b.T)),
        xx=add(state.xx, jnp.einsum("ik,ik->i", a, a, precision=_HIGHEST)),
        yy=add(state.yy, jnp.einsum("ik,ik->i", b, b, precision=_HIGHEST)),
        rows=state.rows + jnp.where(enough, n, 0.0),
    )


def result(state: State) -> jax.Array:
    """Minibatch CKA of every pair: means over the minibatches, then the division.

    Args:
      state: the sums of all minibatches.

    Returns:
      float32 [num_x, num_y]; 0 where a representation is constant or no minibatch counted.
    """
    rows = jnp.maximum(state.rows, 1.0)
    xy, xx, yy = state.xy / rows, state.xx / rows, state.yy / rows
    return _ratio(xy, *jnp.broadcast_arrays(xx[:, None], yy[None]))


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


def run(features: Mapping[str, Features], context: Context) -> dict[str, float]:
    """Similarity to each reference model at every point.

    Args:
      features: {split: Features} of the measured model.
      context: its references hold the same examples in the same order;
        ``config.evaluation.cka_batch_size`` is that of the unbiased estimator.

    Returns:
      ``cka_to_R/SPLIT/POINT``, biased, on the whole split, and
      ``cka_unbiased_to_R/SPLIT/POINT``, over minibatches. Splits without examples are left
      out, and the unbiased keys where there are fewer than four.

    Raises:
      ValueError: a reference has another number of examples.
    """
    out = {}
    for split, part in features.items():
        n, points = len(part.labels), tuple(part.points)
        if not n or not context.references:
            continue
        xs = tuple(part.points.values())
        ys = {
            name: tuple(reference[split].points[p] for p in points)
            for name, reference in context.references.items()
        }
        for name, values in _biased(xs, ys).items():
            out |= _keyed(f"cka_to_{name}/{split}", points, values)
        if n >= SMALLEST_BATCH:
            unbiased = _minibatch(xs, ys, context.config.evaluation.cka_batch_size)
            for name, values in unbiased.items():
                out |= _keyed(f"cka_unbiased_to_{name}/{split}", points, values)
    return out


def _keyed(prefix: str, points: Sequence[str], values: jax.Array | np.ndarray) -> dict[str, float]:
    numbers = np.asarray(values).tolist()
    return {f"{prefix}/{point}": v for point, v in zip(points, numbers, strict=True)}


@jax.jit
def _biased(xs: Sequence[jax.Array], ys: Mapping[str, Sequence[jax.Array]]) -> dict[str, jax.Array]:
    """Biased CKA of xs[i] and ys[name][i] for every name: float32 [len(xs)] each."""
    return {
        name: jnp.stack([linear_cka(x, y) for x, y in zip(xs, group, strict=True)])
        for name, group in ys.items()
    }


def _minibatch(
    xs: Sequence[np.ndarray], ys: Mapping[str, Sequence[np.ndarray]], batch_size: int
) -> dict[str, np.ndarray]:
    """Minibatch CKA of xs[i] and ys[name][i] for every name."""
    slices = minibatch_slices(len(xs[0]), batch_size)
    size = max(s.stop - s.start for s in slices)
    # A set is often ordered by class, and CKA within one class is another quantity. The
    # order is the same for all models and seeds.
    order = rng.generator(0, "cka").permutation(len(xs[0]))
    flat = tuple(y for group in ys.values() for y in group)
    state = init(len(xs), len(flat))
    for part in slices:
        rows = order[part]
        mask = np.arange(size) < len(rows)
        rows = np.pad(rows, (0, size - len(rows)), mode="edge")
        state = update(state, tuple(x[rows] for x in xs), tuple(y[rows] for y in flat), mask)
    pairs = np.asarray(result(state)).reshape(len(xs), len(ys), len(xs))
    return {name: np.diagonal(pairs[:, i]) for i, name in enumerate(ys)}


def _centred(x: jax.Array, mask: jax.Array) -> jax.Array:
    """[n, ...] as float32 [n, d] with the mean of the valid rows removed; other rows zero."""
    n = x.shape[0]
    x = jnp.asarray(x, jnp.float32).reshape(n, math.prod(x.shape[1:]))
    if not n:
        return x
    # A valid row goes first: constant features become exactly zero, which the rounded mean
    # alone would not give, and a large mean costs no digits.
    valid = mask[:, None]
    x = jnp.where(valid, x - x[jnp.argmax(mask)][None], 0.0)
    count = jnp.maximum(jnp.sum(mask.astype(jnp.float32)), 1.0)
    return jnp.where(valid, x - jnp.sum(x, axis=0, keepdims=True) / count, 0.0)


def _unit_scale(x: jax.Array) -> jax.Array:
    largest = jnp.max(jnp.abs(x), initial=0.0)
    return x / jnp.where(largest == 0, 1.0, largest)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=_HIGHEST)


def _gram(x: jax.Array) -> jax.Array:
    return _product(x, x.T)


def _u_centred(gram: jax.Array, mask: jax.Array) -> jax.Array:
    """A_ij = K_ij − K_i·/(n−2) − K_·j/(n−2) + K_··/((n−1)(n−2)) for valid i ≠ j, else 0.

    The sums K_i·, K_·j, K_·· leave the diagonal out; rows that are not valid are zero in K.
    """
    n = jnp.maximum(jnp.sum(mask.astype(jnp.float32)), SMALLEST_BATCH)
    pairs = mask[:, None] & mask[None] & ~jnp.eye(gram.shape[0], dtype=bool)
    gram = jnp.where(pairs, gram, 0.0)
    sums = jnp.sum(gram, axis=1) / (n - 2)
    total = jnp.sum(sums) / (n - 1)
    return jnp.where(pairs, gram - sums[:, None] - sums[None] + total, 0.0)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.vdot(a, b, precision=_HIGHEST)


def _compare(a: jax.Array, b: jax.Array) -> jax.Array:
    return _ratio(_dot(a, b), _dot(a, a), _dot(b, b))


def _ratio(xy: jax.Array, xx: jax.Array, yy: jax.Array) -> jax.Array:
    """xy / sqrt(xx · yy); 0 where xx or yy is not positive, NaN where they are NaN."""
    undefined = (xx <= 0) | (yy <= 0)
    # Two roots: the product of two small or large numbers leaves float32's range sooner.
    below = jnp.sqrt(jnp.where(undefined, 1.0, xx)) * jnp.sqrt(jnp.where(undefined, 1.0, yy))
    return jnp.where(undefined, 0.0, xy / below)
