"""Guided EC: a proxy oracle shows the later stages where what is forgotten is to go.

    L = Σ_l w_l · [ CE(c_l(z_l(x_r)), y_r) + λ · L_CU(z_l(x_f), …)
                    + α · KL(softmax g(x_f) ‖ c_l(z_l(x_f))) + ρ · (1 − CKA(h_l(x_f), g_l(x_f))) ]

EC with fields of its own: the terms are explained in ``ec.py``. The contrast of EC drives features
away from the original's and has no end of its own; the two terms of the proxy g, a network trained
on D_r for a tenth of the oracle's steps, say what an oracle would make of an image and which images
it would find alike. Weights are ``late``: in the earlier half the features of any two networks
differ by their initial weights as much as by what they learned, and nothing is to be taught there.
BatchNorm trains and the learning rate is that of a training, so that what is forgotten is also
overwritten.

Source: ours, on top of Lee, Kim, Kim, arXiv 2602.05375.
Differs from the published code: there is none.
"""

from ec_jax.methods.ec import build as build  # the method is EC with these fields

RECIPE = {
    "ec.weights": "late",
    "ec.lambda": 1.0,
    "ec.proxy": 1.0,
    "ec.relation": 3.0,
    "unlearn.batch_norm": "train",
    "unlearn.optimizer.learning_rate": 0.3,
}
SEARCH = [
    {"unlearn.optimizer.learning_rate": 0.05, "ec.lambda": 0.1},
    {"unlearn.optimizer.learning_rate": 0.15, "ec.lambda": 0.1},
    {"unlearn.optimizer.learning_rate": 0.5, "ec.lambda": 0.1},
    {"unlearn.optimizer.learning_rate": 0.05, "ec.lambda": 1.0},
    {"unlearn.optimizer.learning_rate": 0.15, "ec.lambda": 1.0},
    {"unlearn.optimizer.learning_rate": 0.5, "ec.lambda": 1.0},
]
