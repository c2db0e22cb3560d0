"""Where images come from: scikit-learn's digits, sets of TFDS, or a folder of pictures."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ec_jax.data import folder, tfds_sets, wordnet
from ec_jax.data.pictures import Pictures, rows_of
from ec_jax.errors import InputError, nearest, printable

_FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
_CIFAR10 = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
# TFDS learns these names only from the archive.
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
# name: (class names, shape of an image, training images)
_SETS = {
    "digits": (tuple("0123456789"), (8, 8, 1), 1_437),
    "fashion_mnist": (tuple(_FASHION.split(",")), (28, 28, 1), 60_000),
    "cifar10": (tuple(_CIFAR10.split(",")), (32, 32, 3), 50_000),
    "cifar100": (tuple(_CIFAR100.split()), (32, 32, 3), 50_000),
}
FOLDER = "folder"  # the set that is a folder of pictures


@dataclasses.dataclass(frozen=True)
class About:
    """What is known of a set before it is read.

    Attributes:
      class_names: in the order of the labels.
      image_shape: height, width and channels, as a network gets them.
      train_size: training images; None where they are counted only when the set is read.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train_size: int | None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A set: its labels, and its images in memory or as ``Pictures``.

    Attributes:
      name: as in the config.
      class_names: C names, in the order of the labels.
      train_images: uint8 [n, h, w, c].
      train_labels: int32 [n].
      test_images: uint8 [m, h, w, c].
      test_labels: int32 [m].
      train_classes: int32 [n], the classes as the set has them: the labels, unless those are
        groups of classes.
      test_classes: int32 [m].
    """

    name: str
    class_names: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    train_classes: np.ndarray
    test_classes: np.ndarray

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.train_images.shape[1:]

    def images_and_labels(self, split: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The images and labels of ``rows`` of a split named ``…_train`` or ``…_test``."""
        part = "train" if split.endswith("_train") else "test"
        images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
        return rows_of(images, rows), labels[rows]


@dataclasses.dataclass(frozen=True)
class _Part:
    """Training or test images: their labels, and ``rows -> images``."""

    labels: np.ndarray
    images: Callable[[np.ndarray], Any]


def names() -> tuple[str, ...]:
    """The sets that are known by name alone; TFDS has more."""
    return tuple(_SETS)


def check_name(name: str, data_dir: str = "") -> None:
    """Refuses a set that does not exist."""
    if name in _SETS or name == FOLDER:
        return
    try:
        tfds_sets.open_builder(name, data_dir)
    except InputError as error:
        if "no such set" not in error.remedy:
            raise
        near = nearest(name, [*_SETS, FOLDER])
        remedy = f"no such set; {near} there are {', '.join(_SETS)}, {FOLDER}, and those of TFDS"
        raise InputError("data.name", name, remedy) from error


@functools.lru_cache(maxsize=8)
def about(name: str, data_dir: str = "", image_size: int = 0) -> About:
    """What is known of a set before it is read.

    Args:
      name: a set.
      data_dir: where TFDS keeps prepared sets, or the folder of pictures.
      image_size: pixels along the sides to which pictures are cut; 0: they are taken as they are.

    Raises:
      InputError: there is no such set, or its pictures need a size, or cannot have one.
    """
    check_name(name, data_dir)
    if name in _SETS:
        found = _SETS[name]
    elif name == FOLDER:
        found = wordnet.titles(folder.class_names(data_dir)), (None, None, 3), None
    else:
        found = tfds_sets.about(name, data_dir)
    names, shape, size = found
    for entry in names:
        if not entry.isprintable():  # it would act on whatever shows it
            remedy = f"the class {entry!r} cannot be printed; rename it"
            raise InputError("data.name", name, remedy)
    if name == "digits" and image_size:
        raise InputError("data.image_size", image_size, "digits are taken as they are; use 0")
    if image_size:
        shape = (image_size, image_size, 3)
    elif None in shape:
        remedy = (
            f"the pictures of {name} may differ in size; give the side to cut them to, such as 224"
        )
        raise InputError("data.image_size", 0, remedy)
    return About(names, shape, size)


def check_folder(field: str, given: str) -> None:
    """Refuses a field's folder that is not there; empty is none."""
    if given and not os.path.isdir(tfds_sets.path(given)):
        raise InputError(field, given, "no such folder; make it, or correct the path")


def check(name: str, data_dir: str = "", manual_dir: str = "") -> None:
    """Refuses what ``load`` could not do, before any work and within seconds.

    Args:
      name: a set.
      data_dir: where TFDS keeps prepared sets; empty: TFDS's own default. Of the set ``folder``
        the folder.
      manual_dir: a folder of archives; empty: they are downloaded.

    Raises:
      InputError: an unknown set, a missing folder or archive, an archive or a prepared set that
        is not whole, a set prepared in another format, or no network.
    """
    check_folder("data.data_dir", data_dir)
    check_name(name, data_dir)
    check_folder("data.manual_dir", manual_dir)
    if name == FOLDER:
        folder.check(data_dir)
    elif name != "digits":
        known = _SETS[name][0] if name in _SETS else tfds_sets.about(name, data_dir)[0]
        tfds_sets.check(name, data_dir, manual_dir, known)


