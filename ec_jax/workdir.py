"""The folder of a run: whose it is, and files that are written whole or not at all.

Nothing here needs JAX, so that a mistake is answered at once.
"""

import json
import os
import re
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ec_jax.config import flatten, resolved
from ec_jax.errors import InputError

# Fields that do not change what a run computes: they may differ between two starts.
FREE = ("stages", "data.data_dir", "data.manual_dir", "checkpoint.", "report.", "parallel.")
# What a run and a grid of runs leave: neither goes into the other's folder.
OF_A_RUN, OF_A_GRID = ("checkpoints", "metrics.json"), ("shared",)
NORMALIZATION = "normalization.json"  # of a run: mean and deviation of its images in [0, 1]
_PROBE = ".ec_jax-"  # folders made to see whether one can
_PART_OF_CONFIG = re.compile(r"config\.json\.[\w.-]+\.part")


def check_workdir(config: Any, workdir: str | Path, *, foreign: tuple[str, ...] = ()) -> None:
    """Refuses a workdir that cannot be written or that belongs to another config or command.

    Args:
      config: complete.
      workdir: may not be there yet.
      foreign: names of what another command leaves.

    Raises:
      InputError: names the folder and the reason, or the first fields that differ.
    """
    workdir = Path(workdir).absolute()
    path = workdir / "config.json"
    # All that a run leaves which was killed while it wrote its first file.
    if all(_PART_OF_CONFIG.fullmatch(name) for name in contents(workdir)):
        return
    if not path.is_file():
        raise InputError("workdir", str(workdir), "holds other files; choose an empty folder")
    if there := [name for name in foreign if (workdir / name).exists()]:
        remedy = f"holds {there[0]} of another command; choose another folder"
        raise InputError("workdir", str(workdir), remedy)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError("not an object")
    except (ValueError, TypeError, OSError) as error:
        raise InputError(
            "workdir", str(workdir), "its config.json cannot be read; choose another folder"
        ) from error
    _check_same(flatten(found), flatten(resolved(config)), workdir)


def contents(folder: Path, field: str = "workdir") -> set[str]:
    """The names in a folder for results; none where it is still to be made.

    Args:
      folder: to be written to.
      field: what the user calls it.

    Raises:
      InputError: nothing can be written there.
    """
    folder = folder.absolute()
    place = folder
    try:
        place = next(p for p in (folder, *folder.parents) if p.exists())
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


def _check_same(found: dict, wanted: dict, workdir: Path) -> None:
    measured = (workdir / "metrics.json").exists()
    free = FREE if measured else (*FREE, "evaluation.")  # what is measured is nobody's yet
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


def write_resolved(config: Any, workdir: Path) -> None:
    """Writes ``config.json``, whole or not at all."""
    write_json(workdir / "config.json", resolved(config))


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    write_whole(path, lambda part: part.write_text(json.dumps(value, indent=2) + "\n"))


_leaves_writing: list[bool] = []  # not empty: to another process


def leave_writing() -> None:
    """From now on this process writes no file: another one of the run does."""
    _leaves_writing.append(True)


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls ``write`` on a temporary name and renames the file when it is complete."""
    if _leaves_writing:
        return
    part = _part(path)
    write(part)
    os.replace(part, path)


def _part(path: Path) -> Path:
    """A name that no other process takes: the cells of a grid may run at once, on many machines."""
    host = re.sub(r"[^\w.-]", "_", socket.gethostname())
    return path.with_name(f"{path.name}.{host}-{os.getpid()}.part")
