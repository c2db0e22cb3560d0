"""The steps of a training: each reads its batch and makes its update."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from ec_jax import parallel, rng
from ec_jax.data.feed import Feed
from ec_jax.data.loader import Stream
from ec_jax.models.network import Network
from ec_jax.scenario import Scenario
from ec_jax.training.plan import Training
from ec_jax.training.state import TrainState
from ec_jax.training.update import Recipe, make_update

Read = Callable[[int], Any]


@dataclasses.dataclass(frozen=True)
class Steps:
    """``steps(state, step) -> (state, metrics)``, a pure function of both.

    Attributes:
      update: of a batch, on all devices.
      streams: {name: ``step -> its batch``, as the update takes it}.
      reads: ``step -> names``, the streams of which a step reads a batch.
      shared: what all steps have in common, on all devices.
      mesh: of the devices.
    """

    update: parallel.PerDevice
    streams: Mapping[str, Read]
    reads: Callable[[int], tuple[str, ...]]
    shared: Any
    mesh: jax.sharding.Mesh

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
        kinds: dict[tuple[str, ...], int] = {}
        for step in range(steps):
            kinds.setdefault(self.reads(step), step)
        each = {
            names: self.update.flops(state, self.shared, self._batch(step))
            for names, step in kinds.items()
        }
        if None in each.values():
            return None
        return lambda n: sum(each[self.reads(step)] for step in range(n))

    def _batch(self, step: int) -> dict[str, Any]:
        batch = {name: self.streams[name](step) for name in self.reads(step)}
        return parallel.shard(batch, self.mesh)


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
    c, mesh = scenario.config, scenario.mesh
    shared = {"key": rng.key(c.seed, training.draw), "extras": extras}
    shared = parallel.replicate(shared, mesh)
    if scenario.resident:
        shared["data"] = scenario.resident
    reads = make_reads(training)
    streams = {}
    for name, (indices, size) in training.streams.items():
        stream = Stream(indices, size, c.seed, f"{training.draw}/{name}")
        # One more than are made: at the end the next one is tried (``loop.train``).
        when = [step for step in range(training.steps + 1) if name in reads(step)]
        streams[name] = _reader(scenario, stream, when)
    update = make_program(scenario, training, network, optimizer)
    return Steps(update, streams, reads, shared, mesh)


def make_program(
    scenario: Scenario, training: Training, network: Network, optimizer: Any
) -> parallel.PerDevice:
    """The update of a training on all devices, ``(state, shared, batch) -> (state, metrics)``.

    Args:
      scenario: as for ``make_steps``, and so the others.
      training: what it is.
      network: built with ``axis_name=parallel.AXIS``.
      optimizer: an optax transformation over the trained parts.
    """
    c, method = scenario.config, training.method
    recipe = Recipe(
        training.loss,
        optimizer,
        training.trained,
        training.batch_norm_train,
        "none" if scenario.pictures else c.data.augment,  # they are augmented when decoded
        training.steps,
    )
    if method:
        recipe = dataclasses.replace(recipe, view=method.view, limit=method.limit)
    update = make_update(network, recipe, *scenario.moments)
    if scenario.resident:
        update = partial(_of_rows, update)
    return parallel.per_device(update, scenario.mesh, c.parallel.map)


def make_reads(training: Training) -> Callable[[int], tuple[str, ...]]:
    """``step -> names`` of the streams of which it reads a batch."""
    method, names = training.method, tuple(training.streams)
    if not method:
        return lambda _: names
    return lambda step: tuple(method.reads(step, training.steps))


def _of_rows(update: Callable, state: TrainState, shared: Any, rows: Any) -> Any:
    """An update that finds the images of its batch on the device."""
    data = shared["data"]
    batch = {
        name: {key: a.at[part].get(mode="promise_in_bounds") for key, a in data.items()}
        for name, part in rows.items()
    }
    return update(state, shared, batch)


def _reader(scenario: Scenario, stream: Stream, steps: Sequence[int]) -> Read:
    """``step -> batch`` of a stream that ``steps`` read, this process's part of it.

    It holds rows, where the images are on the devices.
    """
    data = scenario.data
    own = parallel.own_rows(stream.batch_size)
    if scenario.resident:
        return lambda step: stream.batch_indices(step)[own].astype(np.int32)
    if scenario.pictures:
        kind, part = scenario.config.data.augment, parallel.part()
        images = Feed(stream, data.train_images, kind, steps, part).batch
    else:
        images = partial(_rows, data.train_images, stream, own)
    labels = partial(_rows, data.train_labels, stream, own)
    return lambda step: {"image": images(step), "label": labels(step)}


def _rows(values: np.ndarray, stream: Stream, own: slice, step: int) -> np.ndarray:
    return values[stream.batch_indices(step)[own]]
