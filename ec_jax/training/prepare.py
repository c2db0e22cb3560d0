"""What a method is given before its first step."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ec_jax import methods, parallel, rng
from ec_jax.data import augment
from ec_jax.losses.classification import cross_entropy
from ec_jax.models.network import Variables
from ec_jax.scenario import Scenario
from ec_jax.training.plan import Training


@dataclasses.dataclass
class Batches:
    """Passes over the training images, and how many images they took.

    Attributes:
      scenario: whose images.
      images: handed out so far.
    """

    scenario: Scenario
    images: int = 0

    def __call__(self, split: str, size: int) -> Iterator[tuple[jax.Array, np.ndarray]]:
        """As ``methods.Context.batches``."""
        images, labels = self.scenario.data.images_and_labels(split, self.scenario.splits[split])
        for start in range(0, len(images), size):
            part = images[start : start + size]
            self.images += len(part)
            yield (
                augment.normalize(part, *self.scenario.moments),
                labels[start : start + size].astype(np.int32),
            )


def context(scenario: Scenario, models: Mapping[str, Variables], batches: Any) -> methods.Context:
    """The context of the method that a scenario's config names."""
    return methods.Context(
        models,
        scenario.forget_classes,
        scenario.network(modules=False),
        batches,
        rng.key(scenario.config.seed, "method"),
        scenario.earlier_classes,
    )


def with_parameters(
    training: Training, start: Variables, context: methods.Context
) -> tuple[Training, Variables]:
    """The training and its start with the method's own parameters, where it has some."""
    own = training.method.parameters(context)
    if not own:
        return training, start
    trained = (*training.trained, "method")
    params = {**start["params"], "method": own}
    return dataclasses.replace(training, trained=trained), {**start, "params": params}


def cost(
    seconds: float, method: methods.Method, context: methods.Context, batches: Batches
) -> dict[str, float]:
    """What was spent before the first step.

    Args:
      seconds: in which it was.
      method: that was prepared.
      context: what it was given.
      batches: of which it was handed its images.

    Returns:
      ``seconds``, ``images`` and, where they are known, ``flops``: of every image that the method
      says it ran (``Method.spent``), as many as a batch of one has.
    """
    found = {"seconds": round(seconds, 3), "images": batches.images}
    spent = method.spent(context, batches.images)
    if spent is None:
        return found
    each = {
        what: _flops_an_image(what, context, batches.scenario) for what, n in spent.items() if n
    }
    if None in each.values():
        return found
    return {**found, "flops": sum(spent[what] * count for what, count in each.items())}


def _flops_an_image(what: str, context: methods.Context, scenario: Scenario) -> int | None:
    model, last = dict(context.original), context.network.points[-1]
    params = model.pop("params")

    def logits(params, image):
        return context.forward({"params": params, **model}, image).logits[last]

    def loss(params, image):
        return cross_entropy(logits(params, image), jnp.zeros(1, jnp.int32)).sum()

    programs = {"forward": logits, "gradient": jax.grad(loss), "noise": jax.grad(loss, argnums=1)}
    image = jax.ShapeDtypeStruct((1, *scenario.data.image_shape), jnp.float32)
    return parallel.flops(jax.jit(programs[what]), params, image)
