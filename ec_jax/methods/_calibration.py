"""Calibrated strength: a point is made to forget as far as an oracle would, and no further.

    γ_l = clip( (s_l − t_l) / (1 − t_l), 0, 1 )

t_l is the unbiased linear CKA of the original's features at point l and a proxy oracle's, on
training images of the forget set; s_l that of the original's and the student's, on the step's
forget batch. γ_l multiplies what pushes forget samples away, which has no end of its own: at the
start, where s_l = 1, it acts in full, and no more once the student is as unlike the original as
the proxy is.

Why a ramp: s_l of a batch is noisy, and the mean of a linear gate over batches is the gate of the
mean, where a threshold would hand on the noise of each batch whole. Why unbiased: biased CKA of
small samples comes out high, a batch's higher than the whole set's. Retain terms are not gated, nor
are the terms of a teacher, pseudo-labels or a proxy: they say where to go, and end there.

Source: ours. The features are spatial means, as in the evaluation.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ec_jax import kernels, parallel
from ec_jax.errors import InputError
from ec_jax.methods import Context

MOST = 4096  # forget images that targets are taken of: kernels of n² numbers are held
_BATCH = 256  # images a pass; without effect on the targets but for rounding
_NARROWEST = 1e-6  # smallest 1 − t_l that is divided by


def targets(context: Context, points: Sequence[str]) -> dict[str, jax.Array]:
    """t_l of every point: CKA of the original and the proxy on the forget set's training images.

    Of more than ``MOST`` images the first ones are compared: a split's images are shuffled.

    Args:
      context: with the model ``proxy``.
      points: supervision points.

    Returns:
      {point: float32 scalar in [−1, 1]}.

    Raises:
      InputError: there are fewer than four forget images.
    """
    models = {name: context.models[name] for name in ("original", "proxy")}

    @jax.jit
    def look(models, images):
        found = {name: context.forward(tree, images).features for name, tree in models.items()}
        return {name: {p: features[p] for p in points} for name, features in found.items()}

    passes = [
        jax.device_get(look(models, images))
        for images, _ in context.batches("forget_train", _BATCH)
    ]
    whole = jax.tree.map(lambda *parts: np.concatenate(parts), *passes)
    count = len(whole["original"][points[0]])
    if count < kernels.SMALLEST_BATCH:
        remedy = f"{count} forget images have no unbiased CKA; use false, or forget at least 4"
        raise InputError("ec.calibrated", True, remedy)
    original, proxy = whole["original"], whole["proxy"]
    return {p: kernels.unbiased_similarity(original[p][:MOST], proxy[p][:MOST]) for p in points}


def similarity(one: jax.Array, other: jax.Array) -> jax.Array:
    """Unbiased CKA of two representations of the forget batch of all devices: s_l, say.

    Args:
      one: float32 [b, c], this device's share.
      other: float32 [b, d].

    Returns:
      float32 scalar in [−1, 1], equal on all devices. Runs under ``parallel.AXIS``.
    """
    pair = (jax.lax.all_gather(a, parallel.AXIS, tiled=True) for a in (one, other))
    return kernels.unbiased_similarity(*pair)


def gate(found: jax.Array, target: jax.Array) -> jax.Array:
    """γ_l: the share of the way to the target that is left.

    Args:
      found: s_l.
      target: t_l; where it is 1, the proxy is like the original and the gate stays closed.

    Returns:
      float32 scalar in [0, 1].

    >>> [round(float(gate(jnp.float32(s), jnp.float32(0.6))), 3) for s in (1.0, 0.9, 0.6, 0.2)]
    [1.0, 0.75, 0.0, 0.0]
    """
    return jnp.clip((found - target) / jnp.maximum(1.0 - target, _NARROWEST), 0.0, 1.0)
