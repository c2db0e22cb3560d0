"""The loss of the original, the oracle and the modules: cross-entropy at some points."""

from collections.abc import Sequence

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.training.update import Loss

STREAM = "train"


def make_loss(points: Sequence[str]) -> Loss:
    """Mean over ``points`` of the cross-entropy on the stream ``train``."""

    def loss(step):
        labels, logits = step.batch[STREAM]["label"], step.outputs[STREAM].logits
        values = {p: parallel.global_mean(cross_entropy(logits[p], labels)) for p in points}
        accuracy = parallel.global_mean((logits[points[-1]].argmax(-1) == labels).astype("float32"))
        metrics = {f"cross_entropy/{p}": v for p, v in values.items()}
        return sum(values.values()) / len(points), {**metrics, "accuracy": accuracy}

    return loss
