"""Boundary shrink: every forget image is handed to the class across the nearest boundary.

    x' = x + ε · range · sign ∇ₓ CE(f0(x), y),   t = argmax_{c not forgotten} f0(x')_c
    L = CE( f(x), t ) over D_f

ε is a share of the image range. The range is that of the forget set's own pixels, channel by
channel, in the normalised units that the network sees; the neighbour x' is cut to it. f0 and so t
do not change in training. Where samples are forgotten, t is any class but the image's own.

Source: Chen et al. 2023, Boundary Unlearning, arXiv 2303.11570.
Differs from the published code: a neighbour that is still taken for its own class would keep its
label there, as we understand it; here it goes to the best of the classes that stay, so that every
image is forgotten.
The steps and their size are ours.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.methods import Context, Forward, Method, chosen, others

SETTINGS = {"epsilon": (0.1, "(0, 1]", "step to the neighbour, as a share of the image range")}
RECIPE = {"unlearn.optimizer.learning_rate": 0.01, "unlearn.batch_norm": "inference"}
_IMAGES = 500  # a batch of the pass that finds the range


@dataclasses.dataclass(frozen=True)
class BoundaryShrink(Method):
    """Boundary shrink on a model whose last supervision point is ``last``; ``epsilon`` is ε."""

    last: str
    epsilon: float
    streams = ("forget",)

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
        allowed = others(extras["forgotten"], part["label"])
        target = jnp.argmax(jnp.where(allowed, found, -jnp.inf), axis=1).astype(jnp.int32)
        return {**step.batch, "forget": {**part, "target": target}}

    def loss(self, step):
        """The cross-entropy with the new labels."""
        logits = step.outputs["forget"].logits[self.last]
        loss = parallel.global_mean(cross_entropy(logits, step.batch["forget"]["target"]))
        return loss, {"forget": loss}


def build(config: Any, points: Sequence[str]) -> BoundaryShrink:
    """Boundary shrink with the config's ε."""
    return BoundaryShrink(points[-1], chosen(config).epsilon)
