"""Sets prepared by TensorFlow Datasets, read without TensorFlow: only *preparing* imports it."""

import contextlib
import errno
import io
import logging
import os
import re
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ec_jax.data import network, wordnet
from ec_jax.data.pictures import Files
from ec_jax.errors import InputError

_DECODED_AT_ONCE = 4096  # examples in memory in TFDS's own form while a set is read
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
# What reading damaged files raises; anything else is a fault of the program.
_UNREADABLE = (OSError, ValueError, RuntimeError, IndexError, KeyError, NotImplementedError)
# {set: its test split}, where the split of that name has no labels; else the first of these.
_TEST = {"imagenet2012": "validation"}
_TESTS = ("test", "validation", "val")
# SET, SET/CONFIGURATION and either with :VERSION. TFDS would read more into a name: a package, a
# path, arguments of the builder.
_NAME = re.compile(r"[a-z]\w*(/\w[\w.+-]*)?(:\d+\.[\d*]+\.[\d*]+)?", re.ASCII)
# {set that nobody may download: the archives that its user fetches}
_BY_HAND = {"imagenet2012": ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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


def path(folder: str) -> Path:
    """A folder as a user wrote it."""
    # pathlib's own form raises RuntimeError for a user that does not exist.
    return Path(os.path.expanduser(folder))


@quiet()
def open_builder(name: str, data_dir: str) -> Any:
    """TFDS's builder of a set, which may not be prepared yet.

    Args:
      name: of a set, perhaps with its configuration: ``imagenette/320px-v2``.
      data_dir: where prepared sets are; empty: TFDS's own default.

    Raises:
      InputError: TFDS has no such set, it is none of images with one label each, or what is there
        of it is damaged or in another format.
    """
    if not _NAME.fullmatch(name):
        raise InputError("data.name", name, "TFDS has no such set")
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    folder = str(path(data_dir)) if data_dir else None
    try:
        builder = tfds.builder(name, data_dir=folder, file_format="array_record")
    except tfds.core.registered.DatasetNotFoundError as error:
        raise InputError("data.name", name, "TFDS has no such set") from error
    except Exception as error:
        if missing := _missing(error):
            remedy = f"has to be prepared; install {missing} ({_reason(error)})"
            raise InputError("data.name", name, remedy) from error
        if configs := _other_configs(name):
            remedy = f"has no such configuration; one of {', '.join(configs)}"
            raise InputError("data.name", name, remedy) from error
        if "cannot be loaded at version" in str(error):
            raise InputError(
                "data.name", name, f"has no such version ({_reason(error)})"
            ) from error
        where = folder or "the default folder of TFDS"
        remedy = f"what {where} holds of {name} is damaged ({_reason(error)}); remove that"
        if "File format" in str(error):
            remedy = (
                f"{where} holds {name} in another format than ArrayRecord, which alone is read "
                "without TensorFlow; give another folder"
            )
        raise InputError("data.data_dir", data_dir, remedy) from error
    kinds = {key: type(f).__name__ for key, f in (builder.info.features or {}).items()}
    if (kinds.get("image"), kinds.get("label")) != ("Image", "ClassLabel"):
        remedy = "no set of images with one label each; those of TFDS have features image and label"
        raise InputError("data.name", name, remedy)
    return builder


def _missing(error: BaseException | None) -> str:
    """The package that something lacked, anywhere among an error's causes; else nothing."""
    while error:
        if isinstance(error, ImportError):
            name = error.name or "tensorflow"
            return {"cv2": "opencv-python-headless"}.get(name, name)
        error = error.__cause__ or error.__context__
    return ""


def _other_configs(name: str) -> list[str]:
    """What configurations a set has, where it has not the one that is named."""
    import tensorflow_datasets as tfds

    base, _, config = name.partition("/")
    there = list(tfds.builder_cls(base.partition(":")[0]).builder_configs)
    return [] if config.partition(":")[0] in ("", *there) else there


def about(name: str, data_dir: str) -> tuple[tuple[str, ...], tuple[int | None, ...], int | None]:
    """(class names, shape of an image, training images) of a set.

    The shape has None where images differ; the number is None while the set is not prepared.
    """
    builder = open_builder(name, data_dir)
    features, train = builder.info.features, builder.info.splits.get("train")
    names = wordnet.titles(features["label"].names)
    whole = train and test_split(builder)  # else a part of them is held out when they are read
    return names, tuple(features["image"].shape), train.num_examples if whole else None


def check(name: str, data_dir: str, manual_dir: str, names: Sequence[str]) -> None:
    """Refuses what ``prepare`` could not do, or what is there and is not whole.

    Args:
      name: of a set.
      data_dir: where prepared sets are.
      manual_dir: a folder of archives; empty: they are downloaded.
      names: of its classes.
    """
    builder = open_builder(name, data_dir)
    if builder.data_path.exists():
        _check_prepared(builder, names)
    elif manual_dir and (builder.url_infos or builder.MANUAL_DOWNLOAD_INSTRUCTIONS):
        _check_archives(builder, manual_dir)
    elif builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        files = " and ".join(_BY_HAND.get(builder.name, ["its files"]))
        remedy = f"is to be had by hand alone; put {files} into a folder and pass it"
        raise InputError("data.name", name, f"{remedy} as --config.data.manual_dir=FOLDER")
    else:
        _check_network(builder)


@quiet()
def prepared(name: str, data_dir: str, manual_dir: str, names: Sequence[str]) -> Any:
    """The builder of a set that is prepared, now if it was not."""
    builder = open_builder(name, data_dir)
    if not builder.data_path.exists():  # TFDS takes up any folder of that name
        _prepare(builder, manual_dir)
        builder = open_builder(name, data_dir)
    _check_prepared(builder, names)
    return builder


def test_split(builder: Any) -> str:
    """The split whose images are the test images; empty where the set has training images alone.

    Raises:
      InputError: it has neither.
    """
    found = builder.info.splits
    wanted = (_TEST[builder.name],) if builder.name in _TEST else _TESTS
    for split in wanted:
        if split in found:
            return split
    if list(found) == ["train"]:
        return ""
    remedy = f"has no split {' or '.join(wanted)} (but {', '.join(found)}); use another set"
    raise InputError("data.name", builder.name, remedy)


# Preparing.


def _root(builder: Any) -> str:
    return str(builder.data_path.parent.parent)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_archives(builder: Any, manual_dir: str) -> None:
    folder = path(manual_dir)
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        for name in _BY_HAND.get(builder.name, ()):
            if not os.path.isfile(folder / name):
                raise InputError("data.manual_dir", manual_dir, f"lacks {name}; put it there")
        return
    known = builder.url_infos.items()
    archives = {folder / info.filename: (url, info) for url, info in known}
    missing = [file for file in archives if not os.path.isfile(file)]
    # A set of several configurations has an archive for each of them.
    if len(missing) > (len(archives) - 1 if builder.builder_config else 0):
        lacks = ", ".join(file.name for file in missing)
        urls = " ".join(archives[file][0] for file in missing)
        raise InputError("data.manual_dir", manual_dir, f"lacks {lacks}; put it there, from {urls}")
    for file in archives.keys() - set(missing):
        url, info = archives[file]
        # Half a download is the commonest damage, and seen at once; checksums take longer.
        if (size := file.stat().st_size) != info.size:
            remedy = f"{file.name} has {size} bytes and not {int(info.size)}; fetch it anew, {url}"
            raise InputError("data.manual_dir", manual_dir, remedy)


def _check_network(builder: Any) -> None:
    if any(value and name.lower() in _PROXIES for name, value in os.environ.items()):
        return  # the proxy knows the hosts, this machine need not
    urls = [urllib.parse.urlparse(url) for url in builder.url_infos or ()]
    for host, port in {(u.hostname, u.port or (443 if u.scheme == "https" else 80)) for u in urls}:
        if not network.reachable(host, port):
            raise _not_to_be_had(builder, f"no network to {host}")


def _not_to_be_had(builder: Any, reason: str) -> InputError:
    archives = " ".join(builder.url_infos or ("them",))
    return InputError(
        "data.name",
        builder.name,
        f"not prepared in {_root(builder)}, and its archives cannot be downloaded ({reason}): on a "
        f"machine with a network fetch {archives} , copy them into a folder here and pass "
        "--config.data.manual_dir=FOLDER",
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
            given = str(path(manual_dir)) if manual_dir else None
            config = tfds.download.DownloadConfig(manual_dir=given, extract_dir=unpacked)
            builder.download_and_prepare(download_config=config)
    except Exception as error:
        raise _preparation_error(builder, manual_dir, error) from error


def _preparation_error(builder: Any, manual_dir: str, error: Exception) -> InputError:
    name, reason = builder.name, _reason(error)
    if missing := _missing(error):
        return InputError("data.name", name, f"has to be prepared; install {missing} ({reason})")
    full = isinstance(error, OSError) and error.errno in _NOT_WRITABLE
    if full or "Not enough disk space" in reason:
        remedy = f"{name} cannot be prepared in it ({reason}); give a folder that can be written"
        return InputError("data.data_dir", _root(builder), remedy)
    if manual_dir:
        remedy = f"{name} cannot be prepared from these archives ({reason}); fetch them anew"
        return InputError("data.manual_dir", manual_dir, remedy)
    return _not_to_be_had(builder, reason)


# Reading.


@contextlib.contextmanager
def _readable(builder: Any) -> Iterator[None]:
    """Turns what reading a damaged set raises into what the user can do about it."""
    try:
        yield
    except _UNREADABLE as error:
        if getattr(error, "errno", None) == errno.EMFILE or "Too many open files" in str(error):
            remedy = f"{builder.name} has more files than may be open at once; ulimit -n 8192"
            raise InputError("data.data_dir", _root(builder), remedy) from error
        remedy = f"remove {builder.data_path}, and it will be prepared anew"
        damage = f"the {builder.name} in it is damaged ({_reason(error)}); {remedy}"
        raise InputError("data.data_dir", _root(builder), damage) from error


def _check_prepared(builder: Any, names: Sequence[str]) -> None:
    """Compares a prepared set with what is known of it; reads none of its examples."""
    with _readable(builder):
        for split in filter(None, ("train", test_split(builder))):
            for file in builder.info.splits[split].filepaths:
                if not file.is_file():
                    raise FileNotFoundError(f"no file {file}")
        found = wordnet.titles(builder.info.features["label"].names)
        for i, (there, here) in enumerate(zip(found, names, strict=True)):
            # Ids that stand for other classes would forget the wrong ones without a word.
            if there != here:
                raise ValueError(f"its class {i} is {there}, should be {here}")


def _encoded(builder: Any, split: str) -> Any:
    """The examples with their images as they are stored."""
    import tensorflow_datasets as tfds

    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # not of every system

        # A file a shard is held open, more than a shell allows by default.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Decoding images is nine tenths of the time, and most of a subset's set is not needed.
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


@quiet()
def read_labels(builder: Any, split: str, *, keep: bool = False) -> np.ndarray:
    """int32 [n], the labels of a split.

    Args:
      builder: of a prepared set.
      split: of it.
      keep: they are left beside the set's files, as they come only with the images, which may be
        a hundred gigabytes; the next call finds them there.
    """
    kept = Path(builder.data_path) / f".{split}-labels.npy"
    count = builder.info.splits[split].num_examples
    with contextlib.suppress(OSError, ValueError, EOFError):
        found = np.load(kept, allow_pickle=False)
        if keep and found.shape == (count,) and found.dtype == np.int32:
            return found
    with _readable(builder):
        source = _encoded(builder, split)
        labels = np.array([e["label"] for e in _examples(source, range(len(source)))], np.int32)
    if keep:
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=kept.parent) as part:
            np.save(Path(part) / "labels.npy", labels)
            os.replace(Path(part) / "labels.npy", kept)  # another process may read it now
    return labels


@quiet()
def read_images(builder: Any, split: str, rows: np.ndarray) -> np.ndarray:
    """uint8 [k, h, w, c], the images at ``rows`` of a split, which are all of one size."""
    out = np.empty((len(rows), *builder.info.features["image"].shape), np.uint8)
    with _readable(builder):
        source = builder.as_data_source(split)
        for i, example in enumerate(_examples(source, rows)):
            out[i] = example["image"]
    return out


def files(builder: Any, split: str) -> Files:
    """The images of a split as they are stored, for ``Pictures``."""
    with _readable(builder):
        source = _encoded(builder, split)

    def read(index):
        with _readable(builder):
            return _whole(source[index])["image"]

    def name(index):
        found = f"{builder.name}, {split}, example {index}"
        try:
            example = source[index]
        except _UNREADABLE:
            return found  # it is named because it cannot be read
        given = example.get("file_name", example.get("filename", b""))
        given = given.decode(errors="replace") if isinstance(given, bytes) else str(given)
        return f"{found} ({given})" if given else found

    def identity(index):
        return f"{builder.info.full_name}, {split}, example {index}"

    return Files(read, name, identity, len(source), "data.data_dir")


def _examples(source: Any, rows: Sequence[int]) -> Iterator[dict[str, Any]]:
    rows = [int(r) for r in rows]
    for start in range(0, len(rows), _DECODED_AT_ONCE):
        yield from map(_whole, source.__getitems__(rows[start : start + _DECODED_AT_ONCE]))


def _whole(example: dict[str, Any]) -> dict[str, Any]:
    # What is left of a file that lost its end may be read without a complaint.
    if any(value is None for value in example.values()):
        raise ValueError("an example of it is empty")
    return example
