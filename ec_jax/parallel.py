"""Devices and processes: the mesh, per-device programs over it, and what they share.

An update step is written once as a program for one device with named collectives.
``jax.jit(jax.shard_map(...))`` or ``jax.pmap`` runs it on every device of the mesh.

Of several processes each holds some of the devices and runs the same program on them. What is
equal in all of them (parameters, settings) every process has for itself; of a batch each reads its
own part. The first one alone speaks and writes.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ec_jax import processes
from ec_jax.errors import InputError

AXIS = "data"  # the one axis over which a batch is cut
MAPS = ("shard_map", "pmap")


def make_mesh(devices: int = 0) -> Mesh:
    """A one-axis mesh of ``devices`` devices (0: all that JAX sees), as many of each process.

    On a machine that has only its CPU, that many virtual devices are made, 64 at most.

    Raises:
      InputError: there are fewer devices, or the processes cannot share them equally.
    """
    processes.make_virtual(devices)
    found, count = jax.devices(), jax.process_count()
    if devices > len(found):
        raise InputError(
            "parallel.devices", devices, f"there are {len(found)}; use at most that, or 0 for all"
        )
    if devices % count:
        remedy = f"{count} processes have equal shares; use a multiple, or 0 for all"
        raise InputError("parallel.devices", devices, remedy)
    share = (devices or len(found)) // count
    own = [[d for d in found if d.process_index == process] for process in range(count)]
    mesh = Mesh(np.array([device for some in own for device in some[:share]]), (AXIS,))
    if count > 1:
        _connect(mesh)
    return mesh


def _connect(mesh: Mesh) -> None:
    """Makes a first exchange, for which Gloo waits half a minute; for others as long as it takes.

    What comes first else may be a step that one process has compiled a minute before another.
    """
    total = over_rows(lambda _, rows: jax.lax.psum(jnp.sum(rows), AXIS), mesh)
    own = np.ones(mesh.size // jax.process_count(), np.float32)
    jax.block_until_ready(total((), shard(own, mesh)))


def one_device() -> Mesh:
    """A mesh of a device of this process alone."""
    return Mesh(np.array(jax.local_devices()[:1]), (AXIS,))


def own_device(mesh: Mesh) -> jax.Device:
    """The first device of the mesh that this process holds."""
    return mesh.local_devices[0]


def part() -> tuple[int, int]:
    """(i, n): this process reads the i-th of n equal parts of every batch."""
    return jax.process_index(), jax.process_count()


def own_rows(count: int) -> slice:
    """Those of ``count`` rows, a multiple of the devices, that lie on this process's devices."""
    index, parts = part()
    share = count // parts
    return slice(index * share, (index + 1) * share)