@functools.lru_cache(maxsize=2)
def load(
    name: str,
    *,
    data_dir: str = "",
    manual_dir: str = "",
    subset: int = 0,
    seed: int = 0,
    image_size: int = 0,
    resize: int = 256,
    damaged: str = "refuse",
) -> Dataset:
    """Reads a set, preparing it first where that has not been done.

    What is taken as it is is read into memory; pictures that are cut are read when they are used.
    The last two are kept, for many runs of one process: their arrays cannot be written to.

    Args:
      name: a set; ``digits`` is cut into 80 % training and 20 % test images, always alike.
      data_dir: as for ``check``.
      manual_dir: as for ``check``.
      subset: training images kept, stratified by class; 0: all.
      seed: draws the subset.
      image_size: as for ``about``.
      resize: pixels of a picture's shorter side before the middle is cut out.
      damaged: what becomes of pictures that cannot be decoded: ``refuse``, an error when one is
        read, or ``skip``: all are read once, now, and those are left out and counted.

    Raises:
      InputError: archives that are missing, damaged or not to be had; a prepared set that is
        damaged; a wrong label; a subset too large.
    """
    names = about(name, data_dir, image_size).class_names
    cut = functools.partial(Pictures, size=image_size, resize=resize)
    parts = _parts(name, data_dir, manual_dir, names, cut if image_size else None)
    skip = damaged == "skip" and image_size
    check = _sound if skip else _check_labels
    train, test = (
        check(part, len(names), which, data_dir)
        for part, which in zip(parts, ("training", "test"), strict=True)
    )
    kept = _subset(train.labels, subset, seed)
    labels = train.labels[kept], test.labels
    images = train.images(kept), test.images(np.arange(len(test.labels)))
    for array in (*labels, *images):
        if isinstance(array, np.ndarray):
            array.setflags(write=False)  # every later run of this process gets the same ones
    return Dataset(name, names, images[0], labels[0], images[1], labels[1], *labels)


def _parts(
    name: str, data_dir: str, manual_dir: str, names: tuple[str, ...], cut: Any
) -> tuple[_Part, _Part]:
    """Training and test part; ``cut`` makes pictures of files, where they are to be cut."""
    if name == "digits":
        train_images, train_labels, test_images, test_labels = _digits()
        return (
            _Part(train_labels, train_images.__getitem__),
            _Part(test_labels, test_images.__getitem__),
        )
    if name == FOLDER:
        listings = folder.listing(data_dir)[1:]
        return tuple(_Part(x.labels, functools.partial(cut, folder.files(x))) for x in listings)
    builder = tfds_sets.prepared(name, data_dir, manual_dir, names)
    train, test = _of_tfds(builder, "train", cut), tfds_sets.test_split(builder)
    return (train, _of_tfds(builder, test, cut)) if test else _held_out(train)


def _held_out(whole: _Part) -> tuple[_Part, _Part]:
    """Training and test part of a set that has training images alone."""
    held = folder.held_out(whole.labels)
    return tuple(_some(whole, np.flatnonzero(mask)) for mask in (~held, held))


def _some(part: _Part, rows: np.ndarray) -> _Part:
    return _Part(part.labels[rows], lambda of: part.images(rows[of]))


def _of_tfds(builder: Any, split: str, cut: Any) -> _Part:
    labels = tfds_sets.read_labels(builder, split, keep=cut is not None)
    if cut:
        return _Part(labels, functools.partial(cut, tfds_sets.files(builder, split)))
    return _Part(labels, functools.partial(tfds_sets.read_images, builder, split))


def _check_labels(part: _Part, classes: int, which: str, data_dir: str) -> _Part:
    """Refuses a part that is empty, or has a wrong label."""
    if not len(part.labels):
        raise InputError("data.data_dir", data_dir, f"has no {which} image; add some")
    for i in _mislabelled(part.labels, classes)[:1]:
        images = part.images(np.array([i]))
        told = images.name(0) if isinstance(images, Pictures) else f"{which} image {i}"
        remedy = f"{told} has label {part.labels[i]}; labels go from 0 to {classes - 1}"
        raise InputError("data.data_dir", data_dir, remedy)
    return part


def _mislabelled(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.flatnonzero((labels < 0) | (labels >= classes))


def _sound(part: _Part, classes: int, which: str, data_dir: str) -> _Part:
    """A part without pictures that cannot be decoded or have a wrong label, which are named."""
    pictures = part.images(np.arange(len(part.labels)))
    wrong = _mislabelled(part.labels, classes)
    good, found = pictures.sound()
    good, found = np.setdiff1d(good, wrong), sorted({*found, *map(pictures.name, wrong)})
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        listed = ", ".join(found[:3]) + more
        what = "picture" if len(found) == 1 else "pictures"
        print(
            f"data: {len(found)} damaged {which} {what} left out: {printable(listed)}", flush=True
        )
    if not good.size:
        raise InputError("data.data_dir", data_dir, f"no {which} picture can be decoded; add some")
    return _some(part, good)


def _digits() -> tuple[np.ndarray, ...]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    # The division is part of the set: it does not depend on a run's seed.
    parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    return parts[0], parts[2], parts[1], parts[3]


def _subset(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Indices, ascending, of ``size`` examples with the whole's shares of classes."""
    if not size:
        return np.arange(len(labels))
    if size > len(labels):
        raise InputError(
            "data.subset", size, f"the set has {len(labels)} training images; 0 for all"
        )
    from ec_jax import rng  # imports JAX, which the table of sets must not need

    draw = rng.generator(seed, "subset")
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * (size / len(labels))
    quota = np.floor(exact).astype(int)
    # Largest remainders: the whole sums to `size` and no class is off by one or more.
    short = size - quota.sum()
    quota[np.argsort(quota - exact, kind="stable")[:short]] += 1
    chosen = [
        draw.permutation(np.flatnonzero(labels == c))[:q]
        for c, q in zip(classes, quota, strict=True)
    ]
    return np.sort(np.concatenate(chosen))
