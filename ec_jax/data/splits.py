"""What is forgotten: the forget spec, and the splits that it makes."""

import dataclasses
import difflib
import errno
import os.path
import re
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ec_jax.data import wordnet
from ec_jax.data.pictures import rows_of
from ec_jax.data.sources import Dataset
from ec_jax.errors import InputError, shortened

FIELD, EARLIER_FIELD = "forget.classes", "forget.earlier"
SPLITS = ("forget_train", "retain_train", "forget_test", "retain_test")
EARLIER = ("earlier_train", "earlier_test")  # where classes were forgotten before
_BETWEEN = ";"  # two requests
_LONGEST = 2**28  # bytes of a file of names or indices


def parse_requests(
    spec: str, class_names: Sequence[str], seed: int, earlier: Sequence[int] = ()
) -> tuple[tuple[int, ...], ...]:
    """The classes of every request of a spec, first to last.

    Args:
      spec: one request as for ``parse_forget``, or several with ``;`` between them.
      class_names: as for ``parse_forget``.
      seed: as for ``parse_forget``; every ``random:K`` draws from what is left to forget.
      earlier: ids of the classes forgotten before the first request.

    Raises:
      InputError: a request names no class, an unknown one, one forgotten before, the last that is
        left or, where there are several requests, single images.

    >>> parse_requests("dog; 0", ["cat", "dog", "emu"], seed=0)
    ((1,), (0,))
    """
    parts = spec.split(_BETWEEN)
    if len(parts) == 1:
        return (parse_forget(spec, class_names, seed, earlier),)
    found: list[tuple[int, ...]] = []
    for i, part in enumerate(parts, 1):
        try:
            if part.strip().startswith("samples:"):
                raise InputError(FIELD, part, "names single images; in a sequence give classes")
            before = [*earlier, *(c for request in found for c in request)]
            found.append(parse_forget(part, class_names, seed, before))
        except InputError as error:
            raise InputError(FIELD, spec, f"request {i} of {len(parts)}: {error.remedy}") from error
    return tuple(found)


def parse_earlier(spec: str, class_names: Sequence[str]) -> tuple[int, ...]:
    """The classes that were forgotten before.

    Args:
      spec: a comma list of ids or names; may be empty.
      class_names: as for ``parse_forget``.

    Returns:
      Sorted ids without repetition.

    Raises:
      InputError: the spec names an unknown class.
    """
    entries = [e.strip() for e in spec.split(",") if e.strip()]
    return tuple(sorted({_class_id(e, spec, class_names, EARLIER_FIELD) for e in entries}))


def parse_forget(
    spec: str, class_names: Sequence[str], seed: int, earlier: Sequence[int] = ()
) -> tuple[int, ...]:
    """The classes that a spec names.

    Args:
      spec: a comma list of ids or names; ``random:K``; ``file:PATH`` with one id or name a
        line (empty lines and what follows a ``#`` are skipped); or ``samples:…``, which names
        images and no class: see ``parse_samples``.
      class_names: names of all C classes, in the order of their ids.
      seed: draws the classes of ``random:K``, of those not in ``earlier``.
      earlier: ids of classes forgotten before; none of them may be forgotten again.

    Returns:
      Sorted ids without repetition, at least one and fewer than are left; none of ``samples:…``.

    Raises:
      InputError: the spec names no class, an unknown one, one of ``earlier``, or all that are
        left.

    >>> parse_forget("dog, 0", ["cat", "dog", "emu"], seed=0)
    (0, 1)
    """
    kind, colon, rest = spec.strip().partition(":")
    if colon and kind == "random":
        chosen = _random(rest, spec, len(class_names), seed, earlier)
    elif colon and kind == "samples":
        if earlier:
            remedy = "single images cannot follow classes; give classes, or empty forget.earlier"
            raise InputError(FIELD, spec, remedy)
        return ()
    else:
        entries = _lines(rest, spec) if colon and kind == "file" else spec.split(",")
        chosen = [_class_id(e.strip(), spec, class_names) for e in entries if e.strip()]
    if not chosen:
        raise InputError(FIELD, spec, "names no class; give ids or names such as 3,5, or random:K")
    if again := sorted(set(chosen) & set(earlier)):
        remedy = f"class {class_names[again[0]]!r} is forgotten before; name every class once"
        raise InputError(FIELD, spec, remedy)
    if len({*chosen, *earlier}) == len(class_names):
        raise InputError(FIELD, spec, "forgets all classes; leave at least one to retain")
    return tuple(sorted(set(chosen)))


def parse_samples(spec: str, images: int, seed: int) -> np.ndarray | None:
    """The training images that a spec names one by one.

    Args:
      spec: ``samples:N``, N images drawn at random, or ``samples:PATH``, a text file with the
        index of one training image a line.
      images: how many training images there are.
      seed: draws them.

    Returns:
      int64, ascending, without repetition; None where the spec names classes.

    Raises:
      InputError: fewer than one image, an index out of range, or nothing left to retain.
    """
    kind, _, rest = spec.strip().partition(":")
    if kind != "samples":
        return None
    if re.fullmatch("[0-9]{1,9}", rest):
        if not 1 <= int(rest) < images:
            raise InputError(FIELD, spec, f"samples:N takes an integer N from 1 to {images - 1}")
        from ec_jax import rng  # imports JAX, which a refusal does not need

        drawn = rng.generator(seed, "forget_samples").permutation(images)[: int(rest)]
        return np.sort(drawn).astype(np.int64)
    entries = [e.strip() for e in _lines(rest, spec, "image") if e.strip()]
    for entry in entries:
        if not re.fullmatch("[0-9]{1,9}", entry) or int(entry) >= images:
            remedy = f"{entry!r} is no index of a training image; they go from 0 to {images - 1}"
            raise InputError(FIELD, spec, remedy)
    chosen = np.unique(np.array([int(e) for e in entries], np.int64))
    if not 1 <= len(chosen) < images:
        remedy = f"names {len(chosen)} of {images} training images; at least one, and not all"
        raise InputError(FIELD, spec, remedy)
    return chosen


