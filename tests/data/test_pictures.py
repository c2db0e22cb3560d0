"""Pictures are decoded, cut and fed as PyTorch's transforms would, whatever the file holds."""

import errno
import io
import os
import struct
import zlib

import jpegs
import numpy as np
import pytest
import torch_models
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ec_jax.data import pictures
from ec_jax.data.feed import Feed
from ec_jax.data.loader import Stream
from ec_jax.errors import InputError

KINDS = {  # {what a file may be: its bytes}
    "jpeg": jpegs.jpeg(0, 0),
    "grey jpeg": jpegs.encoded(jpegs.pixels(1, 0), mode="L"),
    "cmyk jpeg": jpegs.encoded(jpegs.pixels(2, 0), mode="CMYK"),
    "png": jpegs.encoded(jpegs.pixels(3, 0), "PNG"),
    "png with transparency": jpegs.encoded(jpegs.pixels(0, 1), "PNG", "RGBA"),
    "palette": jpegs.encoded(jpegs.pixels(1, 1), "GIF", "P"),
    "webp": jpegs.encoded(jpegs.pixels(2, 1), "WEBP"),
    "16 bit": jpegs.encoded(np.full((30, 40), 3, np.uint8), "PNG", "I;16"),
}


def of(contents, size=16, resize=20):
    """``Pictures`` of bytes."""
    name = "picture {}".format
    files = pictures.Files(contents.__getitem__, name, name, len(contents), "data.data_dir")
    return pictures.Pictures(files, size=size, resize=resize)


@pytest.fixture(scope="module")
def transforms():
    torch_models.torchvision()
    from torchvision import transforms

    return transforms


@pytest.mark.parametrize("kind", KINDS)
def test_any_picture_becomes_colours(kind):
    found = of([KINDS[kind]])
    assert found.shape == (1, 16, 16, 3)
    still, cut = found[0:1], found.crop(0, np.random.default_rng(0), "crop+flip")
    assert still.dtype == cut.dtype == np.uint8
    assert still.shape[1:] == cut.shape == (16, 16, 3)
    if kind == "grey jpeg":
        assert (still == still[..., :1]).all()


@pytest.mark.parametrize("shape", [(40, 52), (53, 41), (16, 200), (20, 20)])
def test_the_middle_is_torchvisions(shape, transforms):
    whole = Image.fromarray(jpegs.pixels(0, 0, size=shape))
    theirs = transforms.Compose([transforms.Resize(20), transforms.CenterCrop(16)])(whole)
    np.testing.assert_array_equal(pictures.middle(whole, 16, 20), np.asarray(theirs))


def test_a_random_part_is_scaled_as_torchvision_scales_it(transforms):
    whole = Image.fromarray(jpegs.pixels(0, 0))  # no JPEG: all its pixels are at hand
    for seed in range(20):
        left, top, width, height = pictures.random_box(52, 40, np.random.default_rng(seed))
        theirs = transforms.functional.resized_crop(whole, top, left, height, width, [16, 16])
        ours = pictures.random_crop(whole, 16, np.random.default_rng(seed))
        np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_a_jpeg_read_at_a_fraction_of_its_size_is_nearly_the_same():
    big = jpegs.encoded(np.kron(jpegs.pixels(0, 0), np.ones((8, 8, 1), np.uint8)), quality=95)
    for seed in range(5):
        kept = Image.open(io.BytesIO(big))
        kept.load()  # now it can no longer be read smaller
        whole = pictures.random_crop(kept, 16, np.random.default_rng(seed))
        part = pictures.random_crop(Image.open(io.BytesIO(big)), 16, np.random.default_rng(seed))
        assert np.abs(whole.astype(int) - part).mean() < 4


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(0, 2**31))
def test_a_random_part_lies_within_the_picture(width, height, seed):
    left, top, w, h = pictures.random_box(width, height, np.random.default_rng(seed))
    assert 0 <= left <= left + w <= width
    assert 0 <= top <= top + h <= height
    assert min(w, h) >= 1


def test_parts_are_drawn_as_torchvision_draws_them(transforms):
    import torch

    torch.manual_seed(0)
    image = Image.new("RGB", (300, 200))
    draw, ours, theirs = np.random.default_rng(0), [], []
    for _ in range(4000):
        ours.append(pictures.random_box(300, 200, draw))
        top, left, height, width = transforms.RandomResizedCrop.get_params(
            image, pictures.AREA, pictures.ASPECT
        )
        theirs.append((left, top, width, height))
    a, b = (np.array(x, float) for x in (ours, theirs))
    for values in (lambda x: x[:, 2] * x[:, 3], lambda x: np.log(x[:, 2] / x[:, 3])):
        u, v = np.sort(values(a)), np.sort(values(b))
        assert np.abs(u - v).mean() < 0.05 * v.std()  # quantile by quantile
    np.testing.assert_allclose(a.mean(axis=0), b.mean(axis=0), rtol=0.05)


def test_without_a_crop_training_sees_the_middle():
    found = of([KINDS["jpeg"]])
    np.testing.assert_array_equal(found.crop(0, np.random.default_rng(0), "none"), found[0:1][0])
    flipped = [found.crop(0, np.random.default_rng(seed), "flip") for seed in range(20)]
    mirrored = sum((cut == found[0:1][0][:, ::-1]).all() for cut in flipped)
    assert 3 < mirrored < 17
    assert all(
        (cut == found[0:1][0]).all() or (cut == found[0:1][0][:, ::-1]).all() for cut in flipped
    )


