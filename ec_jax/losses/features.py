"""Distances of features from what a class looks like: its centroid, or its distribution."""

import jax
import jax.numpy as jnp

from ec_jax.losses.contrastive import l2_normalize

_OFFSET = 1e-6  # added before a root, whose slope at zero is infinite


def nearest_cosine(
    features: jax.Array, centroids: jax.Array, allowed: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cosine distance of each feature from the nearest centroid that it may go to.

    D_i = min_{k allowed} 1 − x_i·c_k / (‖x_i‖ ‖c_k‖)

    Args:
      features: [n, d], any float dtype; computed in float32.
      centroids: [K, d].
      allowed: bool [n, K].

    Returns:
      float32 [n], in [0, 2], 0 where nothing is allowed; and bool [n], whether anything is.

    Source: Cotogni et al. 2023, arXiv 2312.02052 (DUCK).

    >>> x, centroids = jnp.array([[2.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 5.0]])
    >>> nearest_cosine(x, centroids, jnp.array([[False, True]]))[0].tolist()
    [1.0]
    """
    highest = jax.lax.Precision.HIGHEST
    cosines = jnp.matmul(l2_normalize(features), l2_normalize(centroids).T, precision=highest)
    return _nearest(1.0 - cosines, allowed)


def tukey(features: jax.Array, power: float) -> jax.Array:
    """Tukey's ladder of powers, which makes skewed features nearer to normal, to unit length.

    t = (max(x, 0) + 1e-6)^δ, the result t / ‖t‖₂. The offset bounds the slope at zero.

    Args:
      features: [n, d], any float dtype, meant to be >= 0; what is below counts as 0.
      power: δ > 0; 1 changes nothing but the length.

    Returns:
      float32 [n, d].

    Source: Tukey 1977, Exploratory Data Analysis; in unlearning Bonato et al. 2024, arXiv
    2404.12922 (SCAR).

    >>> tukey(jnp.array([[9.0, 16.0]]), 0.5).round(3).tolist()
    [[0.6..., 0.8...]]
    """
    return l2_normalize(jnp.power(jnp.maximum(features.astype(jnp.float32), 0.0) + _OFFSET, power))


def nearest_mahalanobis(
    features: jax.Array, means: jax.Array, precisions: jax.Array, allowed: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mahalanobis distance of each feature from the nearest distribution that it may go to.

    D_i = min_{k allowed} √( (x_i − μ_k)ᵀ Σ_k⁻¹ (x_i − μ_k) )

    Args:
      features: [n, d], any float dtype; computed in float32.
      means: [K, d].
      precisions: [K, d, d], the inverse covariances, symmetric and positive definite.
      allowed: bool [n, K].

    Returns:
      float32 [n], >= 0, 0 where nothing is allowed; and bool [n], whether anything is. At a mean
      itself the gradient is zero.

    Source: Bonato et al. 2024, arXiv 2404.12922 (SCAR).

    >>> x, means = jnp.array([[3.0, 0.0]]), jnp.zeros((1, 2))
    >>> nearest_mahalanobis(x, means, 4.0 * jnp.eye(2)[None], jnp.ones((1, 1), bool))[0].tolist()
    [6.0]
    """
    from_means = features.astype(jnp.float32)[:, None] - means[None]
    highest = jax.lax.Precision.HIGHEST
    scaled = jnp.einsum("nkd,kde->nke", from_means, precisions, precision=highest)
    squares = jnp.sum(scaled * from_means, axis=-1)
    nearest, some = _nearest(squares, allowed)
    # The guard sits inside the root: its slope at zero would make the gradient NaN.
    moves = nearest > 0
    return jnp.where(moves, jnp.sqrt(jnp.where(moves, nearest, 1.0)), 0.0), some


def _nearest(distances: jax.Array, allowed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The smallest allowed entry of each row, 0 where there is none."""
    some = allowed.any(axis=1)
    chosen = jnp.argmin(jnp.where(allowed, distances, jnp.inf), axis=1)
    nearest = jnp.take_along_axis(distances, chosen[:, None], axis=1)[:, 0]
    return jnp.where(some, nearest, 0.0), some
