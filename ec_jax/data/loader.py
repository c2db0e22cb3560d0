"""The order of the data: a pure function of the seed, the stream's name and the step."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ec_jax import rng


class Stream:
    """An endless stream of shuffled examples, every epoch in a new order.

    Position p of the stream holds example ``p % n`` of epoch ``p // n``; batches run across
    the ends of epochs, so none is short. No state: any step can be asked for at any time.
    """

    def __init__(self, indices: Sequence[int], batch_size: int, seed: int, name: str):
        """A stream of ``indices``.

        Args:
          indices: integers [n], what is drawn; n >= 1.
          batch_size: examples a step, >= 1; it may exceed n.
          seed: of the run.
          name: keeps streams of one seed apart.

        Raises:
          ValueError: nothing to draw, or a batch of nothing.
        """
        self._indices = np.asarray(indices)
        self._batch_size, self._seed, self._name = batch_size, seed, name
        self._orders: dict[int, np.ndarray] = {}
        if not len(self._indices):
            raise ValueError(f"the stream {name} is empty")
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size} of the stream {name}: give 1 or more")

    def batch_indices(self, step: int) -> np.ndarray:
        """The examples of a step: integers [batch_size], of the indices' type.

        Args:
          step: counted from 0.
        """
        places = int(step) * self._batch_size + np.arange(self._batch_size)
        epochs, within = np.divmod(places, len(self._indices))
        out = np.empty(self._batch_size, self._indices.dtype)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            out[here] = self._indices[self._order(int(epoch))[within[here]]]
        return out

    @property
    def batch_size(self) -> int:
        """Examples a step."""
        return self._batch_size

    def at(self, place: int) -> Any:
        """The example at a place of the stream; a batch is ``batch_size`` places."""
        epoch, within = divmod(place, len(self._indices))
        return self._indices[self._order(epoch)[within]]

    def draw(self, place: int) -> np.random.Generator:
        """The random numbers of a place, for what is done to its example there."""
        return rng.generator(self._seed, "place", self._name, place)

    def _order(self, epoch: int) -> np.ndarray:
        order = self._orders.get(epoch)
        if order is None:
            draw = rng.generator(self._seed, "order", self._name, epoch)
            order = draw.permutation(len(self._indices))
            # A batch rarely spans more than two epochs; older orders are not needed again. A new
            # dictionary: several threads may read this one.
            self._orders = {k: v for k, v in self._orders.items() if k == epoch - 1} | {
                epoch: order
            }
        return order
