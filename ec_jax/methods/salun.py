"""Saliency unlearning (SalUn): random labels, and only the weights that matter may move.

    L = CE(D_f, ỹ) + α · CE(D_r), ỹ uniform over all classes, drawn anew at every step
    θ_i moves only where |∂/∂θ_i of −CE(D_f)| at θ0 is among the largest share s of all weights

The rank is taken over all weights of the backbone together, the gradient in inference mode over
the whole forget set. Weights that may not move keep their value to the bit.

Source: Fan et al. 2023, arXiv 2310.12508; s = 0.5 is theirs. Differs from the published code:
the paper's ỹ is another label than the image's own, its code's is uniform over all classes, as
here. The code hides gradients from the optimizer where updates are dropped here, which
comes to the same but for clipping: the gradient's norm counts hidden weights, too.
BatchNorm keeps the original's statistics; the code goes on taking them, unmasked.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ec_jax.losses.classification import cross_entropy
from ec_jax.methods import chosen, random_label, used

SETTINGS = {
    "share": (0.5, "(0, 1]", "of the backbone's weights, the most salient, that may move"),
    "retain_weight": (1.0, ">= 0", "alpha, weight of the retain images' cross-entropy"),
}
RECIPE = {"unlearn.optimizer.learning_rate": 0.013}
_BATCH = 256  # images a pass of the saliency; without effect on it but for rounding


@dataclasses.dataclass(frozen=True)
class SalUn(random_label.RandomLabel):
    """Saliency unlearning; ``retain_weight`` is α.

    Attributes:
      share: s.
    """

    share: float = 0.5

    def spent(self, context, images):
        """Every image's gradient."""
        del context
        return {"gradient": images}

    def prepare(self, context):
        """As random labels, and "mask": which of the backbone's weights may move, bool arrays."""
        stats = context.original["batch_stats"]

        @jax.jit
        def add(total, params, images, labels):
            def ascent(params):
                out = context.forward({"params": params, "batch_stats": stats}, images)
                return -cross_entropy(out.logits[self.last], labels).sum()

            return jax.tree.map(jnp.add, total, jax.grad(ascent)(params))

        params = context.original["params"]
        total = jax.tree.map(jnp.zeros_like, params)
        for images, labels in context.batches("forget_train", _BATCH):
            total = add(total, params, images, labels)
        mask = most_salient(jax.device_get(total), self.share)
        return {**super().prepare(context), "mask": mask}

    def limit(self, updates, extras):
        """No update of the backbone's weights outside the mask."""
        kept = jax.tree.map(
            lambda update, mask: jnp.where(mask, update, 0.0), updates["backbone"], extras["mask"]
        )
        return {**updates, "backbone": kept}


def most_salient(saliency, share: float):
    """Where the magnitude is among the largest ``share`` of all entries of a tree.

    Args:
      saliency: a tree of float32 arrays on the host.
      share: in (0, 1].

    Returns:
      A tree of bool arrays of the same shapes; exactly ⌊share · all⌋ entries are true, at least
      one. Among equal magnitudes the earlier entry of the tree is taken.

    >>> most_salient({"a": np.float32([3, -1]), "b": np.float32([[-5], [2]])}, 0.5)
    {'a': array([ True, False]), 'b': array([[ True], [False]])}
    """
    leaves, tree = jax.tree.flatten(saliency)
    flat = np.abs(np.concatenate([np.ravel(leaf) for leaf in leaves]))
    chosen = np.zeros(flat.size, bool)
    # By rank, not by a threshold: of weights that get no gradient at all any number may be equal.
    chosen[np.argsort(-flat, kind="stable")[: max(int(share * flat.size), 1)]] = True
    parts = np.split(chosen, np.cumsum([leaf.size for leaf in leaves])[:-1])
    shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(tree, shaped)


def build(config, points):
    """Saliency unlearning as ``config.salun`` describes it."""
    own = chosen(config)
    streams = used(own.retain_weight)
    return SalUn(points[-1], own.retain_weight, streams, own.share)
