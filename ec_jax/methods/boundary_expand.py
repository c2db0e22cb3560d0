"""Boundary expand: the forget images get a class of their own, which is then taken away.

    L = CE( [f(x), w·z(x) + b], C ) over D_f

z is the pooled feature; w and b are one more output of the head, the class C. They train with the
network and are dropped at the end: what they took from the other classes stays taken.

Source: Chen et al. 2023, Boundary Unlearning, arXiv 2303.11570.
Differs from the published code: the extra output stands beside the head, instead of in a widened
copy of it, which is the same function; its starting values and the steps are ours.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.methods import Context, Method

RECIPE = {"unlearn.optimizer.learning_rate": 0.03, "unlearn.batch_norm": "inference"}


@dataclasses.dataclass(frozen=True)
class BoundaryExpand(Method):
    """Boundary expand on a model whose last supervision point is ``last``."""

    last: str
    streams = ("forget",)

    def parameters(self, context: Context) -> dict:
        """One more output: weight [d, 1] and bias [1]."""
        width = context.network.backbone.widths[-1]
        weight = jax.random.normal(context.key, (width, 1)) / width**0.5
        return {"weight": weight, "bias": jnp.zeros(1)}

    def loss(self, step):
        """The cross-entropy over C + 1 outputs with the last of them as the label."""
        out, own = step.outputs["forget"], step.params["method"]
        highest = jax.lax.Precision.HIGHEST
        added = jnp.matmul(out.embeddings[self.last], own["weight"], precision=highest)
        logits = jnp.concatenate([out.logits[self.last], added + own["bias"][None]], axis=1)
        labels = jnp.full(len(logits), logits.shape[1] - 1, jnp.int32)
        loss = parallel.global_mean(cross_entropy(logits, labels))
        return loss, {"forget": loss}


def build(config: Any, points: Sequence[str]) -> BoundaryExpand:
    """Boundary expand; it has no settings of its own."""
    del config
    return BoundaryExpand(points[-1])
