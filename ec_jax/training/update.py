"""The one update step of every training: original, oracle, modules and all methods.

Trainings differ by what they put in: the loss, the streams of a batch, the parts of
the network that move, and the parts whose BatchNorm takes batch statistics.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ec_jax import parallel
from ec_jax.data import augment
from ec_jax.methods import Batch, Forward, Step
from ec_jax.methods import forward as backbone_forward
from ec_jax.models.network import Network, Outputs
from ec_jax.rng import fold
from ec_jax.training.state import TrainState

Loss = Callable[[Step], tuple[jax.Array, dict]]


def _as_it_is(step: Step, forward: Forward) -> Batch:
    del forward
    return step.batch


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What distinguishes one training from another.

    Attributes:
      loss: ``loss(step) -> (scalar, metrics)``, run per device; the scalar and the metrics
        are those of the whole batch, equal on all devices.
      optimizer: an optax transformation over the trained parts.
      trained: parts of the network that move (``backbone``, ``modules``).
      batch_norm_train: parts whose BatchNorm uses and updates batch statistics.
      augment: a kind of ``ec_jax.data.augment``.
      steps: updates in all, of which ``Step.progress`` tells the share.
      view: as ``Method.view``.
      limit: as ``Method.limit``.
    """

    loss: Loss
    optimizer: optax.GradientTransformation
    trained: tuple[str, ...]
    batch_norm_train: tuple[str, ...]
    augment: str = "none"
    steps: int = 1
    view: Callable[[Step, Forward], Batch] = _as_it_is
    limit: Callable[[Any, Any], Any] = lambda updates, extras: updates


def make_update(
    network: Network, recipe: Recipe, mean: jax.Array, std: jax.Array
) -> Callable[[TrainState, dict, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """The per-device program of one update.

    Args:
      network: built with ``axis_name=parallel.AXIS``.
      recipe: what this training is.
      mean: float32 [c], of the images in [0, 1].
      std: float32 [c].

    Returns:
      ``update(state, shared, batch) -> (state, metrics)`` for ``parallel.per_device``.
      ``shared`` holds ``key``, the training's own random key, and ``extras``, what the method
      prepared; ``batch`` is {stream: {"image": uint8 [b, h, w, c], "label": int32 [b]}}. All
      streams of the batch go through one forward pass. Metrics are scalars:
      the loss's own, ``loss``, ``grad_norm``, ``update_norm``, ``images``: how many went through
      the network, of all devices; and ``spread``: the smallest ratio, over streams and points,
      of the embeddings' variance to that of the stream's first step. Each stream counts by
      itself: forget features that fall into one point would hide among retain features that
      do not. Steps need not have the same streams; each set of them is compiled by itself.
    """

    def forward(params, batch_stats, images):
        return network.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train_backbone="backbone" in recipe.batch_norm_train,
            train_modules="modules" in recipe.batch_norm_train,
        )

    def look(stream, part, key):
        keys = _image_keys(key, stream, part["label"])
        images = augment.augment(part["image"], keys, recipe.augment)
        return {**part, "image": augment.normalize(images, mean, std)}

    def update(state: TrainState, shared: dict, batch: Batch):
        key = jax.random.fold_in(shared["key"], state.step)
        frozen = {p: v for p, v in state.params.items() if p not in recipe.trained}
        trained = {p: state.params[p] for p in recipe.trained}
        seen = Step(
            outputs={},
            batch={name: look(name, part, key) for name, part in batch.items()},
            extras=shared["extras"],
            params=trained,
            progress=state.step / recipe.steps,
            count=state.step,
            key=fold(key, "loss"),
        )
        batch = jax.lax.stop_gradient(recipe.view(seen, partial(backbone_forward, network)))

        def loss(trained):
            # One pass over all streams: their images share BatchNorm's batch statistics.
            images = jnp.concatenate([part["image"] for part in batch.values()])
            outputs, stats = forward({**frozen, **trained}, state.batch_stats, images)
            step = seen.replace(outputs=_split(outputs, batch), batch=batch, params=trained)
            value, metrics = recipe.loss(step)
            return value, (outputs, stats, metrics)

        (value, (outputs, stats, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(trained)
        # The loss is the whole batch's on every device, so the mean is its exact gradient.
        grads = jax.lax.pmean(grads, parallel.AXIS)
        updates, opt_state = recipe.optimizer.update(grads, state.opt_state, trained)
        updates = recipe.limit(updates, shared["extras"])
        parts = _split(outputs, batch)
        known = {stream: points for stream, points in state.spread.items() if stream in parts}
        variance = {
            stream: {p: parallel.global_variance(parts[stream].embeddings[p]) for p in points}
            for stream, points in known.items()
        }
        first = jax.tree.map(lambda v, f: jnp.where(f == 0, v, f), variance, known)
        ratios = jax.tree.leaves(jax.tree.map(_ratio, variance, first))
        images = sum(len(part["label"]) for part in batch.values())
        return state.replace(
            step=state.step + 1,
            params={**frozen, **optax.apply_updates(trained, updates)},
            batch_stats=stats,
            opt_state=opt_state,
            spread={**state.spread, **first},
        ), {
            **metrics,
            "loss": value,
            "grad_norm": optax.global_norm(grads),
            "update_norm": optax.global_norm(updates),
            "images": jnp.float32(images * jax.lax.axis_size(parallel.AXIS)),
            "spread": jnp.min(jnp.stack(ratios)),
        }

    return update


def _ratio(variance: jax.Array, first: jax.Array) -> jax.Array:
    # A batch of one image has no variance from the start: that is no collapse.
    return jnp.where(first > 0, variance / jnp.where(first > 0, first, 1.0), 1.0)


def _image_keys(key: jax.Array, stream: str, labels: jax.Array) -> jax.Array:
    """One key an image, by its place in the whole batch: the same on any number of devices."""
    count = labels.shape[0]
    places = jax.lax.axis_index(parallel.AXIS) * count + jnp.arange(count)
    return jax.vmap(jax.random.fold_in, (None, 0))(fold(key, stream), places)


def _split(outputs: Outputs, batch: Batch) -> dict[str, Outputs]:
    """The outputs of the concatenated streams, each stream's own again."""
    parts, start = {}, 0
    for name, part in batch.items():
        stop = start + part["label"].shape[0]
        parts[name] = jax.tree.map(lambda a, i=start, j=stop: a[i:j], outputs)
        start = stop
    return parts