def _random(count: str, spec: str, classes: int, seed: int, earlier: Sequence[int]) -> list[int]:
    left = classes - len(earlier)
    if not re.fullmatch("[0-9]{1,9}", count) or not 1 <= int(count) < left:
        remedy = f"random:K takes an integer K from 1 to {left - 1}"
        raise InputError(FIELD, spec, remedy if left > 1 else "only one class is left; keep it")
    from ec_jax import rng  # imports JAX, which a list of classes does not need

    draw = rng.generator(seed, "forget_classes")
    order = [int(i) for i in draw.permutation(classes) if i not in earlier]
    return order[: int(count)]


def _lines(path: str, spec: str, what: str = "class") -> list[str]:
    try:
        # pathlib's own form raises RuntimeError for a user that does not exist.
        file = Path(os.path.expanduser(path))
        status = file.stat()
        # A device or a pipe has no end, and a list of indices is not as long as this.
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "Is a directory")
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LONGEST:
            raise ValueError("no file of text")
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise InputError(FIELD, spec, f"{reason}; give a text file, one {what} a line") from error
    except ValueError as error:
        raise InputError(FIELD, spec, f"not a text file; give one {what} a line") from error
    return [line.partition("#")[0] for line in text.splitlines()]


def _class_id(entry: str, spec: str, class_names: Sequence[str], field: str = FIELD) -> int:
    if entry in class_names:  # first: digits' classes are named by numbers
        return list(class_names).index(entry)
    if re.fullmatch("[+-]?[0-9]{1,9}", entry):
        if not 0 <= int(entry) < len(class_names):
            last = len(class_names) - 1
            raise InputError(field, spec, f"class {entry} is out of range; ids go from 0 to {last}")
        return int(entry)
    if (title := wordnet.name(entry)) in class_names:  # a WordNet id of ImageNet's
        return list(class_names).index(title)
    alike = [i for i, name in enumerate(class_names) if name.lower() == entry.lower()]
    if len(alike) == 1:
        return alike[0]
    if alike:
        listed = " and ".join(class_names[i] for i in alike)
        raise InputError(field, spec, f"{entry!r} may be {listed}; write it as the class is named")
    names = {name.lower(): name for name in class_names}
    near = names[difflib.get_close_matches(entry[:100].lower(), names, 1, 0.0)[0]]
    few = f" There are {', '.join(class_names)}" if len(class_names) <= 12 else ""
    raise InputError(
        field, spec, f"no class is named {shortened(entry, 100)!r}; did you mean {near!r}?{few}"
    )


def split(
    dataset: Dataset,
    forget_classes: Sequence[int],
    samples: np.ndarray | None = None,
    earlier: Sequence[int] = (),
) -> dict[str, np.ndarray]:
    """Indices of the splits, by the names in ``SPLITS`` and, with ``earlier``, in ``EARLIER``.

    Each is in an order shuffled once and for all: sets stored class by class would make
    minibatches of one class in evaluation.

    Args:
      dataset: a set in memory.
      forget_classes: ids of the classes to forget, as the set names them: fine ones, where its
        labels are groups of classes.
      samples: indices of the training images to forget, in place of classes.
      earlier: ids of the classes forgotten before, which are not retained either.

    Returns:
      int64 indices into the training images (``…_train``) or the test images (``…_test``);
      ``forget_test`` is empty where samples are forgotten: no test image is one of them.
    """
    from ec_jax import rng  # imports JAX, see above

    out = {}
    for part, classes in (("train", dataset.train_classes), ("test", dataset.test_classes)):
        order = rng.generator(0, "splits", part).permutation(len(classes))
        forget = np.isin(classes[order], forget_classes)
        if samples is not None and part == "train":
            forget = np.isin(order, samples)
        before = np.isin(classes[order], earlier)
        out[f"forget_{part}"], out[f"earlier_{part}"] = order[forget], order[before]
        out[f"retain_{part}"] = order[~forget & ~before]
    return {name: out[name] for name in (*SPLITS, *(EARLIER if earlier else ()))}


def hold_out(dataset: Dataset, share: float) -> Dataset:
    """The set with a part of its training images in the place of its test images.

    What is chosen by looking at results is chosen on these, so that the test images stay unseen.

    Args:
      dataset: a set in memory.
      share: of the training images of every class, in (0, 1); the same places in the set for every
        seed, and so the same images unless the set is a subset that the seed drew.

    Returns:
      The set; of every class at least one image is held out, and one stays.

    Raises:
      InputError: a class has too few images.
    """
    from ec_jax import rng  # imports JAX, see above

    draw, held = rng.generator(0, "hold_out"), np.zeros(len(dataset.train_classes), bool)
    for c in np.unique(dataset.train_classes):
        members = draw.permutation(np.flatnonzero(dataset.train_classes == c))
        if len(members) < 2:
            remedy = f"class {c} has {len(members)} training image; use 0, or more images"
            raise InputError("data.validation", share, remedy)
        held[members[: min(max(round(share * len(members)), 1), len(members) - 1)]] = True
    parts = {
        f"{part}_{kind}": rows_of(getattr(dataset, f"train_{kind}"), np.flatnonzero(rows))
        for part, rows in (("train", ~held), ("test", held))
        for kind in ("images", "labels", "classes")
    }
    return dataclasses.replace(dataset, **parts)
