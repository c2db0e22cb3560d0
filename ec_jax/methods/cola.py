"""Collapse and align (CoLa): the retain classes drawn together, then learned again.

    collapse, while t/T < s: L = SupCon on D_r at the pooled feature, temperature τ
    align, then:             L = CE(D_r)

No forget image is read: features of the retain classes collapse into one point each, which
leaves no room for what else the features told.

Source: Jeon et al. 2024, arXiv 2405.17878. Differs from the published code: the two phases share
one optimizer with its momentum and its schedule, where the paper counts epochs of either; s is
ours. An anchor is compared with the retain batch alone, and each image is seen in one view.
"""

import dataclasses

import jax.numpy as jnp

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.losses.contrastive import supervised_contrastive_loss
from ec_jax.methods import Method, chosen

SETTINGS = {
    "collapse_share": (0.5, "[0, 1]", "s, share of the steps that collapse"),
    "temperature": (0.1, "> 0", "tau of the contrastive loss"),
}
RECIPE = {"unlearn.optimizer.learning_rate": 0.05, "unlearn.batch_norm": "train"}
SEARCH = [
    {"unlearn.optimizer.learning_rate": 0.05, "cola.collapse_share": 0.5},
    {"unlearn.optimizer.learning_rate": 0.15, "cola.collapse_share": 0.5},
    {"unlearn.optimizer.learning_rate": 0.5, "cola.collapse_share": 0.5},
    {"unlearn.optimizer.learning_rate": 0.05, "cola.collapse_share": 0.8},
    {"unlearn.optimizer.learning_rate": 0.15, "cola.collapse_share": 0.8},
    {"unlearn.optimizer.learning_rate": 0.5, "cola.collapse_share": 0.8},
]


@dataclasses.dataclass(frozen=True)
class CoLa(Method):
    """Collapse and align.

    Attributes:
      last: the model's last supervision point.
      collapse_share: s.
      temperature: τ.
    """

    last: str
    collapse_share: float
    temperature: float
    streams: tuple[str, ...] = ("retain",)

    def loss(self, step):
        """This phase's loss; metrics of both."""
        out, labels = step.outputs["retain"], step.batch["retain"]["label"]
        collapse = parallel.global_mean(
            *supervised_contrastive_loss(
                out.embeddings[self.last],
                labels,
                temperature=self.temperature,
                axis_name=parallel.AXIS,
            )
        )
        align = parallel.global_mean(cross_entropy(out.logits[self.last], labels))
        total = jnp.where(step.progress < self.collapse_share, collapse, align)
        return total, {"collapse": collapse, "align": align}


def build(config, points):
    """Collapse and align as ``config.cola`` describes it."""
    own = chosen(config)
    return CoLa(points[-1], own.collapse_share, own.temperature)
