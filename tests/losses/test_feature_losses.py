"""Distances from centroids and distributions against float64 loops, and their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ec_jax.losses.features import nearest_cosine, nearest_mahalanobis, tukey


def drawn(seed, n=5, k=4, d=3):
    draw = np.random.default_rng(seed)
    features, means = draw.normal(size=(n, d)), draw.normal(size=(k, d))
    roots = draw.normal(size=(k, d, d))
    precisions = roots @ roots.transpose(0, 2, 1) + np.eye(d)
    allowed = draw.random((n, k)) < 0.5
    allowed[0] = False
    allowed[1:, 0] = True
    return [np.float32(a) for a in (features, means, precisions)] + [allowed]


@pytest.mark.parametrize("seed", range(5))
def test_the_nearest_allowed_centroid_counts(seed):
    x, c, _, allowed = drawn(seed)
    values, some = nearest_cosine(*map(jnp.asarray, (x, c, allowed)))
    for i, row in enumerate(x.astype(np.float64)):
        found = [
            1 - row @ m / np.linalg.norm(row) / np.linalg.norm(m)
            for m, may in zip(c.astype(np.float64), allowed[i], strict=True)
            if may
        ]
        assert float(values[i]) == pytest.approx(min(found, default=0.0), abs=1e-5)
        assert bool(some[i]) == bool(found)


@pytest.mark.parametrize("seed", range(5))
def test_the_nearest_allowed_distribution_counts(seed):
    x, means, precisions, allowed = drawn(seed)
    values, some = nearest_mahalanobis(*map(jnp.asarray, (x, means, precisions, allowed)))
    for i, row in enumerate(x.astype(np.float64)):
        found = [
            np.sqrt((row - m) @ p @ (row - m))
            for m, p, may in zip(means, precisions, allowed[i], strict=True)
            if may
        ]
        assert float(values[i]) == pytest.approx(min(found, default=0.0), rel=1e-4)
        assert bool(some[i]) == bool(found)


def test_tukey_takes_the_power_and_the_length():
    x = np.abs(drawn(0)[0])
    expected = np.sqrt(x.astype(np.float64))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(tukey(jnp.asarray(x), 0.5), expected, atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_no_value_or_gradient_is_nan(scale):
    x, means, precisions, allowed = map(jnp.asarray, drawn(1))
    means = means.at[0].set(0.0)

    def total(x):
        a, _ = nearest_cosine(x, means, allowed)
        b, _ = nearest_mahalanobis(tukey(x, 0.5), means, precisions, allowed)
        c, _ = nearest_mahalanobis(x, means, precisions, jnp.zeros_like(allowed))
        d, _ = nearest_mahalanobis(x, means, precisions, allowed)
        return jnp.sum(a + b + c + d)

    value, grad = jax.value_and_grad(total)(scale * x)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_bfloat16_features_are_taken_in_float32():
    x, means, precisions, allowed = map(jnp.asarray, drawn(2))
    half = x.astype(jnp.bfloat16)
    assert nearest_cosine(half, means, allowed)[0].dtype == jnp.float32
    assert nearest_mahalanobis(half, means, precisions, allowed)[0].dtype == jnp.float32
    assert tukey(half, 0.5).dtype == jnp.float32
