"""UNSIR: noise that the original finds hardest to call the forgotten class is learned as it.

    N_k = argmin over images N of  −CE( f0(N), k ) + w ‖N‖²
    L = CE(f(x_r), y_r) + [t < s] · CE( f(N_k), k )

Impair: for the share s of the steps the noise is trained on under the forgotten classes' labels,
which breaks them. Repair: then the retain set alone. D_f is never read. Where samples are
forgotten there is noise for every class that is left: all are impaired, and D_r repairs them.

Source: Tarun et al. 2021, Fast yet Effective Machine Unlearning, arXiv 2111.08947: the noise with
its penalty, impair and repair.
Differs from the published code: both phases share one learning rate schedule, the retain batch
is of the whole of D_r, and the two cross-entropies are summed, each a mean, with as many noise
images as retain images in a step, also while it repairs, without weight; BatchNorm's statistics
stay the original's.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.methods import Context, Forward, Method, chosen

SETTINGS = {
    "noise_images": (32, ">= 1", "noise images of each forgotten class"),
    "noise_steps": (40, ">= 0", "Adam steps by which they are learned"),
    "noise_rate": (0.1, "> 0", "Adam's learning rate"),
    "noise_penalty": (0.1, ">= 0", "w, the weight of their squared norm"),
    "impair": (0.5, "[0, 1]", "s, the share of the steps that impair"),
}
RECIPE = {"unlearn.optimizer.learning_rate": 0.02, "unlearn.batch_norm": "inference"}


@dataclasses.dataclass(frozen=True)
class Unsir(Method):
    """UNSIR on a model whose last supervision point is ``last``."""

    last: str
    noise_images: int
    noise_steps: int
    noise_rate: float
    noise_penalty: float
    impair: float
    streams = ("retain",)

    def spent(self, context, images):
        """Noise is learned image by image; the one handed tells its shape alone."""
        del images
        return {"noise": self.noise_images * self.noise_steps * len(_classes(context))}

    def prepare(self, context: Context) -> dict:
        """The noise images [N, h, w, c], class after class in turn, and their labels [N]."""
        images, _ = next(iter(context.batches("retain_train", 1)))
        labels = _classes(context)
        shape = (len(labels), self.noise_images, *images.shape[1:])
        start = jax.random.normal(context.key, shape)
        tree = context.original

        @jax.jit
        def learned(tree, start, labels):
            return jax.lax.map(lambda given: self.noise(context, tree, *given), (start, labels))

        noise = jnp.swapaxes(learned(tree, start, labels), 0, 1)
        return {
            "image": noise.reshape(-1, *images.shape[1:]),
            "label": jnp.tile(labels, self.noise_images),
        }

    def objective(self, context: Context, tree: Any, noise: jax.Array, label: jax.Array):
        """What one class's noise [n, h, w, c] makes small: the sum over its images."""
        logits = context.forward(tree, noise).logits[self.last]
        losses = cross_entropy(logits, jnp.full(len(noise), label))
        return self.noise_penalty * jnp.sum(jnp.square(noise)) - jnp.sum(losses)

    def noise(self, context: Context, tree: Any, start: jax.Array, label: jax.Array) -> jax.Array:
        """One class's noise [n, h, w, c] after its steps."""
        optimizer = optax.adam(self.noise_rate)
        gradient = jax.grad(lambda noise: self.objective(context, tree, noise, label))

        def step(_, carried):
            noise, state = carried
            updates, state = optimizer.update(gradient(noise), state)
            return optax.apply_updates(noise, updates), state

        return jax.lax.fori_loop(0, self.noise_steps, step, (start, optimizer.init(start)))[0]

    def view(self, step, forward: Forward):
        """Adds the stream ``noise``, as long as the retain stream, in both phases.

        In both, as the images' number belongs to a compiled step; the loss tells them apart.
        """
        del forward
        share = len(step.batch["retain"]["label"])
        # By the place in the whole batch: the same noise on any number of devices.
        whole = share * jax.lax.psum(1, parallel.AXIS)
        first = step.count * whole + share * jax.lax.axis_index(parallel.AXIS)
        rows = (first + jnp.arange(share)) % len(step.extras["label"])
        return {**step.batch, "noise": {name: a[rows] for name, a in step.extras.items()}}

    def loss(self, step):
        """The sum of this phase's terms; metrics for both."""
        metrics = {
            name: parallel.global_mean(
                cross_entropy(step.outputs[name].logits[self.last], step.batch[name]["label"])
            )
            for name in ("retain", "noise")
        }
        impairing = jnp.where(step.progress < self.impair, metrics["noise"], 0.0)
        return metrics["retain"] + impairing, metrics


def _classes(context: Context) -> jax.Array:
    """Int32 [K], those that noise is learned for."""
    return jnp.asarray(context.forget_classes or jnp.flatnonzero(context.left), jnp.int32)


def build(config: Any, points: Sequence[str]) -> Unsir:
    """UNSIR with the config's settings."""
    own = chosen(config)
    return Unsir(
        points[-1],
        own.noise_images,
        own.noise_steps,
        own.noise_rate,
        own.noise_penalty,
        own.impair,
    )
