"""The folder of a run: whose it is, and files that are written whole or not at all.

Nothing here needs JAX, so that a mistake is answered at once.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ec_jax.config import flatten, resolved
from ec_jax.errors import InputError

# Fields that do not change what a run computes: they may differ between two starts.
FREE = ("stages", "data.data_dir", "data.manual_dir", "checkpoint.", "report.", "parallel.")
# What a run and a grid of runs leave: neither goes into the other's folder.
OF_A_RUN, OF_A_GRID = ("checkpoints", "metrics.json"), ("shared",)
NORMALIZATION = "normalization.json"  # of a run: mean and deviation of its images in [0, 1]
LOCK = "lock"  # of a run that writes there now: its host and process
JOB = "EC_JAX_JOB"  # in the environment: a name that a job keeps when it is started again elsewhere
_NAME = 200  # bytes of a folder's name, which is lengthened while it is made; 255 can be
_PROBE = ".ec_jax-"  # folders made to see whether one can
_PART_OF_CONFIG = re.compile(r"config\.json\.[\w.-]+\.part")
_held: set[Path] = set()  # the folders whose lock this process has


def check_workdir(
    config: Any,
    workdir: str | Path,
    *,
    foreign: tuple[str, ...] = (),
    free: tuple[str, ...] = (),
) -> None:
    """Refuses a workdir that cannot be written or that belongs to another config or command.

    Args:
      config: complete.
      workdir: may not be there yet.
      foreign: names of what another command leaves.
      free: more fields that may differ, beside ``FREE``.

    Raises:
      InputError: names the folder and the reason, or the first fields that differ.
    """
    workdir = Path(workdir).absolute()
    path = workdir / "config.json"
    # All that a run leaves which was killed while it wrote its first file.
    if all(_PART_OF_CONFIG.fullmatch(name) for name in contents(workdir) - {LOCK}):
        return
    if not path.is_file():
        raise InputError("workdir", str(workdir), "holds other files; choose an empty folder")
    if there := [name for name in foreign if (workdir / name).exists()]:
        remedy = f"holds {there[0]} of another command; choose another folder"
        raise InputError("workdir", str(workdir), remedy)
    try:
        found = read_json(path)
    except ValueError as error:
        raise InputError(
            "workdir", str(workdir), "its config.json cannot be read; choose another folder"
        ) from error
    _check_same(flatten(found), flatten(resolved(config)), workdir, free)


def contents(folder: Path, field: str = "workdir") -> set[str]:
    """The names in a folder for results; none where it is still to be made.

    Args:
      folder: to be written to.
      field: what the user calls it.

    Raises:
      InputError: nothing can be written there.
    """
    folder = folder.absolute()
    check_path(folder, field)
    place = folder
    try:
        # A link to nothing is there, and nothing can be made in its place.
        place = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
        # By doing it: permission bits say nothing of special and read-only file systems.
        tempfile.TemporaryDirectory(dir=place, prefix=_PROBE).cleanup()
        found = {p.name for p in folder.iterdir()} if place == folder else set()
        # Also what a run left that was killed just there.
        return {name for name in found if not name.startswith(_PROBE)}
    except OSError as error:
        raise InputError(
            field,
            str(folder),
            f"cannot be written ({place}: {error.strerror}); choose another folder",
        ) from error


def check_path(path: Path, field: str) -> None:
    """Refuses names for results that no file system has, or no report can show.

    Raises:
      InputError: a part is too long, or holds bytes that are no text, or control characters.
    """
    if not str(path).isprintable():
        raise InputError(field, str(path), "cannot be printed; choose another name")
    if len(os.fsencode(path)) > 4 * _NAME or any(len(os.fsencode(p)) > _NAME for p in path.parts):
        raise InputError(
            field,
            str(path),
            f"cannot be written (a name has over {_NAME} bytes); choose another folder",
        )


def _check_same(found: dict, wanted: dict, workdir: Path, free: tuple[str, ...]) -> None:
    measured = (workdir / "metrics.json").exists()
    free = (*FREE, *free, *(() if measured else ("evaluation.",)))  # which is nobody's yet
    absent = sorted(field for field in wanted.keys() - found.keys() if not field.startswith(free))
    if absent:
        remedy = f"was made by another version, without {absent[0]}; choose another folder"
        raise InputError("workdir", str(workdir), remedy)
    different = [
        f"{field} is {found.get(field)!r} there and {wanted.get(field)!r} here"
        for field in sorted(found.keys() | wanted.keys())
        if found.get(field) != wanted.get(field) and not field.startswith(free)
    ]
    if different:
        more = f" (and {len(different) - 3} more)" if len(different) > 3 else ""
        raise InputError(
            "workdir",
            str(workdir),
            f"belongs to another config: {'; '.join(different[:3])}{more}; choose another folder, "
            "or set the field back",
        )


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other runs out of a workdir, which is made if missing.

    The file ``lock`` says who is in it. The operating system's own lock on it, which ends with the
    process however that ends, tells a run from what a killed one left. Of another host it may tell
    nothing, as not every network file system passes locks on: there the file counts, unless it was
    left by the job that this process is of (``JOB``), which its scheduler starts again only when it
    is over. Inside another ``locked`` of the same process it does nothing.

    Raises:
      InputError: names the host and the process of the other run.
    """
    if workdir in _held:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / LOCK
    file = _take(path)
    _held.add(workdir)
    try:
        yield
    finally:
        _held.discard(workdir)
        path.unlink(missing_ok=True)
        os.close(file)


