"""Head distillation: the negative control, forgetting at the logits and nowhere else.

    L = mean over D_r and D_f of KL( softmax(f0's logits with the forgotten classes masked) ‖ f )

Only the head moves; the backbone, and with it every feature, stays the original's. The
accuracy on the forget set falls to zero and nothing is erased. Where samples are forgotten, the
teacher's prediction of a forget image leaves its own label out and that of a retain image nothing.

Source: Jeon et al. 2024, arXiv 2405.17878, whose head distillation shows the same.
Differs from the published code: not compared with it; the mask of all forgotten classes, and that
both sets are distilled, are our reading.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ec_jax import parallel
from ec_jax.losses.distillation import masked_kl
from ec_jax.methods import Context, Method, others


@dataclasses.dataclass(frozen=True)
class HeadDistill(Method):
    """Head distillation on a model whose last supervision point is ``last``."""

    last: str
    head_only = True

    def prepare(self, context: Context) -> dict:
        """The original's head, and which classes are forgotten."""
        return {"head": context.original["params"]["head"], "forgotten": context.forgotten}

    def loss(self, step):
        """The mean divergence over both streams; metrics per stream."""
        metrics, sizes = {}, {}
        head, forgotten = step.extras["head"], step.extras["forgotten"]
        for name, out in step.outputs.items():
            # The features are the original's, so its logits need no second pass.
            teacher = out.embeddings[self.last] @ head["kernel"] + head["bias"][None]
            kept = others(forgotten, step.batch[name]["label"])
            allowed = kept if name == "forget" else ~forgotten
            values = masked_kl(teacher, out.logits[self.last], allowed)
            metrics[f"divergence/{name}"] = parallel.global_mean(values)
            sizes[name] = len(values)
        total = sum(metrics[f"divergence/{name}"] * size for name, size in sizes.items())
        return total / sum(sizes.values()), metrics


def build(config: Any, points: Sequence[str]) -> HeadDistill:
    """Head distillation; it has no settings of its own."""
    del config
    return HeadDistill(points[-1])
