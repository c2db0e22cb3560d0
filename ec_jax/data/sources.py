"""Where images come from: scikit-learn's digits, and sets prepared by TFDS.

TFDS reads its ArrayRecord files without TensorFlow; only *preparing* a set imports it.
"""

import contextlib
import dataclasses
import difflib
import errno
import functools
import io
import logging
import os
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ec_jax.data import network
from ec_jax.errors import InputError

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
_DECODED_AT_ONCE = 4096  # images in memory in TFDS's own form while a set is read
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
# What reading damaged files raises; anything else is a fault of the program.
_UNREADABLE = (OSError, ValueError, RuntimeError, IndexError, KeyError, NotImplementedError)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A set in memory.

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
        if split.endswith("_train"):
            return self.train_images[rows], self.train_labels[rows]
        return self.test_images[rows], self.test_labels[rows]


def names() -> tuple[str, ...]:
    """The sets there are."""
    return tuple(_SETS)


def class_names(name: str) -> tuple[str, ...]:
    """The classes of a set, in the order of the labels."""
    return _SETS[name][0]


def image_shape(name: str) -> tuple[int, int, int]:
    """Height, width and channels of a set's images."""
    return _SETS[name][1]


def train_size(name: str) -> int:
    """Training images of a whole set."""
    return _SETS[name][2]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Withholds advice and retries that TFDS logs; what matters becomes an ``InputError``."""
    loggers = [logging.getLogger(name) for name in ("absl", "urllib3.connectionpool")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def check_name(name: str) -> None:
    """Refuses a set that does not exist."""
    if name not in _SETS:
        near = difflib.get_close_matches(name.lower(), _SETS, 1, 0.0)[0]
        raise InputError(
            "data.name", name, f"no such set; did you mean {near!r}? there are {', '.join(_SETS)}"
        )


@_quiet()
def check(name: str, data_dir: str = "", manual_dir: str = "") -> None:
    """Refuses what ``load`` could not do, before any work and within seconds.

    Args:
      name: a set.
      data_dir: where TFDS keeps prepared sets; empty: TFDS's own default.
      manual_dir: a folder of archives; empty: they are downloaded.

    Raises:
      InputError: an unknown set, a missing folder or archive, an archive or a prepared set that
        is not whole, a set prepared in another format, or no network.
    """
    check_name(name)
    for field, folder in (("data.data_dir", data_dir), ("data.manual_dir", manual_dir)):
        if folder and not os.path.isdir(_path(folder)):
            raise InputError(field, folder, "no such folder; make it, or correct the path")
    if name == "digits":
        return
    builder = _builder(name, data_dir)
    if builder.data_path.exists():
        _check_prepared(builder)
    elif manual_dir:
        _check_archives(builder, manual_dir)
    else:
        _check_network(builder)


@_quiet()
@functools.lru_cache(maxsize=2)
def load(
    name: str, *, data_dir: str = "", manual_dir: str = "", subset: int = 0, seed: int = 0
) -> Dataset:
    """Reads a set into memory, preparing it first where that has not been done.

    The last two are kept, for many runs of one process: they must not be written to.

    Args:
      name: a set; ``digits`` is cut into 80 % training and 20 % test images, always alike.
      data_dir: as for ``check``.
      manual_dir: as for ``check``.
      subset: training images kept, stratified by class; 0: all.
      seed: draws the subset.

    Raises:
      InputError: archives that are missing, damaged or not to be had; a prepared set that is
        damaged; a subset too large.
    """
    if name == "digits":
        train_images, train_labels, test_images, test_labels = _digits()
        kept = _subset(train_labels, subset, seed)
        train_images, train_labels = train_images[kept], train_labels[kept]
    else:
        builder = _builder(name, data_dir)
        if not builder.data_path.exists():  # TFDS takes up any folder of that name
            _prepare(builder, manual_dir)
        _check_prepared(builder)
        train_labels = _read_labels(builder, "train")
        kept = _subset(train_labels, subset, seed)
        train_images, train_labels = _read_images(builder, "train", kept), train_labels[kept]
        test_labels = _read_labels(builder, "test")
        test_images = _read_images(builder, "test", np.arange(len(test_labels)))
    return Dataset(
        name,
        class_names(name),
        train_images,
        train_labels,
        test_images,
        test_labels,
        train_labels,
        test_labels,
    )


def _path(folder: str) -> Path:
    # pathlib's own form raises RuntimeError for a user that does not exist.
    return Path(os.path.expanduser(folder))


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


# Sets of TFDS.


def _builder(name: str, data_dir: str) -> Any:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    folder = str(_path(data_dir)) if data_dir else None
    try:
        return tfds.builder(name, data_dir=folder, file_format="array_record")
    except Exception as error:
        where = folder or "the default folder of TFDS"
        remedy = f"what {where} holds of {name} is damaged ({_reason(error)}); remove that"
        if "File format" in str(error):
            remedy = (
                f"{where} holds {name} in another format than ArrayRecord, which alone is read "
                "without TensorFlow; give another folder"
            )
        raise InputError("data.data_dir", data_dir, remedy) from error


def _root(builder: Any) -> str:
    return str(builder.data_path.parent.parent)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_archives(builder: Any, manual_dir: str) -> None:
    folder = _path(manual_dir)
    archives = {folder / info.filename: (url, info) for url, info in builder.url_infos.items()}
    if missing := [path for path in archives if not os.path.isfile(path)]:
        lacks = ", ".join(path.name for path in missing)
        urls = " ".join(archives[path][0] for path in missing)
        raise InputError("data.manual_dir", manual_dir, f"lacks {lacks}; put it there, from {urls}")
    for path, (url, info) in archives.items():
        # Half a download is the commonest damage, and seen at once; checksums take longer.
        if (size := path.stat().st_size) != info.size:
            remedy = f"{path.name} has {size} bytes and not {int(info.size)}; fetch it anew, {url}"
            raise InputError("data.manual_dir", manual_dir, remedy)


def _check_network(builder: Any) -> None:
    if any(value and name.lower() in _PROXIES for name, value in os.environ.items()):
        return  # the proxy knows the hosts, this machine need not
    urls = [urllib.parse.urlparse(url) for url in builder.url_infos]
    for host, port in {(u.hostname, u.port or (443 if u.scheme == "https" else 80)) for u in urls}:
        if not network.reachable(host, port):
            raise _not_to_be_had(builder, f"no network to {host}")


def _not_to_be_had(builder: Any, reason: str) -> InputError:
    return InputError(
        "data.name",
        builder.name,
        f"not prepared in {_root(builder)}, and its archives cannot be downloaded ({reason}): on a "
        f"machine with a network fetch {' '.join(builder.url_infos)} , copy them into a folder "
        "here and pass --config.data.manual_dir=FOLDER",
    )


def _prepare(builder: Any, manual_dir: str) -> None:
    """Downloads and unpacks; a set is there only once TFDS has renamed its finished folder."""
    print(f"data: preparing {builder.name} in {builder.data_path}", flush=True)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # on, it announces itself on stderr
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds

        with contextlib.suppress(RuntimeError):  # TensorFlow is in use already: not by us
            # It would otherwise take the accelerator's memory away from JAX.
            tf.config.set_visible_devices([], "GPU")
        root = Path(_root(builder))
        root.mkdir(parents=True, exist_ok=True)
        # TFDS would take up what it finds unpacked under an archive's name, and MNIST's
        # archives are named as Fashion-MNIST's: unpack where nothing is.
        with (
            tempfile.TemporaryDirectory(dir=root, prefix="unpacked-") as unpacked,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            given = str(_path(manual_dir)) if manual_dir else None
            config = tfds.download.DownloadConfig(manual_dir=given, extract_dir=unpacked)
            builder.download_and_prepare(download_config=config)
    except Exception as error:
        raise _preparation_error(builder, manual_dir, error) from error


def _preparation_error(builder: Any, manual_dir: str, error: Exception) -> InputError:
    name, reason = builder.name, _reason(error)
    if isinstance(error, ImportError):
        return InputError("data.name", name, f"has to be prepared; install TensorFlow ({reason})")
    full = isinstance(error, OSError) and error.errno in _NOT_WRITABLE
    if full or "Not enough disk space" in reason:
        remedy = f"{name} cannot be prepared in it ({reason}); give a folder that can be written"
        return InputError("data.data_dir", _root(builder), remedy)
    if manual_dir:
        remedy = f"{name} cannot be prepared from these archives ({reason}); fetch them anew"
        return InputError("data.manual_dir", manual_dir, remedy)
    return _not_to_be_had(builder, reason)


@contextlib.contextmanager
def _readable(builder: Any) -> Iterator[None]:
    """Turns what reading a damaged set raises into what the user can do about it."""
    try:
        yield
    except _UNREADABLE as error:
        remedy = f"remove {builder.data_path}, and it will be prepared anew"
        damage = f"the {builder.name} in it is damaged ({_reason(error)}); {remedy}"
        raise InputError("data.data_dir", _root(builder), damage) from error


def _check_prepared(builder: Any) -> None:
    """Compares a prepared set with what is known of it; reads none of its examples."""
    with _readable(builder):
        for split in ("train", "test"):
            for path in builder.info.splits[split].filepaths:
                if not path.is_file():
                    raise FileNotFoundError(f"no file {path}")
        found = tuple(builder.info.features["label"].names)
        for i, (there, here) in enumerate(zip(found, class_names(builder.name), strict=True)):
            # Ids that stand for other classes would forget the wrong ones without a word.
            if there != here:
                raise ValueError(f"its class {i} is {there}, should be {here}")


def _read_labels(builder: Any, split: str) -> np.ndarray:
    import tensorflow_datasets as tfds

    with _readable(builder):
        # Decoding images is nine tenths of the time, and most of a subset's set is not needed.
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        return np.array([e["label"] for e in _examples(source, range(len(source)))], np.int32)


def _read_images(builder: Any, split: str, rows: np.ndarray) -> np.ndarray:
    out = np.empty((len(rows), *image_shape(builder.name)), np.uint8)
    with _readable(builder):
        source = builder.as_data_source(split)
        for i, example in enumerate(_examples(source, rows)):
            out[i] = example["image"]
    return out


def _examples(source: Any, rows: Sequence[int]) -> Iterator[dict[str, Any]]:
    rows = [int(r) for r in rows]
    for start in range(0, len(rows), _DECODED_AT_ONCE):
        for example in source.__getitems__(rows[start : start + _DECODED_AT_ONCE]):
            # What is left of a file that lost its end may be read without a complaint.
            if any(value is None for value in example.values()):
                raise ValueError("an example of it is empty")
            yield example
