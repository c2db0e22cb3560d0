"""The metric ``cka``: similarity of every model to the references, at every point.

What it is stands in ``evaluation/cka.py``. Here rows and minibatches are cut over the devices.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ec_jax import parallel, rng
from ec_jax.evaluation import cka
from ec_jax.evaluation.features import Context, Features


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
        for name, values in _biased(xs, ys, context.mesh).items():
            out |= _keyed(f"cka_to_{name}/{split}", points, values)
        if n >= cka.SMALLEST_BATCH:
            batch_size = context.config.evaluation.cka_batch_size
            unbiased = _minibatch(xs, ys, batch_size, context.mesh)
            for name, values in unbiased.items():
                out |= _keyed(f"cka_unbiased_to_{name}/{split}", points, values)
    return out


def _keyed(prefix: str, points: Sequence[str], values: jax.Array | np.ndarray) -> dict[str, float]:
    numbers = np.asarray(values).tolist()
    return {f"{prefix}/{point}": v for point, v in zip(points, numbers, strict=True)}


def _biased(
    xs: Sequence[np.ndarray], ys: Mapping[str, Sequence[np.ndarray]], mesh: Mesh | None
) -> dict[str, jax.Array]:
    """Biased CKA of xs[i] and ys[name][i] for every name: float32 [len(xs)] each.

    Many rows are cut over the devices. Where there are fewer than the widest representation has
    dimensions, their products by one another are the smaller ones, and one device has them all.
    """
    width = max(math.prod(x.shape[1:]) for x in xs)
    if mesh is None or mesh.size == 1 or len(xs[0]) <= width:
        return _biased_whole(xs, ys)
    return _biased_cut(mesh)((), parallel.shard_rows((xs, ys), mesh))


@jax.jit
def _biased_whole(xs: Any, ys: Any) -> dict[str, jax.Array]:
    return _pairwise(cka.linear_cka, xs, ys)


@functools.cache
def _biased_cut(mesh: Mesh) -> Callable:
    def cut(_, rows):
        (xs, ys), mask = rows
        similarity = functools.partial(cka.sharded_linear_cka, axis_name=parallel.AXIS, mask=mask)
        return _pairwise(similarity, xs, ys)

    return parallel.over_rows(cut, mesh)


def _pairwise(similarity: Callable, xs: Any, ys: Any) -> dict[str, jax.Array]:
    return {
        name: jnp.stack([similarity(x, y) for x, y in zip(xs, group, strict=True)])
        for name, group in ys.items()
    }


def _minibatch(
    xs: Sequence[np.ndarray],
    ys: Mapping[str, Sequence[np.ndarray]],
    batch_size: int,
    mesh: Mesh | None,
) -> dict[str, np.ndarray]:
    """Minibatch CKA of xs[i] and ys[name][i] for every name; a device takes a minibatch whole."""
    mesh = mesh or parallel.one_device()
    slices = cka.minibatch_slices(len(xs[0]), batch_size)
    size = max(s.stop - s.start for s in slices)
    # A set is often ordered by class, and CKA within one class is another quantity. The
    # order is the same for all models and seeds.
    order = rng.generator(0, "cka").permutation(len(xs[0]))
    flat = tuple(y for group in ys.values() for y in group)
    state, add = parallel.replicate(cka.init(len(xs), len(flat)), mesh), _add(mesh)
    for some in _groups(slices, mesh.size):
        rows = np.concatenate([np.resize(order[part], size) for part in some])
        mask = np.concatenate([np.arange(size) < part.stop - part.start for part in some])
        own = parallel.own_rows(len(rows))
        rows, mask = rows[own], mask[own]
        taken = tuple(x[rows] for x in xs), tuple(y[rows] for y in flat), mask
        state = add(state, parallel.shard(taken, mesh))
    pairs = np.asarray(cka.result(parallel.here(state))).reshape(len(xs), len(ys), len(xs))
    return {name: np.diagonal(pairs[:, i]) for i, name in enumerate(ys)}


def _groups(slices: Sequence[slice], size: int) -> list[list[slice]]:
    """Groups of ``size``; the last one is filled up with empty slices."""
    filled = [*slices, *[slice(0, 0)] * (-len(slices) % size)]
    return [filled[i : i + size] for i in range(0, len(filled), size)]


@functools.cache
def _add(mesh: Mesh) -> Callable:
    def add(state: cka.State, minibatch: Any) -> cka.State:
        xs, ys, mask = minibatch
        own = cka.update(cka.init(len(xs), len(ys)), xs, ys, mask)
        return cka.together(state, own, parallel.AXIS)

    return parallel.over_rows(add, mesh)
