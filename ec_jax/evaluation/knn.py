"""k nearest neighbours on the features of every point, and on the logits."""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ec_jax import parallel
from ec_jax.evaluation.features import Context, Features
from ec_jax.losses.contrastive import l2_normalize

BANK = ("forget_train", "retain_train", "earlier_train")
QUERIES = ("forget_test", "retain_test", "earlier_test")
LOGITS = "logits"  # stands among the points: published k-NN numbers are often of logits
_BLOCK = 256  # queries compared with the bank at a time


def knn_predict(
    queries: np.ndarray,
    bank: np.ndarray,
    bank_labels: np.ndarray,
    k: int,
    num_classes: int,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Class most frequent among the k bank vectors nearest to each query by cosine.

    Every neighbour has one vote. Of classes with equally many votes the smallest wins; of
    equally near bank vectors the first come first. A zero vector has cosine 0 to all.

    The bank is cut over the devices of the mesh: each finds the k nearest of its own vectors, and
    among those of all devices are the k nearest of the bank.

    Args:
      queries: float [q, d]; q may be 0.
      bank: float [b, d].
      bank_labels: integer [b], in [0, num_classes).
      k: neighbours, in [1, b].
      num_classes: C.
      mesh: of the devices, of all processes; None: one device.

    Returns:
      int32 [q].

    Raises:
      ValueError: k is not in [1, b].

    >>> bank = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], np.float32)
    >>> knn_predict(bank[:1], bank, np.array([2, 1, 0]), 2, 3).tolist()  # a tie of 1 and 2
    [1]
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"k = {k}: must be at least 1 and at most the bank's {len(bank)} vectors")
    mesh = mesh or parallel.one_device()
    rows = np.asarray(bank), np.asarray(bank_labels, np.int32)
    (unit_bank, labels), valid = parallel.shard_rows(rows, mesh)
    unit_bank, predict = _normalize(unit_bank), _predict_block(mesh, k, num_classes)
    predicted = [np.zeros(0, np.int32)]
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        # One shape for all blocks, so that one program serves them.
        padded = np.concatenate([block, np.repeat(block[-1:], _BLOCK - len(block), axis=0)])
        votes = predict(padded, (unit_bank, labels, valid))
        predicted.append(np.asarray(votes)[: len(block)])
    return np.concatenate(predicted)


_normalize = jax.jit(l2_normalize)


@functools.cache
def _predict_block(mesh: Mesh, k: int, num_classes: int) -> Callable:
    """``(queries [q, d], (unit bank, labels, valid rows)) -> int32 [q]``, compiled once."""

    def predict(queries: jax.Array, bank: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        vectors, labels, valid = bank
        cosines = jnp.matmul(l2_normalize(queries), vectors.T, precision=jax.lax.Precision.HIGHEST)
        cosines = jnp.where(valid[None], cosines, -jnp.inf)
        nearest = _nearest(cosines, jnp.broadcast_to(labels[None], cosines.shape), k)
        # Side by side in the order of the devices, which is the bank's: ties stay as they are.
        nearest = jax.lax.all_gather(nearest, parallel.AXIS, axis=1, tiled=True)
        votes = jax.nn.one_hot(_nearest(*nearest, k)[1], num_classes, dtype=jnp.int32).sum(axis=1)
        return jnp.argmax(votes, axis=1).astype(jnp.int32)

    return parallel.over_rows(predict, mesh)


def _nearest(cosines: jax.Array, labels: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k largest cosines of each row, or all where there are fewer, and their labels."""
    found, places = jax.lax.top_k(cosines, min(k, cosines.shape[1]))
    return found, jnp.take_along_axis(labels, places, axis=1)


def run(features: Mapping[str, Features], context: Context) -> dict[str, float]:
    """``knn/SPLIT/POINT`` and ``knn/SPLIT/logits``: accuracy on the test splits, in percent.

    The bank holds all training splits with their true labels: the forgotten classes are in it,
    also those forgotten before, and a high value on ``forget_test`` or ``earlier_test`` says that
    the features still tell them apart.

    Args:
      features: {split: Features} of the measured model; maps are averaged over space first.
      context: ``config.evaluation.neighbors`` is k.

    Returns:
      {key: percent in [0, 100]}; NaN where features are not finite. Splits without examples
      are left out.
    """
    parts = [features[split] for split in BANK if split in features]
    splits = [s for s in QUERIES if s in features and len(features[s].labels)]
    if not splits or not parts:
        return {}
    k, classes = context.config.evaluation.neighbors, features[splits[0]].logits.shape[-1]
    return {
        f"knn/{split}/{point}": value
        for split in splits
        for point, value in accuracies(
            features[split], parts, k, classes, LOGITS, mesh=context.mesh
        ).items()
    }


def accuracies(
    queried: Features,
    parts: Sequence[Features],
    k: int,
    num_classes: int,
    *more: str,
    mesh: Mesh | None = None,
) -> dict[str, float]:
    """{point: accuracy of k-NN in percent}, NaN where features are not finite.

    Args:
      queried: whose labels are to be found.
      parts: the bank.
      k: neighbours.
      num_classes: C.
      *more: ``logits``, where they are to be among the points.
      mesh: as for ``knn_predict``.
    """
    labels = np.concatenate([part.labels for part in parts])
    result = {}
    for point in (*queried.points, *more):
        queries, bank = _vectors(queried, point), _bank(parts, point)
        if not np.isfinite(queries).all() or not np.isfinite(bank).all():
            result[point] = float("nan")
            continue
        predicted = knn_predict(queries, bank, labels, k, num_classes, mesh)
        result[point] = 100.0 * float(np.mean(predicted == queried.labels))
    return result


def _bank(parts: Sequence[Features], point: str) -> np.ndarray:
    return np.concatenate([_vectors(part, point) for part in parts])


def _vectors(part: Features, point: str) -> np.ndarray:
    """[n, d]: the logits, or a point's features, averaged over space where they are maps."""
    values = part.logits if point == LOGITS else part.points[point]
    return values.mean(axis=tuple(range(1, values.ndim - 1))) if values.ndim > 2 else values
