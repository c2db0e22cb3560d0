"""Moments, normalisation, crops and flips against NumPy."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ec_jax.data import augment

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 6, 5, 3), np.uint8)
KEYS = jax.random.split(jax.random.key(1), len(IMAGES))


def crops(image):
    """All 81 crops of the padded image."""
    height, width, _ = image.shape
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    return [padded[t : t + height, x : x + width] for t in range(9) for x in range(9)]


def flips(image):
    return [image, image[:, ::-1]]


POSSIBLE = {
    "flip": flips,
    "crop": crops,
    "crop+flip": lambda image: [f for c in crops(image) for f in flips(c)],
}


@settings(deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 4)))
def test_moments_are_numpys(images):
    mean, std = augment.moments(images)
    assert mean.dtype == std.dtype == np.float32
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-6, atol=1e-7)
    constant = np.ptp(images, (0, 1, 2)) == 0
    expected = np.where(constant, 1.0, scaled.std((0, 1, 2)))
    np.testing.assert_allclose(std, expected, rtol=1e-5)


def test_moments_of_more_images_than_are_counted_at_once(monkeypatch):
    whole = augment.moments(IMAGES)
    monkeypatch.setattr(augment, "_COUNTED_AT_ONCE", 5)
    np.testing.assert_array_equal(augment.moments(IMAGES), whole)


def test_moments_of_many_images_are_numpys():
    images = np.random.default_rng(1).integers(0, 256, (2500, 2, 2, 2), np.uint8)
    images[1100:, ..., 1] //= 2  # the later images differ from the earlier
    mean, std = augment.moments(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-5)


def test_normalize_removes_the_moments():
    mean, std = augment.moments(IMAGES)
    out = np.asarray(augment.normalize(IMAGES, mean, std))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, (IMAGES / 255 - mean) / std, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std((0, 1, 2)), 1, rtol=1e-5)


@pytest.mark.parametrize("kind", sorted(POSSIBLE))
def test_each_image_becomes_one_of_its_crops_or_flips(kind):
    out = np.asarray(augment.augment(IMAGES, KEYS, kind))
    assert out.dtype == np.uint8
    for image, got in zip(IMAGES, out, strict=True):
        assert any(np.array_equal(got, p) for p in POSSIBLE[kind](image))


@pytest.mark.parametrize("kind", sorted(POSSIBLE))
def test_every_crop_and_flip_is_drawn_about_equally_often(kind):
    image = IMAGES[0]
    count = 100 * len(POSSIBLE[kind](image))
    keys = jax.random.split(jax.random.key(2), count)
    out = np.asarray(augment.augment(np.tile(image, (count, 1, 1, 1)), keys, kind))
    drawn = {}
    for got in out:
        drawn[got.tobytes()] = drawn.get(got.tobytes(), 0) + 1
    assert set(drawn) == {p.tobytes() for p in POSSIBLE[kind](image)}
    assert min(drawn.values()) > 50
    assert max(drawn.values()) < 150


@pytest.mark.parametrize("kind", augment.KINDS)
def test_the_result_does_not_depend_on_how_a_batch_is_cut(kind):
    whole = augment.augment(IMAGES, KEYS, kind)
    parts = [augment.augment(IMAGES[s], KEYS[s], kind) for s in (slice(0, 5), slice(5, None))]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("kind", augment.KINDS)
def test_jit_changes_nothing(kind):
    jitted = jax.jit(augment.augment, static_argnames="kind")(IMAGES, KEYS, kind=kind)
    np.testing.assert_array_equal(jitted, augment.augment(IMAGES, KEYS, kind))


def test_none_leaves_the_images_alone():
    np.testing.assert_array_equal(augment.augment(IMAGES, KEYS, "none"), IMAGES)


@pytest.mark.parametrize("kind", ["", "rotate", "flip+crop", "cropflip"])
def test_an_unknown_kind_is_refused(kind):
    with pytest.raises(ValueError, match=r"one of none, flip, crop, crop\+flip"):
        augment.augment(IMAGES, KEYS, kind)
