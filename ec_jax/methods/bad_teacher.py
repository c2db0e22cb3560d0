"""Bad teacher: on the forget set the student learns from a network that knows nothing.

    L = mean over D_r and D_f of KL_T( teacher ‖ f ), teacher = f0 on D_r, a random network on D_f

KL_T is T² times the divergence of the predictions at temperature T. The mean is over images, so
the sizes of the two batches weigh the two teachers. Classes that an earlier request forgot are
left out of what both teach.

Source: Chundawat et al. 2022, arXiv 2205.08096; T = 1 and Adam are theirs. Differs from the
published code: that goes once through D_f and a third of D_r, shuffled together, here every step
has the same share of both; and it leaves T² out, which at T = 1 is the same.
"""

import dataclasses

import jax

from ec_jax import parallel
from ec_jax.losses.distillation import kl_divergence
from ec_jax.methods import Method, chosen

SETTINGS = {"temperature": (1.0, "> 0", "T, at which predictions are compared")}
RECIPE = {
    "unlearn.optimizer.name": "adamw",
    "unlearn.optimizer.learning_rate": 0.0015,
    "unlearn.optimizer.weight_decay": 0.0,  # the paper's is Adam
}
_TEACHERS = {"retain": "original", "forget": "random"}


@dataclasses.dataclass(frozen=True)
class BadTeacher(Method):
    """Bad teacher.

    Attributes:
      last: the model's last supervision point.
      temperature: T.
    """

    last: str
    temperature: float

    def prepare(self, context):
        """The original, a network with fresh weights, and the classes that they may teach."""
        images, _ = next(iter(context.batches("forget_train", 1)))  # for the shape alone
        init = jax.jit(context.network.init, static_argnums=1)
        fresh = init(context.key, images.shape[1:])
        random = {collection: tree["backbone"] for collection, tree in fresh.items()}
        return {"original": context.original, "random": random, "left": context.left}

    def view(self, step, forward):
        """The batch with the teachers' logits, float32 [b, C], as ``teacher`` of both streams."""
        return {
            name: {
                **part,
                "teacher": forward(step.extras[_TEACHERS[name]], part["image"]).logits[self.last],
            }
            for name, part in step.batch.items()
        }

    def loss(self, step):
        """The mean divergence over both streams; metrics per stream."""
        metrics, sizes = {}, {}
        for name in _TEACHERS:
            logits = step.outputs[name].logits[self.last]
            teacher, left = step.batch[name]["teacher"], step.extras["left"]
            values = kl_divergence(teacher, logits, self.temperature, left)
            metrics[f"divergence/{name}"] = parallel.global_mean(values)
            sizes[name] = len(values)
        total = sum(metrics[f"divergence/{name}"] * size for name, size in sizes.items())
        return total / sum(sizes.values()), metrics


def build(config, points):
    """Bad teacher as ``config.bad_teacher`` describes it."""
    return BadTeacher(points[-1], chosen(config).temperature)
