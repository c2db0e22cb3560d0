"""Unlearning methods: one file each, found by its name (``ec_jax/registry.py``).

A file ``NAME.py`` in this folder is the method ``NAME``. It defines ``build(config, points)``,
which returns a ``Method``, and beside it the literals ``SETTINGS``, the fields of the config's
group ``NAME``, and ``RECIPE``, the method's defaults for other fields.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from ec_jax import registry
from ec_jax.errors import InputError
from ec_jax.models.network import Network, Outputs, Variables

Batch = dict[str, dict[str, jax.Array]]
Forward = Callable[[Variables, jax.Array], Outputs]


@dataclasses.dataclass(frozen=True)
class Context:
    """What a method may use to prepare itself.

    Attributes:
      models: {"original" and what else ``Method.needs`` names: the backbone's {"params",
        "batch_stats"}}.
      forget_classes: ids of the classes to forget; none where samples are forgotten.
      network: the backbone, without EC modules; for one device.
      batches: ``batches(split, size)`` iterates over the training split ``forget_train`` or
        ``retain_train`` once, in a fixed order: float32 images [b, h, w, c], normalised, and
        int32 labels [b]; the last batch may be smaller.
      key: the method's own random key.
      earlier: ids of the classes that were forgotten before, by another request.
    """

    models: Mapping[str, Variables]
    forget_classes: tuple[int, ...]
    network: Network
    batches: Callable[[str, int], Iterator[tuple[jax.Array, jax.Array]]]
    key: jax.Array
    earlier: tuple[int, ...] = ()

    @property
    def original(self) -> Variables:
        """The original's backbone."""
        return self.models["original"]

    @property
    def num_classes(self) -> int:
        """C, the outputs of the head."""
        return self.network.backbone.num_classes

    @property
    def forgotten(self) -> jax.Array:
        """Bool [C], the classes that nothing may be taken for; all false for samples.

        Those forgotten earlier are among them: they should not come back.
        """
        gone = jnp.asarray((*self.forget_classes, *self.earlier), jnp.int32)
        return jnp.isin(jnp.arange(self.num_classes), gone)

    @property
    def left(self) -> jax.Array:
        """Bool [C], the classes that this request found: all but those forgotten earlier."""
        return ~jnp.isin(jnp.arange(self.num_classes), jnp.asarray(self.earlier, jnp.int32))

    def forward(self, tree: Variables, images: jax.Array) -> Outputs:
        """A backbone's pooled feature and logits, in inference mode."""
        return forward(self.network, tree, images)


def forward(network: Network, tree: Variables, images: jax.Array) -> Outputs:
    """The last point's outputs of the backbone {"params", "batch_stats"}, in inference mode.

    Args:
      network: with or without modules, which are not run.
      tree: the backbone's variables.
      images: float32 [b, h, w, c], normalised.
    """
    variables = {collection: {"backbone": part} for collection, part in tree.items()}
    plain = dataclasses.replace(network, modules=None)
    return plain.apply(variables, images, train_backbone=False, train_modules=False)[0]


@flax.struct.dataclass
class Step:
    """One update as a loss sees it, on one device.

    Attributes:
      outputs: {stream: the model's outputs at every point, of this device's share}.
      batch: {stream: {"image": float32 [b, h, w, c], augmented and normalised; "label": int32
        [b]; and what ``Method.view`` added}}.
      extras: what ``Method.prepare`` returned.
      params: {"backbone", "modules" and "method" where there are: the parameters that move}.
      progress: float32 scalar in [0, 1): steps done as a share of all.
      count: int32 scalar: steps done.
      key: this step's random key, the same on all devices.
    """

    outputs: dict[str, Outputs]
    batch: Batch
    extras: Any
    params: Variables
    progress: jax.Array
    count: jax.Array
    key: jax.Array


