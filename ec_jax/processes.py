"""The processes of a run: how they join, wait for one another, and end together.

Each holds some of the devices (``parallel``) and runs the same program on them. The first one alone
speaks and writes.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from ec_jax.errors import MISSED, InputError, TrainingError

MOST_VIRTUAL = 64  # devices that one CPU is asked to play; more only grow slower
FROM_CLUSTER = "auto"  # of ``join``: the environment says where the others are
_WAIT = 300  # seconds for the others to start
_LEAVE = 15  # seconds for the others to come to the end, too
_PIECE = 2**26  # bytes of what is gathered at once
# Seconds after which a process that says nothing counts as lost. What it was computing with the
# others fails sooner; this is for those that it left waiting.
_SILENCE = 40


def join(coordinator: str, processes: int, process: int, devices: int = 0) -> None:
    """Joins this process to the others of its run, before JAX makes its devices.

    Args:
      coordinator: HOST:PORT of the first process; ``auto``: a TPU pod, Slurm, MPI or Kubernetes
        says all of it. Empty: this process is alone, and nothing is done.
      processes: how many, where the coordinator is named.
      process: which of them this one is, from 0.
      devices: of the mesh to be, as for ``make_mesh``.

    Raises:
      InputError: nothing says where the others are, or they did not come.
    """
    if not coordinator:
        return
    make_virtual(devices // processes if processes else devices)
    # What is done at SIGTERM is this program's own matter (``ec_jax/termination.py``).
    jax.config.update("jax_enable_preemption_service", False)
    named = (coordinator, processes, process) if coordinator != FROM_CLUSTER else ()
    try:
        jax.distributed.initialize(
            *named,
            initialization_timeout=_WAIT,
            heartbeat_timeout_seconds=_SILENCE,
            shutdown_timeout_seconds=_LEAVE,
        )
        wait("joined")  # Gloo's first exchange waits for half a minute, later ones do not end
    except (RuntimeError, ValueError) as error:
        remedy = (
            f"the other processes cannot be joined ({str(error).splitlines()[0]}); "
            "give HOST:PORT of the first process with parallel.processes and parallel.process"
        )
        raise InputError("parallel.coordinator", coordinator, remedy) from error


# Of errors that name what processes do together; JAX and orbax have no class for them.
_AMONG_PROCESSES = (
    *("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "sync_global_devices", "oordination service"),
    *("Connection closed by peer", "Connection reset by peer", "NCCL", "heartbeat"),
)

_left_alone: list[bool] = []  # not empty: the others are not there any more


def misses_another(error: BaseException) -> bool:
    """The error is that another process of the run is gone, or is not where this one is.

    It is no word on the data or the file that was being worked on.
    """
    if alone() or isinstance(error, InputError):
        return False
    return any(word in str(error) for word in _AMONG_PROCESSES)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Within, what the others are missed for is a ``TrainingError``; the first one alone speaks.

    Raises:
      TrainingError: another process ended, or cannot be reached.
    """
    if not primary():  # what libraries say beside Python, too
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    try:
        yield
    except Exception as error:
        if not misses_another(error):
            raise
        _left_alone.append(True)
        reason = str(error).splitlines()[0][:200]
        this = f"process {jax.process_index()} of {jax.process_count()}"
        raise TrainingError(f"{this}: {MISSED} ({reason})") from error


_AT_ONCE = (1, 130)  # what no other process sees coming


def leave(status: int) -> NoReturn:
    """Ends this process, with the others where they end, too.

    JAX aborts those that are a moment behind the first process. So every process that has come to
    an end which all come to waits for the others, ``_LEAVE`` seconds at most: one that was alone in
    it, such as with a full disk, cannot know that.
    """
    if status not in _AT_ONCE and not _left_alone:
        with contextlib.suppress(Exception):  # one of the others was faster, or never comes
            jax.distributed.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def primary() -> bool:
    """This is the process that speaks and writes."""
    return jax.process_index() == 0


def alone() -> bool:
    """There is no other process."""
    return jax.process_count() == 1


def wait(name: str) -> None:
    """Returns when all processes are at this place of the program, ``name``."""
    if not alone():
        multihost_utils.sync_global_devices(name)


def gather(array: np.ndarray) -> np.ndarray:
    """[p, n, ...]: the arrays [n, ...] of all p processes, all of one shape."""
    if alone():
        return array[None]
    whole = np.empty((jax.process_count(), *array.shape), array.dtype)
    step = max(_PIECE // max(whole[:, :1].nbytes, 1), 1)
    for i in range(0, len(array), step):
        whole[:, i : i + step] = multihost_utils.process_allgather(array[i : i + step])
    return whole


def of_first(number: int) -> int:
    """The first process's number; all must ask at the same place of the program."""
    return int(gather(np.array([number]))[0, 0])


def any_process(said: bool) -> bool:
    """At least one process says so; all must ask at the same place of the program."""
    if alone():
        return said
    return bool(multihost_utils.process_allgather(np.array(said)).any())


def by_first(make: Callable[[], Any], name: str) -> Any:
    """What ``make`` returns, made by the first process before the others.

    For what leaves files that the others then find, such as a data set that is unpacked.
    """
    if alone():
        return make()
    if not primary():
        wait(name)
        return make()
    try:
        return make()
    finally:
        wait(name)


def check_same(told: Mapping[str, str]) -> None:
    """Refuses processes that do not have the same; all must ask at the same place of the program.

    Args:
      told: {what: the value here}, in the same order everywhere.

    Raises:
      InputError: names what differs first.
    """
    if alone():
        return
    here = [hashlib.sha256(value.encode()).digest() for value in told.values()]
    found = multihost_utils.process_allgather(np.frombuffer(b"".join(here), np.uint8))
    found = found.reshape(len(found), len(told), -1)
    differs = (found != found[:1]).any(axis=-1)  # [processes, what]
    for i, what in enumerate(told):
        if differs[:, i].any():
            field = f"process {differs[:, i].argmax()} of {len(found)}"
            remedy = "is not that of the first process; give all the same command and data"
            raise InputError(field, what, remedy)


def first_alone(make: Callable[[], Any], field: str, value: str) -> None:
    """Has the first process alone do something; what it refuses the others refuse, too.

    Raises:
      InputError: its own, or one that names the field and the value.
    """
    refused = None
    if primary():
        try:
            make()
        except InputError as error:
            refused = error
    if any_process(refused is not None):
        raise refused or InputError(field, value, "the first process refuses it, and says why")


def make_virtual(devices: int) -> None:
    """Has JAX make so many virtual devices of a CPU, if it has made none yet."""
    if 1 < devices <= MOST_VIRTUAL and jax.config.jax_num_cpu_devices < devices:
        with contextlib.suppress(RuntimeError):  # JAX has made its devices already
            # Without effect where an accelerator is the default backend.
            jax.config.update("jax_num_cpu_devices", devices)
