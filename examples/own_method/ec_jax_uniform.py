"""Uniform prediction: the model is to know nothing of what is to be forgotten.

    L = CE(D_r) + w · mean over D_f of KL( uniform ‖ softmax f )

An example of a method that lives outside of ec_jax. Installed, it has a name and a group of
config fields like any other: --config.method=uniform --config.uniform.weight=0.5
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.methods import Method, chosen

# Plain literals: they are read before anything is imported.
SETTINGS = {"weight": (1.0, "> 0", "w, of the forget term")}
RECIPE = {"unlearn.optimizer.learning_rate": 0.005}


@dataclasses.dataclass(frozen=True)
class Uniform(Method):
    """The method on a model whose last supervision point is ``last``."""

    last: str
    weight: float

    def loss(self, step):
        """The two terms, as means over the batches of all devices."""
        logits = {name: out.logits[self.last] for name, out in step.outputs.items()}
        log_probs = jax.nn.log_softmax(logits["forget"].astype(jnp.float32))
        divergence = -jnp.mean(log_probs, axis=-1) - jnp.log(log_probs.shape[-1])
        forget = parallel.global_mean(divergence)
        retain = parallel.global_mean(
            cross_entropy(logits["retain"], step.batch["retain"]["label"])
        )
        return retain + self.weight * forget, {"retain": retain, "forget": forget}


def build(config: Any, points: Sequence[str]) -> Uniform:
    """The method with the config's settings."""
    return Uniform(points[-1], chosen(config).weight)
