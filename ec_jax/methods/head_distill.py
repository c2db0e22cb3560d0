"""Head distillation: the negative control, forgetting at the logits and nowhere else.

    L = mean over D_r and D_f of KL( softmax(f0's logits with the forgotten classes masked) ‖ f )

Only the head moves; the backbone, and with it every feature, stays the original's. The
accuracy on the forget set falls to zero and nothing is erased.

Source: Jeon et al. 2024, arXiv 2405.17878, whose head distillation shows the same.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ec_jax import parallel
from ec_jax.losses.distillation import masked_kl
from ec_jax.methods import Context


@dataclasses.dataclass(frozen=True)
class HeadDistill:
    """Head distillation on a model whose last supervision point is ``last``."""

    last: str
    uses_modules = False
    head_only = True

    def prepare(self, context: Context) -> dict:
        """The original's head, and the classes that its prediction may name."""
        head = context.original["params"]["head"]
        allowed = np.ones(head["bias"].shape, bool)
        allowed[list(context.forget_classes)] = False
        return {"head": head, "allowed": jnp.asarray(allowed)}

    def loss(self, outputs, batch, extras, key):
        """The mean divergence over both streams; metrics per stream."""
        del batch, key
        metrics, sizes = {}, {}
        for name, out in outputs.items():
            # The features are the original's, so its logits need no second pass.
            features = out.embeddings[self.last]
            teacher = features @ extras["head"]["kernel"] + extras["head"]["bias"][None]
            values = masked_kl(teacher, out.logits[self.last], extras["allowed"])
            metrics[f"divergence/{name}"] = parallel.global_mean(values)
            sizes[name] = len(values)
        total = sum(metrics[f"divergence/{name}"] * size for name, size in sizes.items())
        return total / sum(sizes.values()), metrics


def build(config: Any, points: Sequence[str]) -> HeadDistill:
    """Head distillation; it has no settings of its own."""
    del config
    return HeadDistill(points[-1])
