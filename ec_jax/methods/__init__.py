"""Unlearning methods: one file each, found by its name.

A file ``NAME.py`` in this folder is the method ``NAME``; it defines ``build(config,
points)``, which returns a ``Method``.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any, Protocol

import jax

from ec_jax.models.network import Outputs, Variables


@dataclasses.dataclass(frozen=True)
class Context:
    """What a method may use to prepare itself.

    Attributes:
      original: the original backbone's {"params", "batch_stats"}.
      forget_classes: ids of the classes to forget.
    """

    original: Variables
    forget_classes: tuple[int, ...]


class Method(Protocol):
    """How a model is made to forget: a loss on the shared update step.

    Attributes:
      uses_modules: the network has its EC modules, pretrained on the original.
      head_only: nothing but the head moves, and BatchNorm's statistics stay.
    """

    uses_modules: bool
    head_only: bool

    def prepare(self, context: Context) -> Any:
        """What the loss needs once, before the first step; a tree of arrays."""

    def loss(
        self, outputs: dict[str, Outputs], batch: dict, extras: Any, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss of a retain and a forget batch, and metrics.

        Runs per device under the axis ``parallel.AXIS``; returns values of the whole batch.

        Args:
          outputs: {"retain", "forget"}: this device's outputs at every point.
          batch: {"retain", "forget"}: {"image", "label"}.
          extras: what ``prepare`` returned.
          key: this step's random key.
        """


def names() -> tuple[str, ...]:
    """The methods there are."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__)))


def build(config: Any, points: Sequence[str]) -> Method:
    """The method that ``config.method`` names, for a model with these supervision points."""
    return importlib.import_module(f"{__name__}.{config.method}").build(config, points)
