"""The steps of a training: each reads its batch and makes its update."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ec_jax import parallel, rng
from ec_jax.data.loader import Stream
from ec_jax.models.network import Network
from ec_jax.scenario import Scenario
from ec_jax.training.plan import Training
from ec_jax.training.state import TrainState
from ec_jax.training.update import Recipe, make_update


@dataclasses.dataclass(frozen=True)
class Steps:
    """``steps(state, step) -> (state, metrics)``, a pure function of both.

    Attributes:
      update: of a batch, on all devices.
      streams: {name: what it reads of the training images}.
      reads: ``step -> names``, the streams of which a step reads a batch.
      shared: what all steps have in common, on all devices.
      scenario: whose images and devices.
    """

    update: parallel.PerDevice
    streams: Mapping[str, Stream]
    reads: Callable[[int], tuple[str, ...]]
    shared: Any
    scenario: Scenario

    def __call__(self, state: TrainState, step: int) -> tuple[TrainState, dict[str, jax.Array]]:
        """Makes the update; ``state`` is donated."""
        return self.update(state, self.shared, self._batch(step))

    def flops(self, state: TrainState, steps: int) -> Callable[[int], int] | None:
        """Floating point operations of the first n of ``steps`` steps, on all devices.

        Args:
          state: as at their start.
          steps: of the training.

        Returns:
          A function of n; None where they are not known.
        """
        # Steps that read the same streams are one program.
        kinds = {self.reads(step): step for step in range(steps)}
        each = {
            names: self.update.flops(state, self.shared, self._batch(step))
            for names, step in kinds.items()
        }
        if None in each.values():
            return None
        return lambda n: sum(each[self.reads(step)] for step in range(n))

    def _batch(self, step: int) -> dict[str, dict[str, jax.Array]]:
        data, batch = self.scenario.data, {}
        for name in self.reads(step):
            rows = self.streams[name].batch_indices(step)
            batch[name] = {"image": data.train_images[rows], "label": data.train_labels[rows]}
        return parallel.shard(batch, self.scenario.mesh)


def make_steps(
    scenario: Scenario, training: Training, network: Network, optimizer: Any, extras: Any
) -> Steps:
    """The steps of a training.

    Args:
      scenario: data and devices.
      training: what it is.
      network: built with ``axis_name=parallel.AXIS``.
      optimizer: an optax transformation over the trained parts.
      extras: what the method prepared.
    """
    c, mesh, method = scenario.config, scenario.mesh, training.method
    recipe = Recipe(
        training.loss,
        optimizer,
        training.trained,
        training.batch_norm_train,
        c.data.augment,
        training.steps,
    )
    if method:
        recipe = dataclasses.replace(recipe, view=method.view, limit=method.limit)
    update = make_update(network, recipe, *scenario.moments)
    streams = {
        name: Stream(indices, size, c.seed, f"{training.draw}/{name}")
        for name, (indices, size) in training.streams.items()
    }
    names = tuple(streams)
    shared = {"key": rng.key(c.seed, training.draw), "extras": extras}
    return Steps(
        parallel.per_device(update, mesh, c.parallel.map),
        streams,
        (lambda step: tuple(method.reads(step, training.steps))) if method else lambda _: names,
        parallel.replicate(shared, mesh),
        scenario,
    )