DAMAGED = {
    "truncated": KINDS["jpeg"][:-300],
    "cut in its head": KINDS["jpeg"][:40],
    "empty": b"",
    "no picture": b"a picture of an ant, in words",
    "png that lost its end": KINDS["png"][:-400],
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_picture_is_named(what):
    found = of([KINDS["jpeg"], DAMAGED[what]])
    for read in (
        lambda: found[0:2],
        lambda: found.crop(1, np.random.default_rng(0), "crop"),
    ):
        with pytest.raises(InputError, match=r"data.data_dir = 'picture 1': cannot be decoded"):
            read()
    good, names = found.sound()
    assert good.tolist() == [0]
    assert names == ["picture 1"]


def test_a_machine_at_its_limits_is_no_damaged_picture():
    def read(index):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    files = pictures.Files(read, "picture {}".format, str, 2, "data.data_dir")
    found = pictures.Pictures(files, size=16, resize=20)
    with pytest.raises(InputError, match=r"'picture \d': cannot be read \(.*Too many open files"):
        found.sound()


def test_sixteen_bits_become_eight():
    ramp = np.linspace(0, 65_535, 40).astype(np.uint16)[None].repeat(40, 0)
    found = of([jpegs.encoded(ramp, "PNG", "I;16")], size=40, resize=40)[0:1]
    np.testing.assert_allclose(found[0, ..., 0], ramp / 256, atol=1)


def test_rows_of_pictures_are_those_of_an_array():
    found = of([jpegs.jpeg(i % 4, i) for i in range(6)])
    whole = found[0:6]
    for rows in ([3, 1], np.array([True, False, True, False, False, True]), slice(1, 4)):
        np.testing.assert_array_equal(
            found[rows] if isinstance(rows, slice) else found.take(rows)[0:9], whole[rows]
        )
    np.testing.assert_array_equal(
        pictures.rows_of(whole, [2, 2]), pictures.rows_of(found, [2, 2])[0:2]
    )


# The feed of training.


@pytest.fixture(scope="module")
def many():
    return of([jpegs.jpeg(i % 4, i) for i in range(10)])


def feed(many, part=(0, 1), rows=10, size=4, kind="crop+flip", steps=range(100)):
    return Feed(Stream(np.arange(rows), size, 7, "train"), many, kind, steps, part)


def test_what_a_step_reads_does_not_depend_on_where_a_run_began(many):
    straight = feed(many)
    batches = [straight.batch(step) for step in range(7)]
    for start in (3, 5):  # in the middle of an epoch, and of a batch that spans two
        resumed = feed(many)
        for step in range(start, 7):
            np.testing.assert_array_equal(resumed.batch(step), batches[step])
    back = straight.batch(2)  # any step can be asked for
    np.testing.assert_array_equal(back, batches[2])
    np.testing.assert_array_equal(straight.batch(2), batches[2])
    np.testing.assert_array_equal(straight.batch(3), batches[3])


def test_a_stream_that_is_read_now_and_then_is_decoded_ahead_without_waste(many):
    read = []

    class Counted(pictures.Pictures):
        def crop(self, row, draw, kind):
            read.append(row)
            return super().crop(row, draw, kind)

    steps = (0, 2, 3, 8, 10)
    whole = feed(many)
    thrifty = feed(Counted(many._files, size=16, resize=20), steps=steps)
    for step in steps:
        np.testing.assert_array_equal(thrifty.batch(step), whole.batch(step))
    assert len(read) == 4 * len(steps)  # none twice, and none of the steps between


def test_processes_share_a_batch_without_loss_or_repetition(many):
    whole = feed(many)
    parts = [feed(many, (i, 2)) for i in range(2)]
    for step in range(6):
        joined = np.concatenate([part.batch(step) for part in parts])
        np.testing.assert_array_equal(joined, whole.batch(step))
    with pytest.raises(ValueError, match="a batch of 4 has no 3 equal parts"):
        feed(many, (0, 3))


def test_every_epoch_has_every_picture_once(many):
    stream = Stream(np.arange(10), 4, 7, "train")
    stills = many[0:10]
    fed = feed(many, kind="none")
    seen = np.concatenate([fed.batch(step) for step in range(5)])  # two epochs
    for epoch in (seen[:10], seen[10:]):
        found = [int(np.flatnonzero((stills == cut).all(axis=(1, 2, 3)))[0]) for cut in epoch]
        assert sorted(found) == list(range(10))
    assert [stream.at(place) for place in range(20)] == [
        int(i) for step in range(5) for i in stream.batch_indices(step)
    ]


def test_the_same_picture_is_cut_anew_every_time(many):
    fed = feed(many, rows=1)
    cuts = fed.batch(0)
    assert len({cut.tobytes() for cut in cuts}) > 1
    damaged = of([KINDS["jpeg"], DAMAGED["truncated"]])
    with pytest.raises(InputError, match="'picture 1': cannot be decoded"):
        feed(damaged, rows=2, kind="crop").batch(0)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n"


def large(width, height):
    """A PNG that says that it has so many pixels, and has none."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    size, check = struct.pack(">I", 13), struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + size + chunk + check


@pytest.mark.parametrize("content", [EPS, large(60_000, 60_000), large(2**31 - 1, 2**31 - 1)])
def test_other_formats_and_endless_pictures_are_not_opened(content):
    """Pillow would hand the first to another program, and make room for the others."""
    with pytest.raises(pictures.DamagedError, match=r"data.data_dir = 'picture 0': cannot be"):
        of([content]).still(0)
    assert of([content, KINDS["png"]]).sound()[0].tolist() == [1]
