"""Retraining: a fresh network on the retain set, by the original's recipe.

    L = CE(D_r), from random weights, for a share s of the oracle's updates

With s = 1 it is the oracle drawn a second time, from other initial weights and in another order
of the images: what it differs by is the chance that no method can be blamed for. With a smaller
s it is training from scratch at the compute that a method spent: the row to beat.

Source: the exact solution that all approximate methods are measured against. Differs from the
published code: there retraining is the reference alone; a share of it as a competitor is ours.
The learning rate's schedule is shortened with the steps, so that it still ends where it should.
"""

import dataclasses

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.methods import Method

SETTINGS = {"share": (1.0, "(0, 1]", "of the oracle's updates")}


@dataclasses.dataclass(frozen=True)
class Retrain(Method):
    """Training from scratch.

    Attributes:
      last: the model's last supervision point.
      fresh: s.
    """

    last: str
    fresh: float = 1.0
    streams: tuple[str, ...] = ("retain",)

    def loss(self, step):
        """The mean cross-entropy on the retain batch."""
        logits = step.outputs["retain"].logits[self.last]
        value = parallel.global_mean(cross_entropy(logits, step.batch["retain"]["label"]))
        return value, {"retain": value}


def build(config, points):
    """Retraining as ``config.retrain`` describes it."""
    return Retrain(points[-1], config.retrain.share)
