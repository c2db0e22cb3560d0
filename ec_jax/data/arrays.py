"""Arrays as a set: images and labels that a program has in memory, checked and divided."""

from typing import Any

import numpy as np

from ec_jax.data import augment
from ec_jax.data.sources import Dataset
from ec_jax.errors import InputError

Examples = tuple[Any, Any]  # images [n, h, w, c] and labels [n]


def dataset(
    forget: Examples, retain: Examples, test: Examples | None
) -> tuple[Dataset, dict[str, np.ndarray], tuple[int, ...]]:
    """A set of what is to be forgotten and kept.

    Args:
      forget: images uint8 or floating point [n, h, w, c], n >= 1, and integer labels [n].
      retain: alike.
      test: images of both, or None.

    Returns:
      The set, {split: indices}, and the classes that are forgotten as a whole: those that
      ``retain`` has none of.

    Raises:
      InputError: names the argument, what it is, and the remedy.
    """
    given = {"forget": forget, "retain": retain} | ({"test": test} if test is not None else {})
    parts = {name: _examples(name, part) for name, part in given.items()}
    wanted = _kind(parts["forget"][0])
    for name, (part, _) in parts.items():
        if _kind(part) != wanted:
            raise InputError(name, _kind(part), f"images must be as those of forget, {wanted}")
    images, labels = (
        np.concatenate([parts[name][i] for name in ("forget", "retain")]) for i in (0, 1)
    )
    test_images, test_labels = parts.get("test", (images[:0], labels[:0]))
    lost = set(parts["forget"][1].tolist()) - set(parts["retain"][1].tolist())
    if lost and (kept := sorted(set(parts["forget"][1].tolist()) - lost)):
        given = f"classes {min(lost)}, {kept[0]}"
        remedy = f"of class {min(lost)} retain has nothing, of class {kept[0]} it has some"
        raise InputError("forget", given, f"{remedy}; forget both wholly, or both in part")
    forgotten = tuple(sorted(lost))
    count = len(parts["forget"][1])
    of_test = np.isin(test_labels, forgotten)
    splits = {
        "forget_train": np.arange(count),
        "retain_train": np.arange(count, len(labels)),
        "forget_test": np.flatnonzero(of_test),
        "retain_test": np.flatnonzero(~of_test),
    }
    names = tuple(map(str, range(max(labels.max(), *test_labels, 0) + 1)))
    data = Dataset("own", names, images, labels, test_images, test_labels, labels, test_labels)
    return data, splits, forgotten


def _kind(images: np.ndarray) -> str:
    """Type and size of an image."""
    return f"{images.dtype} {'x'.join(map(str, images.shape[1:]))}"


def _examples(name: str, part: Examples) -> Examples:
    try:
        images, labels = (np.asarray(values) for values in part)
    except (TypeError, ValueError) as error:
        raise InputError(name, type(part).__name__, "give images and labels: two arrays") from error
    kind, shape = str(images.dtype), "x".join(map(str, images.shape))
    if images.ndim != 4 or not len(images) or images.dtype.kind not in "uf":
        remedy = "images are uint8 or floating point [n, h, w, c], n >= 1"
        raise InputError(name, f"{kind} {shape}", remedy)
    if images.dtype.kind == "u" and images.dtype != np.uint8:
        raise InputError(name, kind, "integer images are uint8")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0:
        remedy = f"labels are integers >= 0, one for each of {len(images)} images"
        raise InputError(name, f"{labels.dtype} {labels.shape}", remedy)
    return images if images.dtype == np.uint8 else images.astype(np.float32), labels.astype(
        np.int32
    )


def moments(images: np.ndarray, given: Any) -> tuple[np.ndarray, np.ndarray]:
    """float32 [c] each: mean and deviation by which images in [0, 1] are normalised.

    Args:
      images: uint8, or floating point, which is taken as it is.
      given: means and deviations of all channels; None: those of the images.

    Raises:
      InputError: they are not so many, or are of images that are taken as they are.
    """
    channels = images.shape[-1]
    if images.dtype != np.uint8:
        if given is not None:
            raise InputError("normalize", given, "is for uint8 images; these are taken as they are")
        return np.zeros(channels, np.float32), np.full(channels, 1 / 255, np.float32)
    if given is None:
        return augment.moments(images)
    mean, std = (np.asarray(row, np.float32) for row in given)
    if not mean.shape == std.shape == (channels,) or not (std > 0).all():
        raise InputError("normalize", given, f"give {channels} means and as many deviations > 0")
    return mean, std
