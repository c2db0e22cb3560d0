"""One-point contraction (OPC): the logits of every forget image pressed to the origin.

    L = CE(D_r) + w · mean over D_f of ‖f(x)‖²

Serves as a control: features drawn into one point differ from the original's by any similarity
and tell little apart by their size, which a network without the class would not show.

Source: Jung et al. 2025, OPC, arXiv 2507.07754. Differs from the published code: written from the
paper's idea, that forget features contract by way of the logits' norm, not compared with code; the
squared norm, its weight w and the mean over the batch are our reading. The rate is the highest we
tried that left every model whole, and forgets little; higher ones forget and ruin some.
"""

import dataclasses

import jax.numpy as jnp

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.methods import Method, chosen

SETTINGS = {"weight": (1.0, ">= 0", "of the squared norm of the forget images' logits")}
RECIPE = {
    "unlearn.optimizer.learning_rate": 9e-05,
    "unlearn.min_spread": 1e-6,  # forget features that fall together are its aim, not a failure
}
SEARCH = [
    {"unlearn.optimizer.learning_rate": 9e-05},
    {"unlearn.optimizer.learning_rate": 0.0003},
    {"unlearn.optimizer.learning_rate": 0.0009},
    {"unlearn.optimizer.learning_rate": 0.003},
    {"unlearn.optimizer.learning_rate": 0.009},
    {"unlearn.optimizer.learning_rate": 0.03},
]


@dataclasses.dataclass(frozen=True)
class OPC(Method):
    """One-point contraction.

    Attributes:
      last: the model's last supervision point.
      weight: w.
    """

    last: str
    weight: float

    def loss(self, step):
        """Cross-entropy on D_r and the weighted square on D_f; metrics per stream."""
        kept = step.outputs["retain"].logits[self.last]
        gone = step.outputs["forget"].logits[self.last].astype(jnp.float32)
        retain = parallel.global_mean(cross_entropy(kept, step.batch["retain"]["label"]))
        square = parallel.global_mean(jnp.sum(jnp.square(gone), axis=-1))
        return retain + self.weight * square, {"retain": retain, "square": square}


def build(config, points):
    """One-point contraction as ``config.opc`` describes it."""
    return OPC(points[-1], chosen(config).weight)
