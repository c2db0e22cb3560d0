"""L1-sparse unlearning: fine-tuning that presses the weights towards zero.

    L = CE(D_r) + α · (1 − t/T) · ‖θ‖₁

What the retain set does not hold up is pruned, and with it what the forget set had left; the
pressure falls linearly to nothing, so that the last steps repair. θ is all of the backbone's
parameters, normalisation and biases included.

Source: Jia et al. 2023, arXiv 2304.04934; α = 5e-4 is theirs. Differs from the published code:
the pressure falls with every step and not with every epoch, and there are no further epochs
without it at the end.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.methods import Method, chosen

SETTINGS = {"alpha": (5e-4, ">= 0", "weight of the L1 norm at the first step")}
RECIPE = {"unlearn.optimizer.learning_rate": 0.1, "unlearn.batch_norm": "train"}
SEARCH = [
    {"unlearn.optimizer.learning_rate": 0.1, "l1_sparse.alpha": 0.0005},
    {"unlearn.optimizer.learning_rate": 0.1, "l1_sparse.alpha": 0.005},
    {"unlearn.optimizer.learning_rate": 0.1, "l1_sparse.alpha": 0.02},
    {"unlearn.optimizer.learning_rate": 0.3, "l1_sparse.alpha": 0.0005},
    {"unlearn.optimizer.learning_rate": 0.3, "l1_sparse.alpha": 0.005},
    {"unlearn.optimizer.learning_rate": 0.3, "l1_sparse.alpha": 0.02},
]


@dataclasses.dataclass(frozen=True)
class L1Sparse(Method):
    """L1-sparse unlearning.

    Attributes:
      last: the model's last supervision point.
      alpha: α.
    """

    last: str
    alpha: float
    streams: tuple[str, ...] = ("retain",)

    def loss(self, step):
        """Cross-entropy on D_r and the weighted norm of the backbone."""
        logits = step.outputs["retain"].logits[self.last]
        retain = parallel.global_mean(cross_entropy(logits, step.batch["retain"]["label"]))
        norm = sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(step.params["backbone"]))
        pressure = self.alpha * (1.0 - step.progress)
        return retain + pressure * norm, {"retain": retain, "l1": norm}


def build(config, points):
    """L1-sparse unlearning as ``config.l1_sparse`` describes it."""
    return L1Sparse(points[-1], chosen(config).alpha)