def _take(path: Path) -> int:
    """The open file of a lock that is ours now."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _refuse_other(path, file)
            # One that ended between these lines has removed the file that we hold.
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                me = {"host": socket.gethostname(), "pid": os.getpid(), "started": now}
                me |= {"process_started": _started(os.getpid()), "job": os.environ.get(JOB)}
                os.ftruncate(file, 0)
                os.pwrite(file, (json.dumps(me) + "\n").encode(), 0)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _refuse_other(path: Path, file: int) -> None:
    """Takes the operating system's lock, or refuses; the same for what another host left."""
    alive = False
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        known = True
    except OSError as error:
        alive = known = error.errno in (errno.EACCES, errno.EAGAIN)  # else: no locks there
    try:
        found = json.loads(os.pread(file, 2**16, 0))
        host, pid = str(found["host"]), int(found["pid"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        # Its owner was killed, or is just writing it.
        host, pid = socket.gethostname(), 0
    if not known and host == socket.gethostname():
        alive = pid > 0 and _started(pid) is not None and _started(pid) == found["process_started"]
    there = f"another run is in it: process {pid or 'unknown'} on {host}"
    if alive:
        remedy = f"{there}; wait for it, stop it, or choose another folder"
        raise InputError("workdir", str(path.parent), remedy)
    ours = os.environ.get(JOB)
    if host != socket.gethostname() and not (ours and found.get("job") == ours):
        remedy = f"{there}, as its file {LOCK} says; if that run is over, delete {path}"
        raise InputError("workdir", str(path.parent), remedy)


def _started(pid: int) -> int | None:
    """When a process of this host started, in the kernel's ticks; None: there is none, or no /proc.

    A process's number is given to another one some time after its end; the two together are not.
    """
    try:
        # Its name, in brackets, may hold spaces and brackets of its own.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def write_resolved(config: Any, workdir: Path) -> None:
    """Writes ``config.json``, whole or not at all."""
    write_json(workdir / "config.json", resolved(config))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of JSON.

    Raises:
      ValueError: the file cannot be read, or holds no object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except OSError as error:
        raise ValueError(error.strerror or "it cannot be read") from error
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    return found


def read_metrics(workdir: Path) -> dict[str, Any]:
    """What ``evaluate`` left in a run's folder, ``metrics.json``.

    Raises:
      InputError: it is damaged.
    """
    try:
        found = read_json(workdir / "metrics.json")
        for part in ("scenario", "models", "cost"):
            if not isinstance(found.get(part), dict):
                raise ValueError(f"it has no {part}")
    except ValueError as error:
        remedy = f"its metrics.json is damaged ({error}); delete it, and run evaluate again"
        raise InputError("workdir", str(workdir), remedy) from error
    return found


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    write_whole(path, lambda part: part.write_text(json.dumps(value, indent=2) + "\n"))


_leaves_writing: list[bool] = []  # not empty: to another process


def leave_writing() -> None:
    """From now on this process writes no file: another one of the run does."""
    _leaves_writing.append(True)


def writes() -> bool:
    """This process writes the run's files."""
    return not _leaves_writing


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls ``write`` on a temporary name and renames the file when it is complete."""
    if _leaves_writing:
        return
    part = _part(path)
    try:
        write(part)
        _keep(part)  # or a power cut could leave the name without the contents
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    os.replace(part, path)
    _keep(path.parent)


def _keep(path: Path) -> None:
    """Has a file, or the names in a folder, on the disk before it returns."""
    opened = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not of every file system
            os.fsync(opened)
    finally:
        os.close(opened)


def _part(path: Path) -> Path:
    """A name that no other process takes: the cells of a grid may run at once, on many machines."""
    host = re.sub(r"[^\w.-]", "_", socket.gethostname())
    return path.with_name(f"{path.name}.{host}-{os.getpid()}.part")
