"""SCAR: forget features move into the nearest distribution of another class.

    t(x) = z(x)^δ / ‖z(x)^δ‖₂
    L = min_{k ≠ y} √( (t(x_f) − μ_k)ᵀ Σ_k⁻¹ (t(x_f) − μ_k) ) + λ · KL( f0(x_r) ‖ f(x_r) )

z is the pooled feature; μ_k and Σ_k are mean and covariance of the original's t over the
retain images of class k. The covariance S is shrunk, S + γ v I + γ c (1 1ᵀ − I) with v the mean of
its variances and c that of its covariances, and scaled to a diagonal of ones.

Source: Bonato, Cotogni, Sabetta 2024, SCAR, arXiv 2404.12922: the distance on Tukey's transform,
the shrinkage with γ = 3, the distillation.
Differs from the published code: it distils on out-of-distribution images, this on the retain
batch, at temperature 1, and its teacher's logits of forgotten classes are pressed down, f0's are
not; it takes the squared distance, and the moments of z^δ, of which it then normalises the mean,
where these are the root and the moments of t; BatchNorm keeps the original's statistics, which it
goes on taking; there is no stop at a target accuracy.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ec_jax import parallel
from ec_jax.losses.distillation import masked_kl
from ec_jax.losses.features import nearest_mahalanobis, tukey
from ec_jax.methods import Context, Forward, Method, chosen

SETTINGS = {
    "power": (0.5, "(0, 1]", "delta of Tukey's transform"),
    "shrinkage": (3.0, "> 0", "gamma of the covariances"),
    "weight": (5.0, ">= 0", "lambda, the weight of the distillation"),
}
RECIPE = {
    "unlearn.optimizer.name": "adamw",
    "unlearn.optimizer.learning_rate": 0.0005,
    "unlearn.batch_norm": "inference",
}
_IMAGES = 500  # a batch of the pass that finds the distributions
_RIDGE = 1e-8  # variance at least: a class of one image has none


def shrunk(covariance: np.ndarray, amount: float) -> np.ndarray:
    """A shrunk covariance, scaled to a diagonal of ones.

    Args:
      covariance: float64 [d, d].
      amount: γ > 0.

    Returns:
      float64 [d, d], positive definite.
    """
    size = len(covariance)
    eye = np.eye(size)
    variance = np.trace(covariance) / size
    between = (covariance.sum() - np.trace(covariance)) / max(size * (size - 1), 1)
    out = covariance + amount * (variance * eye + between * (1 - eye)) + _RIDGE * eye
    scale = np.sqrt(np.diag(out))
    return out / np.outer(scale, scale)


@dataclasses.dataclass(frozen=True)
class Scar(Method):
    """SCAR on a model whose last supervision point is ``last``."""

    last: str
    power: float
    shrinkage: float
    weight: float

    def prepare(self, context: Context) -> dict:
        """The original, and [C] distributions: means, precisions, and which there are."""

        @jax.jit
        def transformed(tree, images):
            return tukey(context.forward(tree, images).embeddings[self.last], self.power)

        size, count = context.network.backbone.widths[-1], context.num_classes
        # Moments about zero, in float64: of vectors of length one they lose nothing.
        number = np.zeros(count)
        first, second = np.zeros((count, size)), np.zeros((count, size, size))
        for images, labels in context.batches("retain_train", _IMAGES):
            values = np.asarray(transformed(context.original, images), np.float64)
            for k in np.unique(labels):
                part = values[np.asarray(labels) == k]
                number[k] += len(part)
                first[k] += part.sum(axis=0)
                second[k] += part.T @ part
        there = np.maximum(number, 1)
        means = first / there[:, None]
        covariances = second / there[:, None, None] - means[:, :, None] * means[:, None]
        inverses = [np.linalg.inv(shrunk(c, self.shrinkage)) for c in covariances]
        return {
            "original": context.original,
            "means": jnp.asarray(means, jnp.float32),
            "precisions": jnp.asarray(np.stack(inverses), jnp.float32),
            "known": jnp.asarray(number > 0),
        }

    def view(self, step, forward: Forward):
        """Adds the original's logits of the retain images."""
        part = step.batch["retain"]
        teacher = forward(step.extras["original"], part["image"]).logits[self.last]
        return {**step.batch, "retain": {**part, "teacher": teacher}}

    def loss(self, step):
        """The weighted sum; metrics for the distance and the divergence."""
        forget, retain = step.outputs["forget"], step.outputs["retain"]
        extras, labels = step.extras, step.batch["forget"]["label"]
        known = extras["known"]
        allowed = known[None] & (jnp.arange(len(known))[None] != labels[:, None])
        features = tukey(forget.embeddings[self.last], self.power)
        distance = parallel.global_mean(
            *nearest_mahalanobis(features, extras["means"], extras["precisions"], allowed)
        )
        teacher = step.batch["retain"]["teacher"]
        values = masked_kl(teacher, retain.logits[self.last], jnp.ones_like(known))
        kept = parallel.global_mean(values)
        return distance + self.weight * kept, {"forget": distance, "retain": kept}


def build(config: Any, points: Sequence[str]) -> Scar:
    """SCAR with the config's settings."""
    own = chosen(config)
    return Scar(points[-1], own.power, own.shrinkage, own.weight)
