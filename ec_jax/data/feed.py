"""Training batches of pictures on disk, decoded ahead of the steps that read them.

What a step reads is a pure function of seed, stream and step, as with sets in memory: a run that
was cut off goes on with the very next picture, in the middle of an epoch, too.
"""

import bisect
import os
from collections.abc import Iterator, Sequence

import numpy as np

from ec_jax.data.loader import Stream
from ec_jax.data.pictures import Pictures

_AHEAD = 4  # batches that are decoded ahead


class Feed:
    """The batches of one stream, of which a process may read its own share alone."""

    def __init__(
        self,
        stream: Stream,
        pictures: Pictures,
        kind: str,
        steps: Sequence[int],
        part: tuple[int, int] = (0, 1),
    ):
        """Nothing is read yet.

        Args:
          stream: says which picture is where.
          pictures: the training images.
          kind: of augmentation, see ``augment.KINDS``.
          steps: those at which a batch is read, ascending: what is decoded ahead.
          part: (i, n): of every batch the i-th of n equal parts.

        Raises:
          ValueError: n parts of a batch are not equal.
        """
        size, (index, count) = stream.batch_size, part
        if size % count:
            raise ValueError(f"a batch of {size} has no {count} equal parts")
        self._stream, self._pictures, self._kind = stream, pictures, kind
        self._share = size // count
        self._first = index * self._share
        self._steps, self._at, self._last, self._batches = steps, -1, None, iter(())

    def batch(self, step: int) -> np.ndarray:
        """The pictures of a step: uint8 [batch_size / n, size, size, 3].

        Args:
          step: one of ``steps``; the one after the last call's was decoded meanwhile, and that
            one itself is at hand.
        """
        at = bisect.bisect_left(self._steps, step)
        if at != self._at:
            if at != self._at + 1 or self._last is None:
                self._batches = self._from(at)
            self._at, self._last = at, next(self._batches)
        return self._last

    def _from(self, at: int) -> Iterator[np.ndarray]:
        import grain

        places = grain.MapDataset.range(at * self._share, len(self._steps) * self._share)
        read = grain.ReadOptions(_cores(), _AHEAD * self._share)
        cut = places.map(self._cut).batch(self._share)
        return iter(cut.to_iter_dataset(read))

    def _cut(self, place: int) -> np.ndarray:
        """The picture at a place of this process's own order."""
        at, within = divmod(int(place), self._share)
        whole = self._steps[at] * self._stream.batch_size + self._first + within
        draw = self._stream.draw(whole)
        return self._pictures.crop(self._stream.at(whole), draw, self._kind)


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not of every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
