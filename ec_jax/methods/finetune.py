"""Fine-tuning: going on with the retain set alone, and trusting the network to forget the rest.

    L = CE(D_r)

Source: a baseline of nearly every paper, with no author of its own; e.g. Golatkar et al. 2020,
arXiv 1911.04933. Differs from the published code: that counts epochs over the retain set, of
which the steps here are usually only a part; how much is forgotten depends on their number.
"""

import dataclasses

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.methods import Method

# Published code trains in BatchNorm's training mode; the retain set is all that it then sees. With
# EC on top the forget batch is in its statistics, too.
RECIPE = {"unlearn.optimizer.learning_rate": 0.03, "unlearn.batch_norm": "train"}


@dataclasses.dataclass(frozen=True)
class Finetune(Method):
    """Fine-tuning of a model whose last supervision point is ``last``."""

    last: str
    streams: tuple[str, ...] = ("retain",)

    def loss(self, step):
        """The mean cross-entropy on the retain batch."""
        logits = step.outputs["retain"].logits[self.last]
        value = parallel.global_mean(cross_entropy(logits, step.batch["retain"]["label"]))
        return value, {"retain": value}


def build(config, points):
    """Fine-tuning; it has no settings of its own."""
    del config
    return Finetune(points[-1])
