"""A folder of pictures: ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg`` (or ``val``).

Classes are the names of the folders under ``train``, in alphabetical order, as in torchvision's
ImageFolder. A folder without ``train``, such as a domain of Office-Home, holds the classes itself;
a fifth of every class is then its test part, always the same one.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ec_jax.data.pictures import Files
from ec_jax.errors import InputError

FIELD = "data.data_dir"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
TRAIN, TEST = "train", ("test", "val", "validation")
HELD_OUT = 5  # one in so many is a test picture, where there is no such part


def class_names(root: str | Path) -> tuple[str, ...]:
    """The names of the folders that are the classes; opens none of them.

    Args:
      root: the folder.

    Raises:
      InputError: there is no such folder, or it has fewer than two classes.
    """
    root = _root(root)
    return tuple(p.name for p in _classes(_training(root), root))


def check(root: str | Path) -> None:
    """Refuses a folder by its own folders alone; no picture's name is read.

    Args:
      root: the folder.

    Raises:
      InputError: as ``listing``, but for classes without pictures.
    """
    root = _root(root)
    _known(_test(root), class_names(root), root)


@dataclasses.dataclass(frozen=True)
class Listing:
    """The pictures of a part, by class and then by name.

    Attributes:
      paths: of the files; plain strings, of which there may be millions.
      labels: int32 [n].
    """

    paths: tuple[str, ...]
    labels: np.ndarray


def listing(root: str | Path) -> tuple[tuple[str, ...], Listing, Listing]:
    """(class names, training part, test part) of a folder; opens no picture.

    Args:
      root: the folder.

    Raises:
      InputError: a part, a class or its pictures are missing, or a test class is none of training.
    """
    root = _root(root)
    names, train = _part(_training(root), root)
    if (folder := _test(root)) is None:
        return (names, *_cut(train))
    _known(folder, names, root)
    there, test = _part(folder, root)
    place = np.array([names.index(name) for name in there], np.int32)
    return names, train, dataclasses.replace(test, labels=place[test.labels])


def held_out(labels: np.ndarray) -> np.ndarray:
    """Which pictures are test pictures of a set that has no such part: a mask [n].

    Of every class each fifth, of a smaller one the last; of one picture none.
    """
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        fifths = rows[HELD_OUT - 1 :: HELD_OUT]
        held[fifths if len(fifths) else rows[1:][-1:]] = True
    return held


def files(listing: Listing) -> Files:
    """The pictures of a part, for ``Pictures``."""
    paths = listing.paths

    @functools.cache
    def above():
        return os.path.commonpath(paths)

    def identity(index):
        path = paths[index]
        size = os.path.getsize(path) if os.path.exists(path) else "no"
        return f"{os.path.relpath(path, above())}, {size} bytes"

    def read(index):
        return Path(paths[index]).read_bytes()

    return Files(read, paths.__getitem__, identity, len(paths), FIELD)


def _root(given: str | Path) -> Path:
    # pathlib's own form raises RuntimeError for a user that does not exist.
    root = Path(os.path.expanduser(given))
    if not given or not root.is_dir():
        raise InputError(FIELD, str(given), "no such folder; give one of train/CLASS/*.jpg")
    return root


def _training(root: Path) -> Path:
    """The folder of the training classes."""
    part = root / TRAIN
    # A class may be called so, too; its folder holds pictures.
    return part if part.is_dir() and _has_folders(part) else root


def _test(root: Path) -> Path | None:
    """The folder of the test classes; None where the folder has no parts."""
    if _training(root) == root:
        return None
    found = [root / name for name in TEST if (root / name).is_dir()]
    if not found:
        remedy = f"has no folder {' or '.join(TEST)} beside {TRAIN}; add one"
        raise InputError(FIELD, str(root), remedy)
    # ImageNet's own test part has no labels, and so no folders of classes.
    return next((part for part in found if _has_folders(part)), found[0])


def _has_folders(place: Path) -> bool:
    return any(p.is_dir() for p in place.iterdir())


def _known(test: Path | None, names: Sequence[str], root: Path) -> None:
    """Refuses a test class that is none of training."""
    there = [p.name for p in _classes(test, root)] if test else []
    if unknown := sorted(set(there) - set(names)):
        remedy = f"{test.name}/{unknown[0]} is no class of {TRAIN}; rename or remove it"
        raise InputError(FIELD, str(root), remedy)


def _classes(folder: Path, root: Path) -> list[Path]:
    found = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(found) < 2:
        where = folder.relative_to(root) if folder != root else "it"
        remedy = f"{where} has {len(found)} folders of classes; at least two are needed"
        raise InputError(FIELD, str(root), remedy)
    return found


def _part(folder: Path, root: Path) -> tuple[tuple[str, ...], Listing]:
    classes, paths, labels = _classes(folder, root), [], []
    for label, place in enumerate(classes):
        found = [
            os.path.join(where, file)
            for where, files in sorted(_walk(place))
            for file in sorted(files)
            if file.lower().endswith(SUFFIXES)
        ]
        if not found:
            remedy = f"{place.relative_to(root)} has no picture ({', '.join(SUFFIXES)}); add some"
            raise InputError(FIELD, str(root), remedy)
        paths += found
        labels += [label] * len(found)
    return tuple(p.name for p in classes), Listing(tuple(paths), np.array(labels, np.int32))


def _walk(place: Path) -> Iterator[tuple[str, list[str]]]:
    """(folder, its files) of a folder and all in it, links included, each folder once."""
    seen = set()
    for where, folders, files in os.walk(place, followlinks=True):
        folders.sort()
        if (real := os.path.realpath(where)) in seen:
            folders.clear()  # a link to a folder around it would have no end
        else:
            seen.add(real)
            yield where, files


def _cut(whole: Listing) -> tuple[Listing, Listing]:
    """Training and test pictures of what has no such parts."""
    held = held_out(whole.labels)
    parts = (np.flatnonzero(~held), np.flatnonzero(held))
    return tuple(Listing(tuple(whole.paths[i] for i in rows), whole.labels[rows]) for rows in parts)
