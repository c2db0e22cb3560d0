"""Selective synaptic dampening (SSD): parameters that matter to D_f most of all are made smaller.

    F(S) = mean over S of (∇_θ CE(f(x), y))²
    θ ← min( λ F(D_r) / F(D_f), 1 ) · θ   where F(D_f) > α F(D_r)

No step is trained.

Source: Foster, Schoepf, Brintrup 2023, arXiv 2308.07707, equations of selection and dampening.
Differs from the published code: D_r takes the place of D = D_f ∪ D_r. F(D) holds F(D_f), which can
then at most be |D| / |D_f| times as large: with a tenth of the data forgotten the paper's α = 10
would select nothing. The squares are of each image's gradient, not of a batch's mean; the
importance may be estimated on the first ``images`` of each set, whose order is random.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ec_jax.losses.classification import cross_entropy
from ec_jax.methods import Context, Method, chosen

SETTINGS = {
    "alpha": (10.0, "> 0", "times that F(D_f) must exceed F(D_r)"),
    "lam": (1.0, "> 0", "lambda, the size of what is left"),
    "images": (2048, ">= 0", "images of each set whose gradients are taken; 0 = all"),
}
SEARCH = [
    {"ssd.alpha": 2.0},
    {"ssd.alpha": 5.0},
    {"ssd.alpha": 10.0},
    {"ssd.alpha": 25.0},
    {"ssd.alpha": 60.0},
    {"ssd.alpha": 150.0},
]
_CHUNK = 32  # gradients held at once


def dampened(params: Any, forget: Any, retain: Any, alpha: float, lam: float) -> Any:
    """The parameters with those that matter to D_f made smaller.

    Args:
      params: tree of arrays.
      forget: F(D_f), of the same form.
      retain: F(D_r), alike.
      alpha: α.
      lam: λ.
    """

    def one(value, of_forget, of_retain):
        picked = of_forget > alpha * of_retain
        left = lam * of_retain / jnp.where(picked, of_forget, 1.0)
        return jnp.where(picked, jnp.minimum(left, 1.0) * value, value)

    return jax.tree.map(one, params, forget, retain)


@dataclasses.dataclass(frozen=True)
class Ssd(Method):
    """SSD on a model whose last supervision point is ``last``."""

    last: str
    alpha: float
    lam: float
    images: int
    closed_form = True

    def spent(self, context, images):
        """Every image's gradient."""
        del context
        return {"gradient": images}

    def edit(self, context: Context) -> dict:
        """The original with its parameters dampened; BatchNorm's statistics stay."""
        original = context.original
        forget, retain = (self.importance(context, f"{n}_train") for n in ("forget", "retain"))
        params = dampened(original["params"], forget, retain, self.alpha, self.lam)
        return {**original, "params": params}

    def importance(self, context: Context, split: str) -> Any:
        """F of a split, a tree like the parameters."""
        params, rest = context.original["params"], dict(context.original)
        del rest["params"]

        def loss(params, rest, image, label):
            logits = context.forward({"params": params, **rest}, image[None]).logits[self.last]
            return cross_entropy(logits, label[None])[0]

        @jax.jit
        def squares(params, rest, images, labels):
            grads = jax.vmap(jax.grad(loss), (None, None, 0, 0))(params, rest, images, labels)
            return jax.tree.map(lambda g: jnp.sum(jnp.square(g), axis=0), grads)

        total, taken = jax.tree.map(jnp.zeros_like, params), 0
        for images, labels in context.batches(split, _CHUNK):
            room = self.images - taken if self.images else len(labels)
            images, labels = images[:room], jnp.asarray(labels)[:room]
            total = jax.tree.map(jnp.add, total, squares(params, rest, images, labels))
            taken += len(labels)
            if self.images and taken == self.images:
                break
        return jax.tree.map(lambda t: t / max(taken, 1), total)


def build(config: Any, points: Sequence[str]) -> Ssd:
    """SSD with the config's settings."""
    own = chosen(config)
    return Ssd(points[-1], own.alpha, own.lam, own.images)
