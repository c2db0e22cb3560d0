"""What a method is given before its first step."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ec_jax import methods, rng
from ec_jax.data import augment
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
