"""Pseudo-labels: every forget image learned as what the original takes it for otherwise.

    L = CE(D_f, ŷ) + CE(D_r), ŷ = argmax of f0's logits without the forgotten classes

Where samples are forgotten, ŷ is the likeliest class beside the image's own.

Source: the code of Kim et al. 2025, arXiv 2503.06991. Differs from the published code: f0 labels
each image as it is augmented at this step, and the two terms are one sum. We know the rule from
a description of that code, so the details of its schedule are our reading.
"""

import dataclasses

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.methods import Method, taken_for

RECIPE = {"unlearn.optimizer.learning_rate": 0.01}


@dataclasses.dataclass(frozen=True)
class PseudoLabel(Method):
    """Pseudo-labels for a model whose last supervision point is ``last``."""

    last: str

    def prepare(self, context):
        """The original, and which classes are forgotten."""
        return {"original": context.original, "forgotten": context.forgotten}

    def view(self, step, forward):
        """The batch with ŷ, int32 [b], as the forget stream's ``pseudo``."""
        forget = step.batch["forget"]
        teacher = forward(step.extras["original"], forget["image"]).logits[self.last]
        pseudo = taken_for(teacher, step.extras["forgotten"], forget["label"])
        return {**step.batch, "forget": {**forget, "pseudo": pseudo}}

    def loss(self, step):
        """The sum of both cross-entropies; metrics per stream."""
        metrics = {}
        for stream, entry in (("retain", "label"), ("forget", "pseudo")):
            logits = step.outputs[stream].logits[self.last]
            metrics[stream] = parallel.global_mean(cross_entropy(logits, step.batch[stream][entry]))
        return metrics["retain"] + metrics["forget"], metrics


def build(config, points):
    """Pseudo-labels; the method has no settings of its own."""
    del config
    return PseudoLabel(points[-1])
