"""Random labels: the forget set learned again with labels that mean nothing.

    L = CE(D_f, ỹ) + w · CE(D_r), ỹ uniform over all classes, drawn anew at every step

The best answer to such labels is the uniform prediction. w = 0 reads no retain image. Classes that
an earlier request forgot are nobody's label: they should not come back.

Source: Golatkar et al. 2020, arXiv 1911.04933, as a baseline. Differs from the published code:
there an image keeps the random label it got at the start, or gets a new one every epoch, and
other code excludes its true label; here it may get that, too, and never has the time to learn any
by heart. One sum is minimised where published code goes through D_f first and then through D_r.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.methods import Method, chosen, used
from ec_jax.rng import fold

SETTINGS = {"retain_weight": (1.0, ">= 0", "weight of the retain images' cross-entropy")}
RECIPE = {"unlearn.optimizer.learning_rate": 0.01}


def random_labels(key: jax.Array, count: int, classes: jax.Array) -> jax.Array:
    """A uniform label for each of this device's images, by its place in the whole batch.

    Runs under the axis ``parallel.AXIS``: an image gets the same label on any number of devices.

    Args:
      key: the same on all devices.
      count: images of this device.
      classes: int32 [K], the labels to draw from.

    Returns:
      int32 [count].
    """
    places = jax.lax.axis_index(parallel.AXIS) * count + jnp.arange(count)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(fold(key, "random_label"), places)
    most = len(classes)
    return classes[jax.vmap(lambda k: jax.random.randint(k, (), 0, most, jnp.int32))(keys)]


@dataclasses.dataclass(frozen=True)
class RandomLabel(Method):
    """Random labels.

    Attributes:
      last: the model's last supervision point.
      retain_weight: w.
      streams: without ``retain`` where w = 0.
    """

    last: str
    retain_weight: float
    streams: tuple[str, ...]

    def prepare(self, context):
        """{"classes": int32 [K], from which labels are drawn}."""
        return {"classes": jnp.flatnonzero(context.left).astype(jnp.int32)}

    def loss(self, step):
        """Cross-entropy on D_f with labels of this step's own, and the weighted one on D_r."""
        logits = step.outputs["forget"].logits[self.last]
        labels = random_labels(step.key, len(logits), step.extras["classes"])
        metrics = {"forget": parallel.global_mean(cross_entropy(logits, labels))}
        total = metrics["forget"]
        if self.retain_weight:
            logits, labels = step.outputs["retain"].logits[self.last], step.batch["retain"]["label"]
            metrics["retain"] = parallel.global_mean(cross_entropy(logits, labels))
            total += self.retain_weight * metrics["retain"]
        return total, metrics


def build(config, points):
    """Random labels as ``config.random_label`` describes them."""
    weight = chosen(config).retain_weight
    return RandomLabel(points[-1], weight, used(weight))
