"""Contrastive losses: SupCon, and for forgetting SupCon with the roles turned round."""

import math
from typing import Any

import jax
import jax.numpy as jnp

CANDIDATES = ("forget", "retain", "both")
_SMALLEST = 1e-12  # largest entry below which a vector counts as zero


def l2_normalize(x: jax.Array) -> jax.Array:
    """Rows scaled to unit length, x / ‖x‖₂, in float32.

    Args:
      x: [n, d], any float dtype.

    Returns:
      float32 [n, d]. Rows without an entry above 1e-12 in magnitude become zero and pass no
      gradient on; a row with NaN or infinity becomes NaN.

    >>> l2_normalize(jnp.array([[0.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    x = x.astype(jnp.float32)
    # Lengths do not matter, so dividing by a constant first changes nothing but keeps the
    # squares of very large and very small entries representable.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0.0))
    zero = largest <= _SMALLEST
    x = x / jnp.where(zero, 1.0, largest)
    # The guard sits inside the root: the root's slope at zero would make the gradient NaN.
    squares = jnp.where(zero, 1.0, jnp.sum(jnp.square(x), axis=-1, keepdims=True))
    return jnp.where(zero, 0.0, x * jax.lax.rsqrt(squares))


def contrastive_forgetting_loss(
    forget_embeddings: jax.Array,
    forget_labels: jax.Array,
    retain_embeddings: jax.Array,
    retain_labels: jax.Array,
    *,
    temperature: float | jax.Array,
    candidates: str = "both",
    targets: jax.Array | None = None,
    axis_name: str | None = None,
    gather_dtype: Any = jnp.float32,
) -> tuple[jax.Array, jax.Array]:
    """Pulls every forget sample towards other classes and away from its own.

    For an anchor i of the forget batch, candidates A(i) without i itself and positives
    P(i) = {p ∈ A(i) : y_p ≠ y_i}, with z the L2-normalised embeddings::

        loss_i = −1/|P(i)| · Σ_{p∈P(i)} log [ exp(z_i·z_p/τ) / Σ_{a∈A(i)} exp(z_i·z_a/τ) ]

    The batch's loss is the mean over the anchors that have positives (the mask).

    Args:
      forget_embeddings: [n, d], any float dtype; computed in float32. The anchors.
      forget_labels: integer [n].
      retain_embeddings: [m, d]; m may be 0.
      retain_labels: integer [m].
      temperature: τ > 0; stable down to 0.01.
      candidates: A(i) is ``forget``, the other forget samples; ``retain``, the retain
        batch; or ``both``.
      targets: integer [n], the one class whose samples attract an anchor: P(i) = {p ∈ A(i) :
        y_p = targets_i}. None: all other classes do.
      axis_name: mapped axis over whose devices candidates are gathered, in ``jax.shard_map``
        or ``jax.pmap``. Every device holds an equal share of both batches. None: one device.
      gather_dtype: to which candidates, not anchors, are rounded before they are gathered:
        bfloat16 halves what is sent and moves a cosine by 0.004 at most. On one device, too, so
        that the loss does not depend on their number.

    Returns:
      float32 [n], the loss of each of this device's anchors, 0 without positives; and
      bool [n], whether the anchor has positives.

    Raises:
      ValueError: ``candidates`` is none of the three, or a known τ is not a positive number.

    Source: Lee et al. 2026, arXiv 2602.05375 (the idea); the form is SupCon's, Khosla et al.
    2020, arXiv 2004.11362, equation 2, with positives of other labels. The candidate set is
    this project's reading; ``retain`` is that of Lee et al. 2024, arXiv 2401.10458.

    >>> same = jnp.ones((1, 2))
    >>> losses, mask = contrastive_forgetting_loss(
    ...     same, jnp.array([0]), jnp.ones((3, 2)), jnp.array([1, 2, 3]), temperature=0.5
    ... )
    >>> losses.round(4).tolist(), mask.tolist()  # collapsed features: log |A(i)|
    ([1.0986...], [True])
    """
    _check(temperature, candidates)
    anchors = l2_normalize(forget_embeddings)
    count = anchors.shape[0]
    embeddings, labels, indices = [], [], []
    if candidates != "retain":
        embeddings.append(_gather(anchors.astype(gather_dtype), axis_name))
        labels.append(_gather(forget_labels, axis_name))
        indices.append(jnp.arange(embeddings[0].shape[0]))
    if candidates != "forget":
        retained = l2_normalize(retain_embeddings).astype(gather_dtype)
        embeddings.append(_gather(retained, axis_name))
        labels.append(_gather(retain_labels, axis_name))
        indices.append(jnp.full(labels[-1].shape, -1))  # no anchor is a retain sample
    others, other_labels, places = map(jnp.concatenate, (embeddings, labels, indices))
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * count
    allowed = places[None] != (first + jnp.arange(count))[:, None]
    if targets is None:
        positive = allowed & (other_labels[None] != forget_labels[:, None])
    else:
        positive = allowed & (other_labels[None] == targets[:, None])
    # The default precision of TPUs and GPUs is too coarse once divided by a small τ.
    others = others.astype(jnp.float32)
    products = jnp.matmul(anchors, others.T, precision=jax.lax.Precision.HIGHEST)
    return _losses(products / temperature, allowed, positive), positive.any(axis=1)


def supervised_contrastive_loss(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    temperature: float | jax.Array,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Pulls every sample towards those of its class and away from all others.

    For an anchor i of the batch, candidates A(i) = all but i and positives
    P(i) = {p ∈ A(i) : y_p = y_i}, with z the L2-normalised embeddings::

        loss_i = −1/|P(i)| · Σ_{p∈P(i)} log [ exp(z_i·z_p/τ) / Σ_{a∈A(i)} exp(z_i·z_a/τ) ]

    Args:
      embeddings: [n, d], any float dtype; computed in float32.
      labels: integer [n].
      temperature: τ > 0; stable down to 0.01.
      axis_name: mapped axis over whose devices candidates are gathered. None: one device.

    Returns:
      float32 [n], the loss of each of this device's anchors, 0 without positives; and
      bool [n], whether the anchor has positives.

    Raises:
      ValueError: a known τ is not a positive number.

    Source: Khosla et al. 2020, arXiv 2004.11362, equation 2, with one view of each sample.

    >>> losses, mask = supervised_contrastive_loss(
    ...     jnp.ones((4, 2)), jnp.array([0, 0, 0, 1]), temperature=0.5
    ... )
    >>> losses.round(4).tolist(), mask.tolist()  # collapsed features: log |A(i)|
    ([1.0986..., 1.0986..., 1.0986..., 0.0], [True, True, True, False])
    """
    _check(temperature, "both")
    anchors = l2_normalize(embeddings)
    count = anchors.shape[0]
    others, other_labels = _gather(anchors, axis_name), _gather(labels, axis_name)
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * count
    allowed = jnp.arange(others.shape[0])[None] != (first + jnp.arange(count))[:, None]
    positive = allowed & (other_labels[None] == labels[:, None])
    products = jnp.matmul(anchors, others.T, precision=jax.lax.Precision.HIGHEST)
    return _losses(products / temperature, allowed, positive), positive.any(axis=1)


