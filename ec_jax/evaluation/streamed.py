"""CKA of whole spatial activations, as they come: none is kept."""

import functools
from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from ec_jax import parallel
from ec_jax.evaluation import cka


@functools.cache
def make_update(mesh: Mesh) -> Callable:
    """``cka.update`` of minibatches that are cut over the devices; the sums are whole on each."""
    return parallel.whole_result(cka.update, mesh)


class StreamedCKA:
    """Unbiased minibatch CKA of every model to the references at every point.

    The memory does not depend on the number of images: a minibatch is what one forward pass
    takes (``data.eval_batch_size``), and only the sums of ``cka.State`` stay.
    """

    def __init__(self, models: Iterable[str], references: Iterable[str], mesh: Mesh):
        """Of ``models``, those among ``references`` are what all are compared with.

        ``mesh`` is that of the devices over which the maps are cut.
        """
        self._models = tuple(models)
        self._references = tuple(r for r in references if r in self._models)
        self._states: dict[str, cka.State] = {}
        self._update = make_update(mesh)

    def __call__(self, maps: Mapping[str, Mapping[str, jax.Array]], valid: int) -> None:
        """Adds a minibatch.

        Args:
          maps: {model: {point: float32 [b, h, w, c]}} of the same b images.
          valid: how many of them count, the first ones; under four are left out.
        """
        first = maps[self._models[0]]
        # Arrays of NumPy are everywhere, in all processes.
        mask = np.arange(len(next(iter(first.values())))) < valid
        for point in first:
            xs, ys = (tuple(maps[m][point] for m in ms) for ms in (self._models, self._references))
            state = self._states.get(point)
            state = state or jax.tree.map(np.asarray, cka.init(len(xs), len(ys)))
            self._states[point] = self._update(state, xs, ys, mask)

    def result(self, model: str, split: str) -> dict[str, float]:
        """``cka_map_to_R/SPLIT/POINT`` of a model; nothing where no minibatch counted."""
        row = self._models.index(model)
        return {
            f"cka_map_to_{reference}/{split}/{point}": float(value)
            for point, state in parallel.here(self._states).items()
            if state.rows > 0
            for reference, value in zip(
                self._references, np.asarray(cka.result(state))[row], strict=True
            )
        }
