"""Gradient ascent: the training of the forget set undone by going uphill.

    L = −mean over D_f of min( CE, ceiling ) + w · CE(D_r)

w = 0 is plain ascent, which reads no retain image and soon ruins the model. Cross-entropy has no
upper bound, so an ascent never ends by itself: an image whose cross-entropy has reached the
ceiling pushes no further. ceiling = 0 takes the bound away.

Source: Thudi et al. 2022, arXiv 2109.13398, who go uphill for a few steps. Differs from the
published code: the ceiling is ours, and so is the retain term as a default; plain ascent as
published is retain_weight = 0, ceiling = 0. On the digits a run by the recipe below ends at the
ceiling, so it shapes the result.
"""

import dataclasses

import jax.numpy as jnp

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.methods import Method, chosen, used

SETTINGS = {
    "retain_weight": (1.0, ">= 0", "weight of the retain images' cross-entropy; 0 = plain ascent"),
    "ceiling": (10.0, ">= 0", "cross-entropy in nats up to which an image is pushed; 0 = no end"),
}
RECIPE = {"unlearn.optimizer.learning_rate": 0.03}


@dataclasses.dataclass(frozen=True)
class GradientAscent(Method):
    """Gradient ascent.

    Attributes:
      last: the model's last supervision point.
      retain_weight: w.
      ceiling: in nats; 0 is none.
      streams: without ``retain`` where w = 0.
    """

    last: str
    retain_weight: float
    ceiling: float
    streams: tuple[str, ...]

    def loss(self, step):
        """Minus the bounded cross-entropy on D_f, and the weighted one on D_r."""
        values = self._cross_entropy(step, "forget")
        # The metric is unbounded: it tells how far the ceiling was passed.
        metrics = {"forget": parallel.global_mean(values)}
        bounded = jnp.minimum(values, self.ceiling) if self.ceiling else values
        total = -parallel.global_mean(bounded)
        if self.retain_weight:
            metrics["retain"] = parallel.global_mean(self._cross_entropy(step, "retain"))
            total += self.retain_weight * metrics["retain"]
        return total, metrics

    def _cross_entropy(self, step, stream):
        return cross_entropy(step.outputs[stream].logits[self.last], step.batch[stream]["label"])


def build(config, points):
    """Gradient ascent as ``config.gradient_ascent`` describes it."""
    own = chosen(config)
    return GradientAscent(points[-1], own.retain_weight, own.ceiling, used(own.retain_weight))
