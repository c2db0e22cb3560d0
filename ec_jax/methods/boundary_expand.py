"""Boundary expand: the forget images get a class of their own, which is then taken away.

    L = CE( [f(x), v·z(x) + b], C ) over D_f + w · CE( [f(x), v·z(x) + b], y ) over D_r

z is the pooled feature; v and b are one more output of the head, the class C. They train with the
network and are dropped at the end: what they took from the other classes stays taken.

Source: Chen et al. 2023, Boundary Unlearning, arXiv 2303.11570.
Differs from the published code: the extra output stands beside the head, instead of in a widened
copy of it, which is the same function; its starting values and the steps are ours. Published is
w = 0, which reads no retain image; where several classes are given up at once that takes from all
others, and so the retain term is ours, and on by default.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.methods import Context, Method, chosen, used

SETTINGS = {
    "retain_weight": (1.0, ">= 0", "weight of the retain images' cross-entropy; 0 = as published"),
}
RECIPE = {"unlearn.optimizer.learning_rate": 0.03, "unlearn.batch_norm": "inference"}
SEARCH = [
    {"unlearn.optimizer.learning_rate": 0.0003, "boundary_expand.retain_weight": 0.0},
    {"unlearn.optimizer.learning_rate": 0.001, "boundary_expand.retain_weight": 0.0},
    {"unlearn.optimizer.learning_rate": 0.01, "boundary_expand.retain_weight": 0.0},
    {"unlearn.optimizer.learning_rate": 0.01, "boundary_expand.retain_weight": 1.0},
    {"unlearn.optimizer.learning_rate": 0.03, "boundary_expand.retain_weight": 1.0},
    {"unlearn.optimizer.learning_rate": 0.1, "boundary_expand.retain_weight": 1.0},
]


@dataclasses.dataclass(frozen=True)
class BoundaryExpand(Method):
    """Boundary expand.

    Attributes:
      last: the model's last supervision point.
      retain_weight: w.
      streams: without ``retain`` where w = 0.
    """

    last: str
    retain_weight: float
    streams: tuple[str, ...]

    def parameters(self, context: Context) -> dict:
        """One more output: weight [d, 1] and bias [1]."""
        width = context.network.backbone.widths[-1]
        weight = jax.random.normal(context.key, (width, 1)) / width**0.5
        return {"weight": weight, "bias": jnp.zeros(1)}

    def loss(self, step):
        """The cross-entropy over C + 1 outputs, the last of them the label on D_f."""
        logits = self._widened(step, "forget")
        labels = jnp.full(len(logits), logits.shape[1] - 1, jnp.int32)
        loss = parallel.global_mean(cross_entropy(logits, labels))
        metrics = {"forget": loss}
        if self.retain_weight:
            values = cross_entropy(self._widened(step, "retain"), step.batch["retain"]["label"])
            metrics["retain"] = parallel.global_mean(values)
            loss += self.retain_weight * metrics["retain"]
        return loss, metrics

    def _widened(self, step, stream: str) -> jax.Array:
        """A stream's C + 1 outputs."""
        out, own = step.outputs[stream], step.params["method"]
        highest = jax.lax.Precision.HIGHEST
        added = jnp.matmul(out.embeddings[self.last], own["weight"], precision=highest)
        return jnp.concatenate([out.logits[self.last], added + own["bias"][None]], axis=1)


def build(config: Any, points: Sequence[str]) -> BoundaryExpand:
    """Boundary expand as ``config.boundary_expand`` describes it."""
    weight = chosen(config).retain_weight
    return BoundaryExpand(points[-1], weight, used(weight))
