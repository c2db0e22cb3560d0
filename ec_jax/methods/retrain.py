"""Retraining: a fresh network on the retain set, by the original's recipe.

    L = CE(D_r), from random weights, for a share s of the oracle's updates

With s = 1 it is the oracle drawn a second time, from other initial weights and in another order
of the images: what it differs by is the chance that no method can be blamed for. With a smaller
s it is training from scratch at the compute that a method spent: the row to beat. With s = 0 no
update is made: the untrained network, which has forgotten everything. ``images``, as many as a
method reads, are trained on beside the share, to the nearest batch.

``draw`` is the number of the draw: each has initial weights, an order of the images and
augmentations of its own, independent of the others'. With ``initial`` = original the weights are
those that the original's training with this seed started from, in every draw: what then differs
from the original is owed to the data, the order of the images and the steps alone. Where an
original was brought along that was trained from another seed, they are not the ones that it
started from.

Source: the exact solution that all approximate methods are measured against. Differs from the
published code: there retraining is the reference alone; as a competitor and as a control of the
measurement it is ours. The learning rate's schedule is shortened with the steps, so that it still
ends where it should.
"""

import dataclasses

from ec_jax.methods import chosen, finetune

SETTINGS = {
    "share": (1.0, "[0, 1]", "of the oracle's updates; 0 = the untrained network"),
    "images": (0, ">= 0", "that it reads beside the share"),
    "initial": ("own", "own | original", "whose initial weights: its own, or the original's"),
    "draw": (0, ">= 0", "which draw of initial weights and of the order of the images"),
}


@dataclasses.dataclass(frozen=True)
class Retrain(finetune.Finetune):
    """Training from scratch: fine-tuning's loss on a fresh network.

    Attributes:
      fresh: s.
      images: as ``Method.images``.
      initial: as ``Method.initial``.
      draw: as ``Method.draw``.
    """

    fresh: float = 1.0
    images: int = 0
    initial: str = ""
    draw: int = 0


def build(config, points):
    """Retraining as ``config.retrain`` describes it."""
    own = chosen(config)
    initial = "" if own.initial == "own" else own.initial
    return Retrain(points[-1], fresh=own.share, images=own.images, initial=initial, draw=own.draw)
