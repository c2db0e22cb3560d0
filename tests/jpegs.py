"""Small pictures in real files: folders of them, and the archives of ImageNet and its like.

The classes have colours of their own, so that a small network learns them.
"""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(label, place, size=(40, 52), classes=4):
    """uint8 [height, width, 3]: a colour for the class, stripes and noise."""
    draw = np.random.default_rng((label, place))
    hue = np.array([label / classes, ((label * 7) % classes) / classes, 1 - label / classes])
    rows = np.sin(np.arange(size[0])[:, None, None] * (1 + label) / 3) * 25
    return np.clip(200 * hue + rows + draw.integers(0, 50, (*size, 3)), 0, 255).astype(np.uint8)


def encoded(image, kind="JPEG", mode="RGB", **options):
    """The bytes of a file."""
    out = io.BytesIO()
    Image.fromarray(image).convert(mode).save(out, kind, **options)
    return out.getvalue()


def jpeg(label, place, **options):
    """The bytes of a picture of a class."""
    return encoded(pixels(label, place, **options), quality=90)


def folder(root, names=("ant", "bee", "cow", "dog"), train=6, test=2, parts=("train", "val")):
    """Writes ``root/PART/CLASS/N.jpg``; returns the root."""
    for part, count in zip(parts, (train, test), strict=True):
        for label, name in enumerate(names):
            place = Path(root) / part / name
            place.mkdir(parents=True)
            for i in range(count):
                size = (36 + 3 * i, 60 - 4 * i)
                data = jpeg(label, i + 100 * (part != parts[0]), size=size, classes=len(names))
                (place / f"{i}.jpg").write_bytes(data)
    return Path(root)


def imagenet(root, wnids, train=5, val=2):
    """``ILSVRC2012_img_train.tar``, a tar of one tar a class, and ``ILSVRC2012_img_val.tar``.

    Returns {split: the labels, of images in the order of their names}; the validation images are
    given the labels that the builder's own list has for the first ones.
    """
    root = Path(root)
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for label, wnid in enumerate(wnids):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for i in range(train):
                    add(tar, f"{wnid}_{i}.JPEG", jpeg(label, i, classes=len(wnids)))
            add(outer, f"{wnid}.tar", inner.getvalue())
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as tar:
        for i in range(val):
            add(tar, f"ILSVRC2012_val_{i + 1:08d}.JPEG", jpeg(i, 50 + i))


def tree(path, files, mode="w:gz"):
    """A tar of {name: bytes}."""
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            add(tar, name, data)
    return Path(path)


def add(tar, name, data):
    """Puts a file into an open tar."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
