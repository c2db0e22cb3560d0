"""Boundary shrink: every forget image is handed to the class across the nearest boundary.

    x' = x + ε · range · sign ∇ₓ CE(f0(x), y),   t = argmax_{c not forgotten} f0(x')_c
    L = CE( f(x), t ) over D_f + w · CE over D_r

ε is a share of the image range. The range is that of the forget set's own pixels, channel by
channel, in the normalised units that the network sees; the neighbour x' is cut to it. f0 and so t
do not change in training. Where samples are forgotten, t is any class but the image's own.

Source: Chen et al. 2023, Boundary Unlearning, arXiv 2303.11570.
Differs from the published code: a neighbour that is still taken for its own class would keep its
label there, as we understand it; here it goes to the best of the classes that stay, so that every
image is forgotten. Published is w = 0, which reads no retain image; where several classes are given
up at once it gives the neighbours everything, and so the retain term is ours, and on by default.
The steps and their size are ours, and BatchNorm keeps the original's statistics.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.methods import Context, Forward, Method, chosen, taken_for, used

SETTINGS = {
    "epsilon": (0.1, "(0, 1]", "step to the neighbour, as a share of the image range"),
    "retain_weight": (1.0, ">= 0", "weight of the retain images' cross-entropy; 0 = as published"),
}
RECIPE = {"unlearn.optimizer.learning_rate": 0.01, "unlearn.batch_norm": "inference"}
SEARCH = [
    {"unlearn.optimizer.learning_rate": 0.001, "boundary_shrink.retain_weight": 0.0},
    {"unlearn.optimizer.learning_rate": 0.01, "boundary_shrink.retain_weight": 0.0},
    {"unlearn.optimizer.learning_rate": 0.1, "boundary_shrink.retain_weight": 0.0},
    {"unlearn.optimizer.learning_rate": 0.01, "boundary_shrink.retain_weight": 1.0},
    {"unlearn.optimizer.learning_rate": 0.03, "boundary_shrink.retain_weight": 1.0},
    {"unlearn.optimizer.learning_rate": 0.1, "boundary_shrink.retain_weight": 1.0},
]
_IMAGES = 500  # a batch of the pass that finds the range


@dataclasses.dataclass(frozen=True)
class BoundaryShrink(Method):
    """Boundary shrink.

    Attributes:
      last: the model's last supervision point.
      epsilon: ε.
      retain_weight: w.
      streams: without ``retain`` where w = 0.
    """

    last: str
    epsilon: float
    retain_weight: float
    streams: tuple[str, ...]

    def prepare(self, context: Context) -> dict:
        """The original, and the lowest and highest value of every channel."""
        low, high = jnp.inf, -jnp.inf
        for images, _ in context.batches("forget_train", _IMAGES):
            low = jnp.minimum(low, jnp.min(images, axis=(0, 1, 2)))
            high = jnp.maximum(high, jnp.max(images, axis=(0, 1, 2)))
        found = {"original": context.original, "forgotten": context.forgotten}
        return {**found, "low": low, "high": high}

    def view(self, step, forward: Forward):
        """Adds each forget image's new label, int32 [b]."""
        part, extras = step.batch["forget"], step.extras
        low, high = (extras[name][None, None, None] for name in ("low", "high"))

        def logits(images):
            return forward(extras["original"], images).logits[self.last]

        def loss(images):
            return jnp.sum(cross_entropy(logits(images), part["label"]))

        away = jnp.sign(jax.grad(loss)(part["image"]))
        neighbor = part["image"] + self.epsilon * (high - low) * away
        found = logits(jnp.clip(neighbor, low, high))
        target = taken_for(found, extras["forgotten"], part["label"])
        return {**step.batch, "forget": {**part, "target": target}}

    def loss(self, step):
        """The cross-entropy with the new labels, and the weighted one on D_r."""
        logits = step.outputs["forget"].logits[self.last]
        loss = parallel.global_mean(cross_entropy(logits, step.batch["forget"]["target"]))
        metrics = {"forget": loss}
        if self.retain_weight:
            logits, labels = step.outputs["retain"].logits[self.last], step.batch["retain"]["label"]
            metrics["retain"] = parallel.global_mean(cross_entropy(logits, labels))
            loss += self.retain_weight * metrics["retain"]
        return loss, metrics


def build(config: Any, points: Sequence[str]) -> BoundaryShrink:
    """Boundary shrink as ``config.boundary_shrink`` describes it."""
    own = chosen(config)
    return BoundaryShrink(points[-1], own.epsilon, own.retain_weight, used(own.retain_weight))
