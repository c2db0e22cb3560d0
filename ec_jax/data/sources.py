"""Where images come from: scikit-learn's digits, and sets prepared by TFDS.

TFDS reads its ArrayRecord files without TensorFlow; only *preparing* a set imports it.
"""

import dataclasses
import difflib
import logging
import os
import socket
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np

from ec_jax import rng
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
# name: (class names, shape of an image)
_SETS = {
    "digits": (tuple("0123456789"), (8, 8, 1)),
    "fashion_mnist": (tuple(_FASHION.split(",")), (28, 28, 1)),
    "cifar10": (tuple(_CIFAR10.split(",")), (32, 32, 3)),
    "cifar100": (tuple(_CIFAR100.split()), (32, 32, 3)),
}
_DECODED_AT_ONCE = 4096  # images in memory in TFDS's own form while a set is read
_PROBE_SECONDS = 2.0


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
    """

    name: str
    class_names: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

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


def check(name: str, data_dir: str = "", manual_dir: str = "") -> None:
    """Refuses what ``load`` could not do, before any work and within seconds.

    Args:
      name: a set.
      data_dir: where TFDS keeps prepared sets; empty: TFDS's own default.
      manual_dir: a folder of archives; empty: they are downloaded.

    Raises:
      InputError: an unknown set, a missing folder or archive, a set prepared in another format,
        or no network.
    """
    if name not in _SETS:
        near = difflib.get_close_matches(name, _SETS, 1, 0.0)[0]
        raise InputError(
            "data.name", name, f"no such set; did you mean {near!r}? there are {', '.join(_SETS)}"
        )
    for field, folder in (("data.data_dir", data_dir), ("data.manual_dir", manual_dir)):
        if folder and not _path(folder).is_dir():
            raise InputError(field, folder, "no such folder; make it, or correct the path")
    if name == "digits":
        return
    builder = _builder(name, data_dir)
    if builder.is_prepared():
        return
    if manual_dir:
        _check_archives(builder, manual_dir)
    else:
        _check_network(builder, name)


def load(
    name: str, *, data_dir: str = "", manual_dir: str = "", subset: int = 0, seed: int = 0
) -> Dataset:
    """Reads a set into memory, preparing it first where that has not been done.

    Args:
      name: a set; ``digits`` is cut into 80 % training and 20 % test images, always alike.
      data_dir: as for ``check``.
      manual_dir: as for ``check``.
      subset: training images kept, stratified by class; 0: all.
      seed: draws the subset.

    Raises:
      InputError: archives that are missing, damaged or not to be had; a subset too large.
    """
    if name == "digits":
        train_images, train_labels, test_images, test_labels = _digits()
        kept = _subset(train_labels, subset, seed)
        train_images, train_labels = train_images[kept], train_labels[kept]
    else:
        builder = _builder(name, data_dir)
        if not builder.is_prepared():
            _prepare(builder, name, manual_dir)
        train_labels = _read_labels(builder, "train")
        kept = _subset(train_labels, subset, seed)
        train_images, train_labels = _read_images(builder, "train", kept), train_labels[kept]
        test_labels = _read_labels(builder, "test")
        test_images = _read_images(builder, "test", np.arange(len(test_labels)))
    return Dataset(name, class_names(name), train_images, train_labels, test_images, test_labels)


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
    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS's advice to install OpenCV
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    folder = str(_path(data_dir)) if data_dir else None
    try:
        return tfds.builder(name, data_dir=folder, file_format="array_record")
    except ValueError as error:
        if "File format" not in str(error):
            raise
        raise InputError(
            "data.data_dir",
            data_dir,
            f"{folder or 'the default folder of TFDS'} holds {name} in another format than "
            "ArrayRecord, which alone is read without TensorFlow; give another folder",
        ) from error


def _archives(builder: Any) -> dict[str, str]:
    """{URL: file name} of what a builder downloads."""
    return {url: info.filename for url, info in builder.url_infos.items()}


def _check_archives(builder: Any, manual_dir: str) -> None:
    folder = _path(manual_dir)
    missing = [f for f in _archives(builder).values() if not (folder / f).is_file()]
    if missing:
        raise InputError("data.manual_dir", manual_dir, f"lacks {', '.join(missing)}; put it there")


def _check_network(builder: Any, name: str) -> None:
    if any(os.environ.get(v) for v in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")):
        return  # the proxy knows the hosts, this machine need not
    for url in _archives(builder):
        parsed = urllib.parse.urlparse(url)
        port = parsed.port or (443 if parsed.scheme == "https" else 80)
        try:
            socket.create_connection((parsed.hostname, port), _PROBE_SECONDS).close()
        except OSError as error:
            raise _not_to_be_had(builder, name, f"no network to {parsed.hostname}") from error


def _not_to_be_had(builder: Any, name: str, reason: str) -> InputError:
    return InputError(
        "data.name",
        name,
        f"not prepared in {builder.data_path.parent.parent}, and its archives cannot be downloaded "
        f"({reason}); fetch {' '.join(_archives(builder))} elsewhere, copy the files into a folder "
        "and give it as --config.data.manual_dir",
    )


def _prepare(builder: Any, name: str, manual_dir: str) -> None:
    """Downloads and unpacks; a set is there only once TFDS has renamed its finished folder."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf
    import tensorflow_datasets as tfds

    # TensorFlow would otherwise take the accelerator's memory away from JAX.
    tf.config.set_visible_devices([], "GPU")
    print(f"data: preparing {name} in {builder.data_path}", flush=True)
    folder = str(_path(manual_dir)) if manual_dir else None
    config = tfds.download.DownloadConfig(manual_dir=folder)
    try:
        builder.download_and_prepare(download_config=config)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if not manual_dir:
            raise _not_to_be_had(builder, name, reason) from error
        raise InputError(
            "data.manual_dir",
            manual_dir,
            f"{name} cannot be prepared from these archives ({reason}); fetch them anew",
        ) from error


def _read_labels(builder: Any, split: str) -> np.ndarray:
    import tensorflow_datasets as tfds

    # Decoding images is nine tenths of the time, and most of a subset's set is not needed.
    source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    return np.array([e["label"] for e in _examples(source, range(len(source)))], np.int32)


def _read_images(builder: Any, split: str, rows: np.ndarray) -> np.ndarray:
    source = builder.as_data_source(split)
    out = np.empty((len(rows), *image_shape(builder.name)), np.uint8)
    for i, example in enumerate(_examples(source, rows)):
        out[i] = example["image"]
    return out


def _examples(source: Any, rows: Any):
    rows = [int(r) for r in rows]
    for start in range(0, len(rows), _DECODED_AT_ONCE):
        yield from source.__getitems__(rows[start : start + _DECODED_AT_ONCE])