def along(axis: int) -> PartitionSpec:
    """An axis of an array is cut over the devices."""
    return PartitionSpec(*[None] * axis, AXIS)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The arrays of ``tree``, whole on every device; in every process they are the same."""
    whole = NamedSharding(mesh, PartitionSpec())
    if processes.alone():
        return jax.device_put(tree, whole)
    return jax.tree.map(lambda a: _everywhere(a, whole), tree)


def _everywhere(array: Any, whole: NamedSharding) -> jax.Array:
    if isinstance(array, jax.Array) and jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = _everywhere(jax.random.key_data(array), whole)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    value = np.asarray(array)
    return jax.make_array_from_callback(value.shape, whole, lambda index: value[index])


def shard(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """The arrays of ``tree``, cut over the devices along an axis.

    Args:
      tree: arrays with n / p rows along that axis: of n rows the part (``own_rows``) of this one
        of p processes.
      mesh: of the devices.
      axis: 0 or more.
    """
    cut = NamedSharding(mesh, along(axis))
    if processes.alone():
        return jax.device_put(tree, cut)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(cut, a), tree)


def shard_rows(tree: Any, mesh: Mesh) -> tuple[Any, jax.Array]:
    """Arrays [n, ...] that every process has whole, cut over the devices; n is any number >= 1.

    Returns:
      The arrays [m, ...], m the next multiple of the devices, and which rows are not there to fill
      up: bool [m].
    """
    count = len(jax.tree.leaves(tree)[0])
    if mesh.size == 1:
        return shard((tree, np.ones(count, bool)), mesh)
    filled = -(-count // mesh.size) * mesh.size
    rows = own_rows(filled)
    here = np.minimum(np.arange(rows.start, rows.stop), count - 1)
    valid = np.arange(rows.start, rows.stop) < count
    return shard((jax.tree.map(lambda a: np.asarray(a)[here], tree), valid), mesh)


def over_rows(program: Callable, mesh: Mesh) -> Callable:
    """Compiles ``program(shared, rows)``, run on every device with the axis ``AXIS`` named.

    Args:
      program: it receives the whole of ``shared`` and its share of ``rows`` (``shard_rows``), and
        returns values that are equal on all devices.
      mesh: where to run.
    """
    whole, cut = PartitionSpec(), PartitionSpec(AXIS)
    specs = {"in_specs": (whole, cut), "out_specs": whole}
    return jax.jit(jax.shard_map(program, mesh=mesh, check_vma=False, **specs))


def whole_result(program: Callable, mesh: Mesh, **options: Any) -> Callable:
    """``jax.jit`` of a program over arrays that are cut over the devices; it returns whole ones."""
    return jax.jit(program, out_shardings=NamedSharding(mesh, PartitionSpec()), **options)


def cut_result(program: Callable, mesh: Mesh) -> Callable:
    """``jax.jit`` of a network's pass over arrays cut over the devices, as its results are."""
    return _jit(program, mesh, out_shardings=NamedSharding(mesh, PartitionSpec(AXIS)))


def _jit(program: Callable, mesh: Mesh, **options: Any) -> Any:
    """``jax.jit`` of a network's program for the devices of a mesh."""
    if mesh.devices.flat[0].platform == "cpu":
        options["compiler_options"] = _cpu_options()
    return jax.jit(program, **options)


@functools.cache
def _cpu_options() -> dict[str, str]:
    """What XLA is told on a CPU: products and convolutions by its own code, not by YNNPACK's.

    In networks its own are faster (docs/performance.md); one large product is not. A version that
    does not know the option goes without.
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def here(tree: Any) -> Any:
    """Arrays that are whole on every device, as arrays of one device of this process."""
    return jax.tree.map(lambda a: a.addressable_data(0), tree)


def own_part(tree: Any) -> Any:
    """Of arrays that are cut over the devices the rows on this process's, as NumPy arrays."""

    def rows(array: jax.Array) -> np.ndarray:
        parts = sorted(array.addressable_shards, key=lambda part: part.index[0].start or 0)
        return np.concatenate([np.asarray(part.data) for part in parts])

    return jax.tree.map(rows, tree)


def flops(program: Any, *arguments: Any) -> int | None:
    """The floating point operations of one call of a compiled program, as XLA counts them.

    Counted is the program as it was traced, before a backend makes it faster: a multiplication and
    an addition are two; exponentials, roots and the like are none, the body of a loop counts once,
    and what XLA does not know, such as an array's way to the devices, counts −1. A backend that
    cannot count that is asked for its compiled program's number, and what was compiled for it the
    first call finds made.

    Args:
      program: made by ``jax.jit`` or ``jax.pmap``.
      *arguments: of the call, or their shapes and types; none is donated.

    Returns:
      The count, of one device where the program runs on several; None where there is none.
    """
    lowered = program.lower(*arguments)
    found = _analysis(lowered) or _analysis(lowered.compile())
    count = found.get("flops", -1.0)  # XLA's word for unknown
    return round(count) if count >= 0 else None


def _analysis(stage: Any) -> Mapping[str, float]:
    """What XLA says of a lowered or compiled program; nothing where it does not."""
    try:
        return stage.cost_analysis() or {}
    except jax.errors.JaxRuntimeError:  # a number for a table is no reason to stop
        return {}