class Method:
    """How a model is made to forget: a loss on the shared update step, or a closed form.

    Attributes:
      uses_modules: the network has its EC modules, pretrained on the original.
      streams: of which sets steps read a batch, of ``retain`` and ``forget``.
      head_only: nothing but the head moves, and BatchNorm's statistics stay.
      fresh: a share of the oracle's updates, for which a fresh network is trained by the
        original's recipe in place of the original; 0: it stays untrained. None: the original is.
      images: that a fresh network reads beside the share.
      initial: the training from whose initial weights a fresh network starts (``original``);
        empty: from its own.
      draw: which draw of initial weights, of the order of the images and of augmentations it is.
      needs: models beside the original that ``Context.models`` must hold (``proxy``).
      closed_form: ``edit`` takes the place of training.
    """

    uses_modules = False
    streams: tuple[str, ...] = ("retain", "forget")
    head_only = False
    fresh: float | None = None
    images: int = 0
    initial = ""
    draw = 0
    needs: tuple[str, ...] = ()
    closed_form = False

    def check(self, labels: Sequence[int]) -> None:
        """Refuses, by an InputError and before any work, what the method cannot forget.

        Args:
          labels: ids of all labels that forget images have, also where a label loses a part only;
            none where single images are forgotten.
        """

    def prepare(self, context: Context) -> Any:
        """What the loss needs once, before the first step: a tree of arrays."""
        del context
        return {}

    def spent(self, context: Context, images: int) -> dict[str, int] | None:
        """How often ``prepare`` or ``edit`` ran a network on an image, for the cost.

        Args:
          context: what it was given.
          images: that it was handed.

        Returns:
          {"forward": passes; "gradient": passes with the gradient of a loss by the parameters;
          "noise": passes with that by the image}; None: its operations are not known.
        """
        del context
        return {"forward": images}

    def reads(self, count: int, steps: int) -> tuple[str, ...]:
        """Those of the streams that a step reads; the others' images are not run.

        Args:
          count: steps done.
          steps: in all.
        """
        del count, steps
        return self.streams

    def parameters(self, context: Context) -> Any:
        """Parameters of the method's own, trained with the network and dropped at the end."""
        del context
        return {}

    def view(self, step: Step, forward: Forward) -> Batch:
        """The batch as the network is to see it, and what the loss wants to know of it.

        Runs per device before the network does, so ``step.outputs`` is empty; no gradient
        flows through it.

        Args:
          step: this step.
          forward: ``forward(tree, images)``: the outputs of another backbone, say one in
            ``step.extras``, at its last point, in inference mode.

        Returns:
          The batch; its images and their number may differ, and entries may be added.
        """
        del forward
        return step.batch

    def loss(self, step: Step) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss and metrics, scalars.

        Runs per device under the axis ``parallel.AXIS``; returns values of the whole batch.
        """
        raise NotImplementedError

    def limit(self, updates: Variables, extras: Any) -> Variables:
        """The optimizer's updates {"backbone", …}, less those that the method does not allow."""
        del extras
        return updates

    def edit(self, context: Context) -> Variables:
        """The changed backbone {"params", "batch_stats"}, where the method is a closed form."""
        raise NotImplementedError


def names() -> tuple[str, ...]:
    """The methods there are."""
    return registry.names()


def build(config: Any, points: Sequence[str]) -> Method:
    """The method that ``config.method`` names, for a model with these supervision points.

    With ``config.ec.plugin`` EC's terms are added to it.

    Raises:
      InputError: there is no such method, or it cannot take EC's terms.
    """
    method = registry.builder(config.method)(config, points)
    if not config.ec.plugin:
        return method
    from ec_jax.methods import _plugin, ec

    starts_anew = method.fresh is not None
    has_them = isinstance(method, (ec.EC, _plugin.Plugged))
    if method.closed_form or method.head_only or starts_anew or has_them:
        remedy = f"{config.method} is no method that EC can be added to; use false"
        raise InputError("ec.plugin", True, remedy)
    return _plugin.plugged(method, config, points)


def chosen(config: Any) -> Any:
    """The config's group of the method."""
    return config[registry.group(config.method)]


def used(retain_weight: float) -> tuple[str, ...]:
    """The streams of a method whose retain term has this weight."""
    return ("retain", "forget") if retain_weight else ("forget",)


def others(forgotten: jax.Array, labels: jax.Array) -> jax.Array:
    """Classes that an image of the forget set may be taken for.

    Args:
      forgotten: bool [C], ``Context.forgotten``.
      labels: integer [n].

    Returns:
      bool [n, C]: all but the forgotten classes and, where samples are forgotten, the image's own.

    >>> others(jnp.array([False, True, False]), jnp.array([1]))[0].tolist()
    [True, False, True]
    >>> others(jnp.array([False, False, True]), jnp.array([0]))[0].tolist()
    [False, True, False]
    """
    own = jnp.arange(forgotten.shape[0])[None] == labels[:, None]
    return ~(forgotten[None] | own)


def taken_for(logits: jax.Array, forgotten: jax.Array, labels: jax.Array) -> jax.Array:
    """ŷ, int32 [n]: what forget images are taken for otherwise, the best of ``others``.

    Args:
      logits: [n, C], of who takes them for it.
      forgotten: bool [C], ``Context.forgotten``.
      labels: integer [n].
    """
    allowed = jnp.where(others(forgotten, labels), logits, -jnp.inf)
    return jnp.argmax(allowed, axis=-1).astype(jnp.int32)
