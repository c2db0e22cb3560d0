"""SHA-256 of what a run reads and leaves: files, folders of files, arrays, splits of data.

Nothing here needs JAX.
"""

import hashlib
import json
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ec_jax.data.pictures import Pictures
from ec_jax.workdir import read_json, write_json

SEAL = "digest.json"  # in a folder: {"files": {path: [bytes, SHA-256]}} of all others in it
_ROWS = 4096  # images that are looked at at once


def of_file(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_json(value: Any) -> str:
    """SHA-256 of a value as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def of_arrays(arrays: Mapping[str, Any]) -> str:
    """SHA-256 of names, types, shapes and contents, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def of_images(images: Any, labels: np.ndarray, rows: np.ndarray) -> str:
    """SHA-256 of the rows of a split, and of the images and labels that they are.

    Args:
      images: uint8 or floating point [n, h, w, c]; or pictures on disk, of which name, size in
        bytes and label count: to read a million of them would take longer than to unlearn.
      labels: integers [n].
      rows: int64 [k].
    """
    found = hashlib.sha256(np.asarray(rows, "<i8").tobytes())
    found.update(np.asarray(labels[rows], "<i8").tobytes())
    if isinstance(images, Pictures):
        for row in rows:
            found.update(f"{images.identity(int(row))}\n".encode())
        return found.hexdigest()
    found.update(f"{images.dtype.str} {images.shape[1:]}\n".encode())
    for start in range(0, len(rows), _ROWS):
        found.update(np.ascontiguousarray(images[rows[start : start + _ROWS]]).tobytes())
    return found.hexdigest()


def seal(folder: Path, without: Container[str] = ()) -> None:
    """Leaves ``digest.json`` in a folder: the size and the SHA-256 of every file in it.

    Args:
      folder: of which.
      without: files, by their path in the folder, that may still change.
    """
    names = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    files = {
        name: [path.stat().st_size, of_file(path)]
        for name, path in names.items()
        if name not in without
    }
    write_json(folder / SEAL, {"schema": 1, "files": dict(sorted(files.items()))})


def _files(folder: Path) -> Iterable[Path]:
    """All regular files but the seal and what is left of one that was being written."""
    inside = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return sorted(p for p in inside if not (p.parent == folder and p.name.startswith(SEAL)))


def sealed(folder: Path) -> bool:
    """There is a ``digest.json``."""
    return (folder / SEAL).is_file()


def damage(folder: Path, part: str = "") -> str:
    """What is wrong with a sealed folder; empty where nothing is.

    Args:
      folder: with a ``digest.json``.
      part: the one folder in it that counts; empty: all of it.
    """
    try:
        files = read_json(folder / SEAL)["files"]
        listed = [(name, int(size), str(sha)) for name, (size, sha) in files.items()]
    except (OverflowError, ValueError, KeyError, TypeError, AttributeError):
        return f"{SEAL} cannot be read"
    listed = [entry for entry in listed if not part or entry[0].startswith(f"{part}/")]
    if not listed:
        return f"{SEAL} names no file"
    # By what is there: a name from elsewhere could lead out of the folder.
    there = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    for name, size, sha in listed:
        if name not in there:
            return f"{name} is missing"
        try:
            if (found := there[name].stat().st_size) != size:
                return f"{name} has {found} bytes of {size}"
            if of_file(there[name]) != sha:
                return f"{name} has other bytes than were written"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return ""
