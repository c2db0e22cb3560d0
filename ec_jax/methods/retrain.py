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

from ec_jax.methods import chosen, finetune

SETTINGS = {"share": (1.0, "(0, 1]", "of the oracle's updates")}


@dataclasses.dataclass(frozen=True)
class Retrain(finetune.Finetune):
    """Training from scratch: fine-tuning's loss on a fresh network.

    Attributes:
      fresh: s.
    """

    fresh: float = 1.0


def build(config, points):
    """Retraining as ``config.retrain`` describes it."""
    return Retrain(points[-1], fresh=chosen(config).share)
