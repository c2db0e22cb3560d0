"""Selective synaptic dampening (SSD): parameters that matter to D_f most of all are made smaller.

    F(S) = mean over S of (∇_θ CE(f(x), y))²
    θ ← min( λ F(D) / F(D_f), 1 ) · θ   where F(D_f) > α F(D),   D = D_f ∪ D_r

No step is trained. Since D holds D_f, F(D_f) can at most be |D| / |D_f| times F(D): a larger α
selects nothing and is refused.

Source: Foster, Schoepf, Brintrup 2023, arXiv 2308.07707, equations of selection and dampening.
Differs from the published code: the squares are of each image's gradient, not of a batch's mean;
the importance may be estimated on the first ``images`` of each set. The default α is 5
and not the paper's 10, which with one of ten classes forgotten selects nothing.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ec_jax.errors import InputError
from ec_jax.losses.classification import cross_entropy
from ec_jax.methods import Context, Method, chosen

SETTINGS = {
    "alpha": (5.0, "> 0", "times that F(D_f) must exceed F(D)"),
    "lam": (1.0, "> 0", "lambda, the size of what is left"),
    "images": (2048, ">= 0", "images of each set whose gradients are taken; 0 = all"),
}
_CHUNK = 32  # gradients held at once


def dampened(params: Any, forget: Any, whole: Any, alpha: float, lam: float) -> Any:
    """The parameters with those that matter to D_f made smaller.

    Args:
      params: tree of arrays.
      forget: F(D_f), of the same form.
      whole: F(D), alike.
      alpha: α.
      lam: λ.
    """

    def one(value, of_forget, of_whole):
        picked = of_forget > alpha * of_whole
        left = lam * of_whole / jnp.where(picked, of_forget, 1.0)
        return jnp.where(picked, jnp.minimum(left, 1.0) * value, value)

    return jax.tree.map(one, params, forget, whole)


@dataclasses.dataclass(frozen=True)
class Ssd(Method):
    """SSD on a model whose last supervision point is ``last``."""

    last: str
    alpha: float
    lam: float
    images: int
    closed_form = True

    def edit(self, context: Context) -> dict:
        """The original with its parameters dampened; BatchNorm's statistics stay."""
        original = context.original
        forget, count = self.importance(context, "forget_train")
        retain, others = self.importance(context, "retain_train")
        share = count / (count + others)
        if self.alpha * share >= 1:
            remedy = f"selects nothing where D_f is {share:.3g} of D; use less than {1 / share:.3g}"
            raise InputError("ssd.alpha", self.alpha, remedy)
        whole = jax.tree.map(lambda f, r: share * f + (1 - share) * r, forget, retain)
        params = dampened(original["params"], forget, whole, self.alpha, self.lam)
        return {**original, "params": params}

    def importance(self, context: Context, split: str) -> tuple[Any, int]:
        """F of a split, a tree like the parameters, and how many images the split has."""
        params, rest = context.original["params"], dict(context.original)
        del rest["params"]

        def loss(params, rest, image, label):
            logits = context.forward({"params": params, **rest}, image[None]).logits[self.last]
            return cross_entropy(logits, label[None])[0]

        @jax.jit
        def squares(params, rest, images, labels):
            grads = jax.vmap(jax.grad(loss), (None, None, 0, 0))(params, rest, images, labels)
            return jax.tree.map(lambda g: jnp.sum(jnp.square(g), axis=0), grads)

        total, taken, count = jax.tree.map(jnp.zeros_like, params), 0, 0
        for images, labels in context.batches(split, _CHUNK):
            count += len(labels)
            room = self.images - taken if self.images else len(labels)
            if room > 0:  # past the limit images are counted only: D's mean needs their number
                images, labels = images[:room], jnp.asarray(labels)[:room]
                total = jax.tree.map(jnp.add, total, squares(params, rest, images, labels))
                taken += len(labels)
        return jax.tree.map(lambda t: t / max(taken, 1), total), count


def build(config: Any, points: Sequence[str]) -> Ssd:
    """SSD with the config's settings."""
    own = chosen(config)
    return Ssd(points[-1], own.alpha, own.lam, own.images)
