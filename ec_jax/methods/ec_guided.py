"""Guided EC: EC on the way, and at every point a proxy oracle that shows what to become.

    L = CE(f(x_r), y_r) + α · mean over points l of KL( softmax g(x_f) ‖ c_l(z_l(x_f)) )
        + β · Σ_{l<L} w_l · [ CE(c_l(z_l(x_r)), y_r) + λ · L_CU(z_l(x_f), …) ]

It is proxy distillation with EC as a plug-in, under one name and with a recipe of its own. The
proxy g, a network trained on D_r for a tenth of the oracle's steps, says what an oracle would take
a forget image for; the contrast takes the image out of its class at every point l but the last, L.
There the answers are the proxy's alone: a contrast at the last point drives the features past the
oracle's. The learning rate is that of a training, so that retain batches overwrite what the network
held; the answers make sure that the class is among it.

Source: ours, on top of Lee, Kim, Kim, arXiv 2602.05375.
Differs from the published code: there is none.
"""

from collections.abc import Sequence
from typing import Any

from ec_jax.methods import _plugin, chosen
from ec_jax.methods.proxy_distill import ProxyDistill

SETTINGS = {"alpha": (0.3, ">= 0", "weight of the divergence from the proxy")}
RECIPE = {
    "unlearn.batch_norm": "inference",
    "unlearn.optimizer.learning_rate": 0.3,
}
SEARCH = [
    {"unlearn.optimizer.learning_rate": 0.05, "ec.lambda": 1.0},
    {"unlearn.optimizer.learning_rate": 0.15, "ec.lambda": 1.0},
    {"unlearn.optimizer.learning_rate": 0.5, "ec.lambda": 1.0},
    {"unlearn.optimizer.learning_rate": 0.05, "ec.lambda": 3.0},
    {"unlearn.optimizer.learning_rate": 0.15, "ec.lambda": 3.0},
    {"unlearn.optimizer.learning_rate": 0.5, "ec.lambda": 3.0},
]


def build(config: Any, points: Sequence[str]) -> _plugin.Plugged:
    """The method with the config's weights, for a model with these supervision points."""
    host = ProxyDistill(points[-1], chosen(config).alpha)
    return _plugin.plugged(host, config, points)
