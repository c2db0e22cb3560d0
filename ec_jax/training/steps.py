"""The steps of a training: each reads its batch and makes its update."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
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
_AT_ONCE = 8  # steps that an accelerator is given at a time


@dataclasses.dataclass(frozen=True)
class Steps:
    """``steps(state, step, count) -> (state, metrics)``, a pure function of all three.

    Attributes:
      update: of a batch, on all devices; or of ``size`` batches, one after the other.
      streams: {name: ``step -> its batch``, as the update takes it}.
      reads: ``step -> names``, the streams of which a step reads a batch.
      shared: what all steps have in common, on all devices.
      mesh: of the devices.
      size: steps that can be made by one call.
    """

    update: parallel.PerDevice
    streams: Mapping[str, Read]
    reads: Callable[[int], tuple[str, ...]]
    shared: Any
    mesh: jax.sharding.Mesh
    size: int = 1

    def __call__(
        self, state: TrainState, step: int, count: int = 1
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Makes ``count`` updates (see ``together``), the first of them ``step``.

        ``state`` is donated. The metrics are scalars where ``size`` is 1, else arrays [size] of
        which the first ``count`` are theirs.
        """
        return self.update(state, self._shared(count), self.batch(step, count))

    def together(self, step: int, most: int) -> int:
        """How many steps from ``step`` on, at most ``most``, one call can make.

        They are one program only if they read the same streams.
        """
        count = 1
        while count < min(self.size, most) and self.reads(step + count) == self.reads(step):
            count += 1
        return count

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
            # Of a loop XLA counts one pass.
            names: self.update.flops(state, self._shared(1), self.batch(step, 1))
            for names, step in kinds.items()
        }
        if None in each.values():
            return None
        return lambda n: sum(each[self.reads(step)] for step in range(n))

    def _shared(self, count: int) -> Any:
        if self.size == 1:
            return self.shared
        return {**self.shared, "count": parallel.replicate(np.int32(count), self.mesh)}

    def batch(self, step: int, count: int) -> dict[str, Any]:
        """What ``count`` updates read, the first of them ``step``, on all devices."""
        names = self.reads(step)
        if self.size == 1:
            batch = {name: self.streams[name](step) for name in names}
        else:  # of the steps that are not made any rows will do
            steps = [min(step + i, step + count - 1) for i in range(self.size)]
            batch = {name: np.stack([self.streams[name](i) for i in steps]) for name in names}
        return parallel.shard(batch, self.mesh, self.update.axis)


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
    return Steps(update, streams, reads, shared, mesh, at_once(scenario))


def at_once(scenario: Scenario) -> int:
    """Steps that the devices are given at a time: ``parallel.at_once``, or what is fast there.

    More than one only where the images lie on the devices, and no more than are made between two
    looks at the numbers or two checkpoints. XLA's loops on a CPU run convolutions
    many times slower (docs/performance.md).
    """
    if not scenario.resident:
        return 1
    c = scenario.config
    usual = 1 if scenario.mesh.devices.flat[0].platform == "cpu" else _AT_ONCE
    return min(c.parallel.at_once or usual, c.report.log_every, c.checkpoint.every)


def make_program(
    scenario: Scenario, training: Training, network: Network, optimizer: Any
) -> parallel.PerDevice:
    """The update of a training on all devices, ``(state, shared, batch) -> (state, metrics)``.

    Where ``at_once`` is more than one, it makes that many, or the first ``shared["count"]`` of
    them: the arrays of the batch and the metrics then have an axis for the steps before all others.

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
        update = partial(_of_rows, update, scenario.image_shape)
    if (size := at_once(scenario)) > 1:
        update = partial(_one_after_the_other, update, size)
    return parallel.per_device(update, scenario.mesh, c.parallel.map, axis=int(size > 1))


def make_reads(training: Training) -> Callable[[int], tuple[str, ...]]:
    """``step -> names`` of the streams of which it reads a batch."""
    method, names = training.method, tuple(training.streams)
    if not method:
        return lambda _: names
    return lambda step: tuple(method.reads(step, training.steps))


def _of_rows(
    update: Callable, shape: tuple[int, ...], state: TrainState, shared: Any, rows: Any
) -> Any:
    """An update that finds the images of its batch, each of that shape, on the device."""

    def found(part: Any) -> dict[str, Any]:
        data = {k: a.at[part].get(mode="promise_in_bounds") for k, a in shared["data"].items()}
        return {**data, "image": data["image"].reshape(-1, *shape)}

    return update(state, shared, {name: found(part) for name, part in rows.items()})


def _one_after_the_other(
    update: Callable, size: int, state: TrainState, shared: Any, batches: Any
) -> Any:
    """The first ``shared["count"]`` of ``size`` updates: a loop, so that it is one program."""
    common = {key: value for key, value in shared.items() if key != "count"}

    def batch(i: Any) -> Any:
        return jax.tree.map(lambda a: a[i], batches)

    def once(i: Any, carried: Any) -> Any:
        state, history = carried
        state, metrics = update(state, common, batch(i))
        return state, jax.tree.map(lambda all_, one: all_.at[i].set(one), history, metrics)

    found = jax.eval_shape(update, state, common, batch(0))[1]
    history = jax.tree.map(lambda a: jnp.zeros((size, *a.shape), a.dtype), found)
    return jax.lax.fori_loop(0, shared["count"], once, (state, history))


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
