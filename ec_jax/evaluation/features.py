"""Activations of one model on one split, and what the metrics compare them with."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh

from ec_jax import processes
from ec_jax.data import augment
from ec_jax.models.network import Network, Variables


@dataclasses.dataclass(frozen=True)
class Features:
    """Activations of one model on the n examples of one split, on the host.

    Attributes:
      points: {point: float32 [n, d] or [n, h, w, c]}, first point to last.
      logits: float32 [n, C], the network's own.
      labels: int32 [n], the true labels.
    """

    points: dict[str, np.ndarray]
    logits: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Subject:
    """The measured model itself, for the metrics that train it further.

    Attributes:
      network: the backbone, without EC modules.
      variables: {"params": {"backbone"}, "batch_stats": {"backbone"}}; must not be donated.
      images: {split: uint8 [n, h, w, c]}, in the order of the features.
      mean: float32 [c], of the images in [0, 1].
      std: float32 [c].
    """

    network: Network
    variables: Variables
    images: Mapping[str, np.ndarray]
    mean: jax.Array
    std: jax.Array

    def normalized(self, images: np.ndarray) -> jax.Array:
        """What the network takes, float32, of uint8 images [b, h, w, c]."""
        return augment.normalize(images, self.mean, self.std)


@dataclasses.dataclass(frozen=True)
class Context:
    """What a metric may use beside the features of the model it measures.

    Attributes:
      config: the run's configuration.
      references: {"original" or "oracle": {split: Features}}, of the same examples in the
        same order.
      subject: the measured model; None: it is not at hand, and what needs it is left out.
      mesh: of the devices over which large metrics are cut; None: one device.
    """

    config: Any
    references: Mapping[str, Mapping[str, Features]]
    subject: Subject | None = None
    mesh: Mesh | None = None


Forward = Callable[[np.ndarray], tuple[Mapping[str, Any], Any, Mapping[str, Any]]]
Watch = Callable[[Mapping[str, Mapping[str, Any]], int], None]


def extract(
    forwards: Mapping[str, Forward],
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    name: str = "",
    watch: Watch | None = None,
    part: tuple[int, int] = (0, 1),
) -> dict[str, Features]:
    """Runs models over a split, every example exactly once a model.

    Args:
      forwards: {model: compiled ``forward(uint8 [batch_size, ...]) -> ({point: [batch_size,
        ...]}, logits [batch_size, C], maps)``}. They see one shape only: the last batch is padded
        by repeating its last image, and the padding is cut off. ``maps`` are shown to ``watch``
        and not kept.
      images: uint8 [n, ...]; n may be 0.
      labels: integer [n].
      batch_size: images a call, >= 1.
      name: what is shown while it runs: a bar on a terminal, elsewhere one line. Empty: nothing.
      watch: called with {model: maps} of every batch and the number of its valid rows.
      part: (i, n): this is the i-th of n processes, all of which do the same; its models take the
        i-th of n equal parts of every batch and give that. ``watch`` is shown all of it.

    Returns:
      {model: Features of the n examples, in order}.

    Raises:
      ValueError: as many labels as images are needed, and a positive batch size of n equal parts.

    >>> forward = lambda batch: ({"stage1": batch}, batch, {})
    >>> images = np.arange(10, dtype=np.uint8).reshape(5, 2)
    >>> extract({"it": forward}, images, np.arange(5), 2)["it"].points["stage1"][-1].tolist()
    [8.0, 9.0]
    """
    count = len(images)
    if len(labels) != count or batch_size < 1 or batch_size % part[1]:
        parts = f"{batch_size} in {part[1]} parts"
        raise ValueError(f"{count} images, {len(labels)} labels, batch size {parts}")
    share = batch_size // part[1]
    if not count:
        # The shapes of the activations are known to the models only, so they run once.
        empty = np.zeros((share, *images.shape[1:]), images.dtype)
        rooms = {model: _allocate(forward(empty), 0) for model, forward in forwards.items()}
        return {model: _features(*room, labels) for model, room in rooms.items()}
    rooms, alone = {}, part[1] == 1
    starts = range(0, count, batch_size)
    firsts = [start + part[0] * share for start in starts]
    batches = _ahead(images, [_within(first, share, count) for first in firsts])
    for start, batch in zip(_shown(starts, name, count), batches, strict=True):
        rows = slice(start, min(start + batch_size, count))
        padded = np.concatenate([batch, np.repeat(batch[-1:], share - len(batch), axis=0)])
        # All are started before the first is waited for.
        results = {model: forward(padded) for model, forward in forwards.items()}
        # Of several processes each has its own rows of every batch, the padding too.
        own = rows if alone else slice(start // part[1], start // part[1] + share)
        for model, result in results.items():
            if model not in rooms:
                rooms[model] = _allocate(result, count if alone else len(starts) * share)
            _fill(rooms[model], result, own)
        if watch:
            watch({model: result[2] for model, result in results.items()}, rows.stop - start)
    if not alone:
        whole = functools.partial(_whole, share=share, count=count)
        rooms = {model: jax.tree.map(whole, room) for model, room in rooms.items()}
    return {model: _features(*room, labels) for model, room in rooms.items()}


def _whole(own: np.ndarray, share: int, count: int) -> np.ndarray:
    """The rows of all processes, of which each has ``share`` of every batch."""
    turns = processes.gather(own)
    turns = turns.reshape(len(turns), -1, share, *own.shape[1:]).swapaxes(0, 1)
    return turns.reshape(-1, *own.shape[1:])[:count]


def _within(first: int, size: int, count: int) -> slice:
    """Up to ``size`` of ``count`` rows; where there are none left, the last one."""
    first = min(first, count - 1)
    return slice(first, min(first + size, count))


def _ahead(images: Any, parts: Sequence[slice]) -> Iterator[np.ndarray]:
    """Batches; pictures of the next one are decoded while one is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(images.__getitem__, parts[0])
        for part in parts[1:]:
            batch, coming = coming.result(), pool.submit(images.__getitem__, part)
            yield batch
        yield coming.result()


def _shown(starts: range, name: str, count: int) -> Iterable[int]:
    if not name or not sys.stderr.isatty():
        if name:
            print(f"{name}, {count} images", flush=True)
        return starts
    return tqdm.tqdm(starts, desc=f"{name}, {count} images", unit="batch")


_Room = tuple[dict[str, np.ndarray], np.ndarray]


def _allocate(result: tuple, count: int) -> _Room:
    """Room for ``count`` rows of everything that is kept of a call of the model."""
    # Filled in place: batches kept in lists and joined would need the memory twice.
    points, logits = result[:2]
    rooms = {p: np.empty((count, *v.shape[1:]), np.float32) for p, v in points.items()}
    return rooms, np.empty((count, *logits.shape[1:]), np.float32)


def _fill(room: _Room, result: tuple, rows: slice) -> None:
    size = rows.stop - rows.start  # the padding is left out
    for point, values in result[0].items():
        room[0][point][rows] = np.asarray(values)[:size]
    room[1][rows] = np.asarray(result[1])[:size]


def _features(points: dict[str, np.ndarray], logits: np.ndarray, labels: np.ndarray) -> Features:
    return Features(points, logits, np.asarray(labels, np.int32))
