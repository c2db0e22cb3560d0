"""Proxy distillation: at every point the student is to say what a proxy oracle says.

    L = α · mean over points l of KL( softmax(g(x_f), forgotten classes masked) ‖ c_l(z_l(x_f)) )
        + CE(f(x_r), y_r)

g is the proxy: a network trained from scratch on D_r for a small share of the oracle's steps
(``proxy.share``). Where samples are forgotten its answer stands whole: it never saw them. c_l are
the auxiliary heads, at the last point the network's own; all points count alike.

Source: ours; the divergence is Hinton et al. 2015, arXiv 1503.02531.
Differs from the published code: there is none.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.losses.distillation import masked_kl
from ec_jax.methods import Context, Forward, Method, chosen

SETTINGS = {"alpha": (0.3, ">= 0", "weight of the divergence from the proxy")}
RECIPE = {"unlearn.optimizer.learning_rate": 0.03, "unlearn.batch_norm": "inference"}


@dataclasses.dataclass(frozen=True)
class ProxyDistill(Method):
    """Proxy distillation on a model whose last supervision point is ``last``."""

    last: str
    alpha: float
    uses_modules = True
    needs = ("proxy",)

    def prepare(self, context: Context) -> dict:
        """The proxy, and which classes are forgotten."""
        return {"proxy": context.models["proxy"], "forgotten": context.forgotten}

    def view(self, step, forward: Forward):
        """Adds the proxy's logits of the forget images."""
        part = step.batch["forget"]
        teacher = forward(step.extras["proxy"], part["image"]).logits[self.last]
        return {**step.batch, "forget": {**part, "teacher": teacher}}

    def loss(self, step):
        """The weighted sum; metrics for the cross-entropy and each point's divergence."""
        part, logits = step.batch["forget"], step.outputs["forget"].logits
        allowed = ~step.extras["forgotten"]
        metrics = {
            f"divergence/{point}": parallel.global_mean(
                masked_kl(part["teacher"], student, allowed)
            )
            for point, student in logits.items()
        }
        apart = sum(metrics.values()) / len(metrics)
        retain = parallel.global_mean(
            cross_entropy(step.outputs["retain"].logits[self.last], step.batch["retain"]["label"])
        )
        return self.alpha * apart + retain, {**metrics, "retain": retain}


def build(config: Any, points: Sequence[str]) -> ProxyDistill:
    """Proxy distillation with the config's weight."""
    return ProxyDistill(points[-1], chosen(config).alpha)