@dataclasses.dataclass(frozen=True)
class PerDevice:
    """A program that runs on every device of a mesh: ``(state, shared, batch)`` over whole arrays.

    Attributes:
      program: compiled.
      devices: how many.
      stacked: the batch's arrays have an axis for the devices, before all others.
      axis: of the batch's arrays, along which they are cut.
    """

    program: Any
    devices: int
    stacked: bool = False
    axis: int = 0

    def __call__(self, state: Any, shared: Any, batch: Any) -> Any:
        """Runs it. ``state`` is donated: its buffers are reused and must not be read again."""
        return self.program(state, shared, self._cut(batch))

    def flops(self, state: Any, shared: Any, batch: Any) -> int | None:
        """The floating point operations of one call, the sum over the devices; see ``flops``."""
        count = flops(self.program, state, shared, self._cut(batch))
        return None if count is None else self.devices * count

    def _cut(self, batch: Any) -> Any:
        if not self.stacked:
            return batch
        n, axis = self.devices, self.axis

        def stack(a: Any) -> Any:
            *before, rows = a.shape[: axis + 1]
            parts = a.reshape(*before, n, rows // n, *a.shape[axis + 1 :])
            return jnp.moveaxis(parts, axis, 0)

        return jax.tree.map(stack, batch)


def per_device(program: Callable, mesh: Mesh, kind: str = "shard_map", axis: int = 0) -> PerDevice:
    """Compiles ``program(state, shared, batch) -> (state, metrics)`` for all devices of a mesh.

    Args:
      program: runs on one device, with the axis ``AXIS`` named; it receives the whole
        ``state`` and ``shared`` and its share of ``batch``, and returns values that are
        equal on all devices.
      mesh: where to run.
      kind: ``shard_map`` or ``pmap``; both compile to the same computation, but on a CPU
        ``jax.pmap`` cannot be told to leave YNNPACK out.
      axis: of the batch's arrays, along which they are cut.

    Returns:
      A function of the same signature over whole arrays.

    Raises:
      ValueError: another ``kind``.
    """
    if kind == "pmap":
        return _pmap(program, mesh, axis)
    if kind != "shard_map":
        raise ValueError(f"kind = {kind!r}: one of {', '.join(MAPS)}")
    whole, cut = PartitionSpec(), along(axis)
    mapped = jax.shard_map(
        program,
        mesh=mesh,
        in_specs=(whole, whole, cut),
        out_specs=(whole, whole),
        # With the check, JAX itself would sum gradients of replicated parameters; the
        # program says `pmean` where it means it, under both maps.
        check_vma=False,
    )
    return PerDevice(_jit(mapped, mesh, donate_argnums=0), mesh.size, axis=axis)


def _pmap(program: Callable, mesh: Mesh, axis: int) -> PerDevice:
    mapped = jax.pmap(
        program,
        axis_name=AXIS,
        in_axes=(None, None, 0),
        out_axes=None,
        devices=list(mesh.devices.flat),
        donate_argnums=0,
    )
    return PerDevice(mapped, mesh.size, True, axis)


def global_mean(values: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """The mean of per-example values [n] over the examples of all devices.

    Args:
      values: float32 [n], this device's share.
      mask: bool [n]; examples that count. None: all do.

    Returns:
      A scalar, equal on all devices; 0 where no example counts.
    """
    mask = jnp.ones(values.shape, bool) if mask is None else mask
    total = jax.lax.psum(jnp.sum(jnp.where(mask, values, 0.0)), AXIS)
    count = jax.lax.psum(jnp.sum(mask.astype(jnp.float32)), AXIS)
    return total / jnp.maximum(count, 1.0)


def global_variance(values: jax.Array) -> jax.Array:
    """The variance over the examples of all devices of [n, d], averaged over the d dimensions."""
    mean = jax.lax.pmean(jnp.mean(values, axis=0), AXIS)
    return jnp.mean(jax.lax.pmean(jnp.mean(jnp.square(values - mean[None]), axis=0), AXIS))
