"""SCRUB: a student that leaves its teacher on the forget set and obeys it on the retain set.

    max steps: L = −KL_T( f0 ‖ f ) on D_f
    min steps: L = α · KL_T( f0 ‖ f ) + γ · CE on D_r

KL_T is T² times the divergence of the predictions at temperature T. While t/T_all < m, every
other step (0, 2, 4, …) is a max step; then all are min steps, which repair.

Source: Kurmanji et al. 2023, arXiv 2302.09880; α, γ and T are theirs. Differs from the published
code: the paper alternates whole epochs, one over D_f and then one over D_r, here single steps
alternate; as D_f is small, the paper spends a smaller part of its steps on going up. The rewinding
of SCRUB+R is not part of it. With EC on top every step runs both sets, as EC's terms want them.
"""

import dataclasses

import jax.numpy as jnp

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.losses.distillation import kl_divergence
from ec_jax.methods import Method, chosen

SETTINGS = {
    "alpha": (0.5, ">= 0", "weight of the divergence on retain images"),
    "gamma": (1.0, ">= 0", "weight of their cross-entropy"),
    "temperature": (2.0, "> 0", "T, at which predictions are compared"),
    "max_share": (0.3, "[0, 1]", "m, share of the steps in which every other one goes up"),
}
SEARCH = [
    {"unlearn.optimizer.learning_rate": 0.006, "scrub.max_share": 0.3},
    {"unlearn.optimizer.learning_rate": 0.02, "scrub.max_share": 0.3},
    {"unlearn.optimizer.learning_rate": 0.06, "scrub.max_share": 0.3},
    {"unlearn.optimizer.learning_rate": 0.006, "scrub.max_share": 0.6},
    {"unlearn.optimizer.learning_rate": 0.02, "scrub.max_share": 0.6},
    {"unlearn.optimizer.learning_rate": 0.06, "scrub.max_share": 0.6},
]
# Going up has no end: a small rate, and a share that leaves time for the repair.
RECIPE = {"unlearn.optimizer.learning_rate": 0.02}


@dataclasses.dataclass(frozen=True)
class Scrub(Method):
    """SCRUB.

    Attributes:
      last: the model's last supervision point.
      alpha: α.
      gamma: γ.
      temperature: T.
      max_share: m.
    """

    last: str
    alpha: float
    gamma: float
    temperature: float
    max_share: float

    def prepare(self, context):
        """The teacher: the original."""
        return {"original": context.original}

    def reads(self, count, steps):
        """The forget set alone by a max step, the retain set alone by a min step."""
        return ("forget",) if self._rising(count / steps, count) else ("retain",)

    def _rising(self, progress, count):
        return (progress < self.max_share) & (count % 2 == 0)

    def view(self, step, forward):
        """The batch with f0's logits, float32 [b, C], as ``teacher`` of what it holds."""
        original = step.extras["original"]
        return {
            name: {**part, "teacher": forward(original, part["image"]).logits[self.last]}
            for name, part in step.batch.items()
        }

    def loss(self, step):
        """This step's loss; metrics of the streams that it reads."""
        metrics = {f"divergence/{name}": self._divergence(step, name) for name in step.batch}
        if "retain" not in step.batch:
            return -metrics["divergence/forget"], metrics
        logits = step.outputs["retain"].logits[self.last]
        retain = parallel.global_mean(cross_entropy(logits, step.batch["retain"]["label"]))
        total = self.alpha * metrics["divergence/retain"] + self.gamma * retain
        if "forget" in step.batch:  # both, where EC is added
            rising = self._rising(step.progress, step.count)
            total = jnp.where(rising, -metrics["divergence/forget"], total)
        return total, {**metrics, "retain": retain}

    def _divergence(self, step, stream):
        logits = step.outputs[stream].logits[self.last]
        teacher = step.batch[stream]["teacher"]
        return parallel.global_mean(kl_divergence(teacher, logits, self.temperature))


def build(config, points):
    """SCRUB as ``config.scrub`` describes it."""
    own = chosen(config)
    return Scrub(points[-1], own.alpha, own.gamma, own.temperature, own.max_share)
