"""Devices: the mesh, per-device programs over it, and what they share.

An update step is written once as a program for one device with named collectives.
``jax.jit(jax.shard_map(...))`` or ``jax.pmap`` runs it on every device of the mesh.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ec_jax.errors import InputError

AXIS = "data"  # the one axis over which a batch is cut
MAPS = ("shard_map", "pmap")
MOST_VIRTUAL = 64  # devices that one CPU is asked to play; more only grow slower


def make_mesh(devices: int = 0) -> Mesh:
    """A one-axis mesh of ``devices`` devices (0: all that JAX sees).

    On a machine that has only its CPU, that many virtual devices are made, 64 at most.

    Raises:
      InputError: there are fewer devices.
    """
    if 1 < devices <= MOST_VIRTUAL and jax.config.jax_num_cpu_devices < devices:
        with contextlib.suppress(RuntimeError):  # JAX has made its devices already
            # Without effect where an accelerator is the default backend.
            jax.config.update("jax_num_cpu_devices", devices)
    found = jax.devices()
    if devices > len(found):
        raise InputError(
            "parallel.devices", devices, f"there are {len(found)}; use at most that, or 0 for all"
        )
    return Mesh(np.array(found[: devices or len(found)]), (AXIS,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The arrays of ``tree``, whole on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard(tree: Any, mesh: Mesh) -> Any:
    """The arrays of ``tree``, cut over the devices along their first axis."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(AXIS)))


def per_device(program: Callable, mesh: Mesh, kind: str = "shard_map") -> Callable:
    """Compiles ``program(state, shared, batch) -> (state, metrics)`` for all devices of a mesh.

    Args:
      program: runs on one device, with the axis ``AXIS`` named; it receives the whole
        ``state`` and ``shared`` and its share of ``batch``, and returns values that are
        equal on all devices.
      mesh: where to run.
      kind: ``shard_map`` or ``pmap``; both compile to the same computation.

    Returns:
      A function of the same signature over whole arrays. ``state`` is donated: its
      buffers are reused and must not be read again.
    """
    if kind == "pmap":
        return _pmap(program, mesh)
    if kind != "shard_map":
        raise ValueError(f"kind = {kind!r}: one of {', '.join(MAPS)}")
    whole, cut = PartitionSpec(), PartitionSpec(AXIS)
    mapped = jax.shard_map(
        program,
        mesh=mesh,
        in_specs=(whole, whole, cut),
        out_specs=(whole, whole),
        # With the check, JAX itself would sum gradients of replicated parameters; the
        # program says `pmean` where it means it, under both maps.
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0)


def _pmap(program: Callable, mesh: Mesh) -> Callable:
    count = mesh.size
    mapped = jax.pmap(
        program,
        axis_name=AXIS,
        in_axes=(None, None, 0),
        out_axes=None,
        devices=list(mesh.devices.flat),
        donate_argnums=0,
    )

    def call(state, shared, batch):
        stacked = jax.tree.map(lambda a: a.reshape(count, a.shape[0] // count, *a.shape[1:]), batch)
        return mapped(state, shared, stacked)

    return call


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
