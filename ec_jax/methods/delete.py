"""DELETE: distillation from the original with the image's own label taken out.

    L = mean over D_f of KL( softmax(f0's logits with the own label masked) ‖ f )

What f0 knows of the other classes holds the model together, so no retain image is read. With
mask = forgotten all forgotten classes are masked and not the own alone; where samples are
forgotten the two are the same.

Source: Zhou et al. 2025, arXiv 2503.23751. Differs from the published code: that counts epochs
at a smaller learning rate; and mask = forgotten is an option of ours for several classes, of which
the paper's mask would let one be taken for another. BatchNorm keeps the original's statistics,
which the published code goes on taking.
"""

import dataclasses

import jax.numpy as jnp

from ec_jax import parallel
from ec_jax.losses.distillation import masked_kl
from ec_jax.methods import Method, chosen, others

SETTINGS = {"mask": ("own", "own | forgotten", "classes that the teacher's prediction leaves out")}
RECIPE = {"unlearn.optimizer.learning_rate": 0.01}


@dataclasses.dataclass(frozen=True)
class Delete(Method):
    """DELETE.

    Attributes:
      last: the model's last supervision point.
      mask: ``own`` or ``forgotten``.
    """

    last: str
    mask: str
    streams: tuple[str, ...] = ("forget",)

    def prepare(self, context):
        """The original, what is masked in the label's place, and what may be taught at all."""
        forgotten = context.forgotten
        masked = forgotten if self.mask == "forgotten" else jnp.zeros_like(forgotten)
        return {"original": context.original, "masked": masked, "left": context.left}

    def view(self, step, forward):
        """The batch with f0's logits, float32 [b, C], as the forget stream's ``teacher``."""
        forget = step.batch["forget"]
        teacher = forward(step.extras["original"], forget["image"]).logits[self.last]
        return {**step.batch, "forget": {**forget, "teacher": teacher}}

    def loss(self, step):
        """The mean divergence on the forget batch."""
        forget = step.batch["forget"]
        # What an earlier request forgot is nobody's to be handed to, whatever is masked.
        allowed = others(step.extras["masked"], forget["label"]) & step.extras["left"][None]
        logits = step.outputs["forget"].logits[self.last]
        value = parallel.global_mean(masked_kl(forget["teacher"], logits, allowed))
        return value, {"divergence": value}


def build(config, points):
    """DELETE as ``config.delete`` describes it."""
    return Delete(points[-1], chosen(config).mask)
