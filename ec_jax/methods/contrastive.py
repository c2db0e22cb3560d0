"""Contrastive unlearning (CU): forget features leave their class for the others.

    L = CE(f(x_r), y_r) + λ · L_CU(z(x_f), …)

z is the pooled feature. L_CU pulls every forget image towards candidates of other classes and
away from those of its own; the candidates are the batch's ``retain`` images, its ``forget``
images, or ``both``. Where whole classes are forgotten, no retain image is of an anchor's class:
with ``retain`` nothing pushes, and the loss only evens out the anchor's similarities to the others.

Source: Lee et al. 2024, Contrastive Unlearning, arXiv 2401.10458: the loss, τ and λ.
Differs from the published code: one retain batch goes with one forget batch, not four, and the
two losses are one sum. The paper states positives and negatives apart; here the denominator
holds all candidates, as in SupCon, and never the anchor itself, which the variant ``forget`` keeps
there, at a temperature of 1. That λ weighs the forgetting is our reading. ``both`` is ours: what EC
does, at one point; a search may choose it. It does not try ``forget``, which is zero for one class.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ec_jax import parallel, rules
from ec_jax.losses.classification import cross_entropy
from ec_jax.losses.contrastive import contrastive_forgetting_loss
from ec_jax.methods import Method, chosen

SETTINGS = {
    "candidates": ("retain", "retain | forget | both", "which images of the batch pull and push"),
    "temperature": (0.7, "> 0", "tau of the contrastive loss"),
    "weight": (3.0, ">= 0", "lambda, the weight of the contrastive loss"),
}
RECIPE = {"unlearn.optimizer.learning_rate": 0.02, "unlearn.batch_norm": "inference"}
SEARCH = [
    {"unlearn.optimizer.learning_rate": 0.03, "contrastive.candidates": "retain"},
    {"unlearn.optimizer.learning_rate": 0.1, "contrastive.candidates": "retain"},
    {"unlearn.optimizer.learning_rate": 0.3, "contrastive.candidates": "retain"},
    {"unlearn.optimizer.learning_rate": 0.03, "contrastive.candidates": "both"},
    {"unlearn.optimizer.learning_rate": 0.1, "contrastive.candidates": "both"},
    {"unlearn.optimizer.learning_rate": 0.3, "contrastive.candidates": "both"},
]


@dataclasses.dataclass(frozen=True)
class Contrastive(Method):
    """Contrastive unlearning at ``last``, the last supervision point."""

    last: str
    candidates: str
    temperature: float
    weight: float

    def check(self, labels):
        """Refuses candidates of which none could ever be of another class."""
        field = "contrastive.candidates"
        rules.check_candidates(field, self.candidates, labels, "retain or both")

    def loss(self, step):
        """The sum of both losses; metrics for each."""
        outputs, batch = step.outputs, step.batch
        retain = parallel.global_mean(
            cross_entropy(outputs["retain"].logits[self.last], batch["retain"]["label"])
        )
        forget = parallel.global_mean(
            *contrastive_forgetting_loss(
                outputs["forget"].embeddings[self.last],
                batch["forget"]["label"],
                outputs["retain"].embeddings[self.last],
                batch["retain"]["label"],
                temperature=self.temperature,
                candidates=self.candidates,
                axis_name=parallel.AXIS,
            )
        )
        return retain + self.weight * forget, {"retain": retain, "forget": forget}


def build(config: Any, points: Sequence[str]) -> Contrastive:
    """Contrastive unlearning with the config's settings."""
    own = chosen(config)
    return Contrastive(points[-1], own.candidates, own.temperature, own.weight)
