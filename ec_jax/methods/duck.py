"""DUCK: forget features move to the nearest centroid of a class that is not theirs.

    L = λ_f · min_{k ≠ y} [1 − cos(z(x_f), c_k)] + λ_r · CE(f(x_r) / T, y_r)

z is the pooled feature and c_k the mean of the original's over the retain images of class k. The
temperature T divides the logits: above 1 it flattens the prediction, so that retain images
that are right already keep a gradient, 1/T as steep.

Source: Cotogni et al. 2023, DUCK, arXiv 2312.02052: both terms, λ_f 1, λ_r 1.4, T 2, Adam.
Differs from the published code: the centroid that is nearest is looked for in every step, among
the classes that have retain images; weight decay is decoupled; BatchNorm keeps the original's
statistics; there is no stop at a target accuracy on D_f, which the code is understood to use.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.losses.features import nearest_cosine
from ec_jax.methods import Context, Method, chosen
from ec_jax.methods._prototypes import class_means

SETTINGS = {
    "lambda_forget": (1.0, ">= 0", "weight of the distance to the nearest centroid"),
    "lambda_retain": (1.4, ">= 0", "weight of the cross-entropy on the retain batch"),
    "temperature": (2.0, "> 0", "what the logits of the cross-entropy are divided by"),
}
RECIPE = {
    "unlearn.optimizer.name": "adamw",
    "unlearn.optimizer.learning_rate": 0.0015,
    "unlearn.batch_norm": "inference",
}
_IMAGES = 500  # a batch of the pass that finds the centroids


@dataclasses.dataclass(frozen=True)
class Duck(Method):
    """DUCK on a model whose last supervision point is ``last``."""

    last: str
    lambda_forget: float
    lambda_retain: float
    temperature: float

    def prepare(self, context: Context) -> dict:
        """The centroids [C, d], and which classes have one."""
        pooled = jax.jit(lambda tree, x: context.forward(tree, x).embeddings[self.last])
        batches = context.batches("retain_train", _IMAGES)
        features = ((pooled(context.original, x), y) for x, y in batches)
        means, counts = class_means(features, context.num_classes)
        return {"centroids": jnp.asarray(means, jnp.float32), "known": jnp.asarray(counts > 0)}

    def loss(self, step):
        """The weighted sum; metrics for the distance and the cross-entropy."""
        forget, retain = step.outputs["forget"], step.outputs["retain"]
        known, labels = step.extras["known"], step.batch["forget"]["label"]
        allowed = known[None] & (jnp.arange(len(known))[None] != labels[:, None])
        distance = parallel.global_mean(
            *nearest_cosine(forget.embeddings[self.last], step.extras["centroids"], allowed)
        )
        logits = retain.logits[self.last] / self.temperature
        kept = parallel.global_mean(cross_entropy(logits, step.batch["retain"]["label"]))
        total = self.lambda_forget * distance + self.lambda_retain * kept
        return total, {"forget": distance, "retain": kept}


def build(config: Any, points: Sequence[str]) -> Duck:
    """DUCK with the config's settings."""
    own = chosen(config)
    return Duck(points[-1], own.lambda_forget, own.lambda_retain, own.temperature)
