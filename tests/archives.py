"""Small archives in the real format of CIFAR, for TFDS's own builders.

A test calls ``make_cifar10`` or ``make_cifar100``, then ``patch``, and gives the archive's folder
as ``manual_dir``. The builder verifies size and checksum as it does those of the real archive.
"""

import io
import tarfile
from pathlib import Path

import numpy as np

from ec_jax.data import sources

FILES = {"cifar10": "cifar-10-binary.tar.gz", "cifar100": "cifar-100-binary.tar.gz"}


def make_cifar10(folder, per_class=10, test_per_class=2):
    """Writes the archive; returns its path and {split: (images, labels)} as it was put in.

    The classes are easily told apart, so that a small network learns them.
    """
    truth = _draw(10, per_class, test_per_class)
    records = [_records(*truth["train"]), _records(*truth["test"])]
    parts = np.array_split(records[0], 5)
    files = {f"data_batch_{i + 1}.bin": part.tobytes() for i, part in enumerate(parts)}
    files["test_batch.bin"] = records[1].tobytes()
    files["batches.meta.txt"] = _lines(sources.about("cifar10").class_names) + b"\n"
    return _write(Path(folder) / FILES["cifar10"], "cifar-10-batches-bin", files), truth


def make_cifar100(folder, per_class=2, test_per_class=1):
    """As ``make_cifar10``; class c lies in superclass ``c % 20``."""
    truth = _draw(100, per_class, test_per_class)
    files = {
        f"{split}.bin": _records(images, labels, labels % 20).tobytes()
        for split, (images, labels) in truth.items()
    }
    files["coarse_label_names.txt"] = _lines([f"superclass_{i:02d}" for i in range(20)])
    files["fine_label_names.txt"] = _lines(sources.about("cifar100").class_names)
    return _write(Path(folder) / FILES["cifar100"], "cifar-100-binary", files), truth


def patch(monkeypatch, name, archive):
    """Makes the builder of ``name`` expect this archive in place of the real one."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_cls(name)
    (url,) = builder.url_infos
    info = tfds.download.checksums.compute_url_info(archive)
    monkeypatch.setattr(builder, "url_infos", {url: info})


def _draw(classes, per_class, test_per_class):
    draw = np.random.default_rng(0)
    colours = draw.integers(0, 256, (classes, 1, 1, 3))
    out = {}
    for split, count in (("train", per_class), ("test", test_per_class)):
        labels = draw.permutation(np.repeat(np.arange(classes), count)).astype(np.int32)
        noise = draw.integers(-40, 41, (len(labels), 32, 32, 3))
        out[split] = np.clip(colours[labels] + noise, 0, 255).astype(np.uint8), labels
    return out


def _records(images, labels, *coarse):
    """One row an example: its labels, the coarse one first, then red, green and blue planes."""
    columns = [c.astype(np.uint8)[:, None] for c in (*coarse, labels)]
    return np.concatenate([*columns, images.transpose(0, 3, 1, 2).reshape(len(images), -1)], 1)


def _lines(names):
    return "".join(f"{n}\n" for n in names).encode()


def _write(path, folder, files):
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
