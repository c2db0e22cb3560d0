"""POUR-D: forget features are distilled to the original's, less the forgotten directions.

    L = ‖z(x_f) − P f0(x_f)‖² + λ · ‖z(x_r) − f0(x_r)‖²,   P = I − Q Qᵀ

z is the pooled feature and f0 the original's. The columns of Q are an orthonormal basis of the
forgotten classes' directions: their columns of the head's kernel, less the mean over all classes.
Where samples are forgotten, each is projected off the direction of its own class.

Source: POUR, arXiv 2511.19339: the projection and the distillation to it.
Differs from the published code: written from the paper's idea, not compared with code; centring
the head's columns is our reading. The term on D_r is ours and off by default.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ec_jax import parallel
from ec_jax.methods import Context, Forward, Method, chosen, used

SETTINGS = {"retain_weight": (0.0, ">= 0", "lambda, the weight of staying put on the retain batch")}
RECIPE = {"unlearn.optimizer.learning_rate": 0.03, "unlearn.batch_norm": "inference"}
_RANK = 1e-6  # singular values below this share of the largest span nothing


def bases(kernel: np.ndarray, forgotten: np.ndarray) -> np.ndarray:
    """Orthonormal bases Q of the directions to project out.

    Args:
      kernel: [d, C], the head's.
      forgotten: bool [C].

    Returns:
      float32 [1, d, k], one basis for all images; or, where nothing is marked, [C, d, 1], one
      for each class. Directions that do not exist are zero columns.
    """
    kernel = np.asarray(kernel, np.float64)
    centred = kernel - kernel.mean(axis=1, keepdims=True)
    forgotten = np.asarray(forgotten)
    groups = centred[:, forgotten][None] if forgotten.any() else centred.T[:, :, None]
    left, singular, _ = np.linalg.svd(groups, full_matrices=False)
    kept = singular > _RANK * max(singular.max(), np.finfo(np.float64).tiny)
    return (left * kept[:, None]).astype(np.float32)


def projected(features: jax.Array, basis: jax.Array) -> jax.Array:
    """Features [n, d] less their part in the span of each one's basis [n, d, k]."""
    highest = jax.lax.Precision.HIGHEST
    inside = jnp.einsum("nd,ndk->nk", features, basis, precision=highest)
    return features - jnp.einsum("nk,ndk->nd", inside, basis, precision=highest)


@dataclasses.dataclass(frozen=True)
class PourD(Method):
    """POUR-D on a model whose last supervision point is ``last``."""

    last: str
    retain_weight: float

    @property
    def streams(self) -> tuple[str, ...]:
        """The retain set is read only where its term counts."""
        return used(self.retain_weight)

    def prepare(self, context: Context) -> dict:
        """The original and the bases."""
        kernel = context.original["params"]["head"]["kernel"]
        marked = context.forgotten & bool(context.forget_classes)  # of samples: none, own classes
        return {"original": context.original, "bases": jnp.asarray(bases(kernel, marked))}

    def view(self, step, forward: Forward):
        """Adds the feature that each image is to have."""
        batch = dict(step.batch)
        for name in self.streams:
            part = batch[name]
            target = forward(step.extras["original"], part["image"]).embeddings[self.last]
            if name == "forget":
                of_all = step.extras["bases"]
                rows = part["label"] if len(of_all) > 1 else jnp.zeros_like(part["label"])
                target = projected(target, of_all[rows])
            batch[name] = {**part, "target": target}
        return batch

    def loss(self, step):
        """The weighted sum of squared distances; metrics per stream."""
        metrics = {}
        for name in self.streams:
            off = step.outputs[name].embeddings[self.last] - step.batch[name]["target"]
            metrics[name] = parallel.global_mean(jnp.sum(jnp.square(off), axis=1))
        return metrics["forget"] + self.retain_weight * metrics.get("retain", 0.0), metrics


def build(config: Any, points: Sequence[str]) -> PourD:
    """POUR-D with the config's settings."""
    return PourD(points[-1], chosen(config).retain_weight)