def _losses(scores: jax.Array, allowed: jax.Array, positive: jax.Array) -> jax.Array:
    """log Σ_{a∈A} exp(s_a) − mean_{p∈P} s_p of each row; 0 where P is empty."""
    top = jnp.max(scores, axis=1, keepdims=True, where=allowed, initial=-jnp.inf)
    # Shifting numerator and denominator alike cancels, in the gradient too.
    top = jax.lax.stop_gradient(jnp.where(top == -jnp.inf, 0.0, top))
    # Masked before exp: an overflow there would turn the zero gradient into NaN.
    shifted = jnp.where(allowed, scores - top, 0.0)
    total = jnp.sum(jnp.where(allowed, jnp.exp(shifted), 0.0), axis=1)
    count = jnp.sum(positive.astype(jnp.float32), axis=1)
    mean = jnp.sum(jnp.where(positive, shifted, 0.0), axis=1) / jnp.maximum(count, 1.0)
    some = count > 0
    return jnp.where(some, jnp.log(jnp.where(some, total, 1.0)) - mean, 0.0)


def _gather(x: jax.Array, axis_name: str | None) -> jax.Array:
    # An empty share is empty everywhere, and not every backend gathers nothing.
    if axis_name is None or not x.size:
        return x
    return jax.lax.all_gather(x, axis_name, tiled=True)


def _check(temperature: float | jax.Array, candidates: str) -> None:
    if candidates not in CANDIDATES:
        raise ValueError(f"candidates = {candidates!r}: one of {', '.join(CANDIDATES)}")
    if not isinstance(temperature, jax.core.Tracer) and not 0 < temperature < math.inf:
        raise ValueError(f"temperature = {temperature!r}: a positive number is needed")
