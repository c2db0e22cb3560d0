"""CKA of whole spatial activations, as they come: none is kept."""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ec_jax.evaluation import cka


class StreamedCKA:
    """Unbiased minibatch CKA of every model to the references at every point.

    The memory does not depend on the number of images: a minibatch is what one forward pass
    takes (``data.eval_batch_size``), and only the sums of ``cka.State`` stay.
    """

    def __init__(self, models: Iterable[str], references: Iterable[str]):
        """Of ``models``, those among ``references`` are what all are compared with."""
        self._models = tuple(models)
        self._references = tuple(r for r in references if r in self._models)
        self._states: dict[str, cka.State] = {}

    def __call__(self, maps: Mapping[str, Mapping[str, jax.Array]], valid: int) -> None:
        """Adds a minibatch.

        Args:
          maps: {model: {point: float32 [b, h, w, c]}} of the same b images.
          valid: how many of them count, the first ones; under four are left out.
        """
        first = maps[self._models[0]]
        mask = jnp.arange(len(next(iter(first.values())))) < valid
        for point in first:
            xs, ys = (tuple(maps[m][point] for m in ms) for ms in (self._models, self._references))
            state = self._states.get(point) or cka.init(len(xs), len(ys))
            self._states[point] = cka.update(state, xs, ys, mask)

    def result(self, model: str, split: str) -> dict[str, float]:
        """``cka_map_to_R/SPLIT/POINT`` of a model; nothing where no minibatch counted."""
        row = self._models.index(model)
        return {
            f"cka_map_to_{reference}/{split}/{point}": float(value)
            for point, state in self._states.items()
            if state.rows > 0
            for reference, value in zip(
                self._references, np.asarray(cka.result(state))[row], strict=True
            )
        }
