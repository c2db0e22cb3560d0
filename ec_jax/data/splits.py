"""What is forgotten: the forget spec, and the four splits that it makes."""

import difflib
import os.path
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ec_jax.data.sources import Dataset
from ec_jax.errors import InputError

FIELD = "forget.classes"
SPLITS = ("forget_train", "retain_train", "forget_test", "retain_test")


def parse_forget(spec: str, class_names: Sequence[str], seed: int) -> tuple[int, ...]:
    """The classes that a spec names.

    Args:
      spec: a comma list of ids or names; ``random:K``; or ``file:PATH`` with one id or name a
        line (empty lines and what follows a ``#`` are skipped).
      class_names: names of all C classes, in the order of their ids.
      seed: draws the classes of ``random:K``.

    Returns:
      Sorted ids without repetition, at least one and fewer than C.

    Raises:
      InputError: the spec names no class, an unknown one, or all of them.

    >>> parse_forget("dog, 0", ["cat", "dog", "emu"], seed=0)
    (0, 1)
    """
    kind, colon, rest = spec.strip().partition(":")
    if colon and kind == "random":
        chosen = _random(rest, spec, len(class_names), seed)
    elif colon and kind == "samples":
        raise InputError(
            FIELD, spec, "only whole classes can be forgotten; name classes, or random:K"
        )
    else:
        entries = _lines(rest, spec) if colon and kind == "file" else spec.split(",")
        chosen = [_class_id(e.strip(), spec, class_names) for e in entries if e.strip()]
    if not chosen:
        raise InputError(FIELD, spec, "names no class; give ids or names such as 3,5, or random:K")
    if len(set(chosen)) == len(class_names):
        raise InputError(FIELD, spec, "forgets all classes; leave at least one to retain")
    return tuple(sorted(set(chosen)))


def _random(count: str, spec: str, classes: int, seed: int) -> list[int]:
    if not re.fullmatch("[0-9]{1,9}", count) or not 1 <= int(count) < classes:
        raise InputError(FIELD, spec, f"random:K takes an integer K from 1 to {classes - 1}")
    from ec_jax import rng  # imports JAX, which a list of classes does not need

    draw = rng.generator(seed, "forget_classes")
    return [int(i) for i in draw.permutation(classes)[: int(count)]]


def _lines(path: str, spec: str) -> list[str]:
    try:
        # pathlib's own form raises RuntimeError for a user that does not exist.
        text = Path(os.path.expanduser(path)).read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise InputError(FIELD, spec, f"{reason}; give a text file, one class a line") from error
    except ValueError as error:
        raise InputError(FIELD, spec, "not a text file; give one class a line") from error
    return [line.partition("#")[0] for line in text.splitlines()]


def _class_id(entry: str, spec: str, class_names: Sequence[str]) -> int:
    if entry in class_names:  # first: digits' classes are named by numbers
        return list(class_names).index(entry)
    if re.fullmatch("[+-]?[0-9]{1,9}", entry):
        if not 0 <= int(entry) < len(class_names):
            last = len(class_names) - 1
            raise InputError(FIELD, spec, f"class {entry} is out of range; ids go from 0 to {last}")
        return int(entry)
    names = {name.lower(): name for name in class_names}
    if entry.lower() in names:
        return list(class_names).index(names[entry.lower()])
    near = names[difflib.get_close_matches(entry.lower(), names, 1, 0.0)[0]]
    raise InputError(FIELD, spec, f"no class is named {entry!r}; did you mean {near!r}?")


def split(dataset: Dataset, forget_classes: Sequence[int]) -> dict[str, np.ndarray]:
    """Indices of the four splits, by the names in ``SPLITS``.

    Each is in an order shuffled once and for all: sets stored class by class would make
    minibatches of one class in evaluation.

    Args:
      dataset: a set in memory.
      forget_classes: ids of the classes to forget.

    Returns:
      int64 indices into the training images (``…_train``) or the test images (``…_test``).
    """
    from ec_jax import rng  # imports JAX, see above

    out = {}
    for part, labels in (("train", dataset.train_labels), ("test", dataset.test_labels)):
        order = rng.generator(0, "splits", part).permutation(len(labels))
        forget = np.isin(labels[order], forget_classes)
        out[f"forget_{part}"], out[f"retain_{part}"] = order[forget], order[~forget]
    return {name: out[name] for name in SPLITS}
