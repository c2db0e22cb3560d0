"""The optax optimizer that a recipe names."""

from typing import Any

import jax
import optax

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("constant", "linear", "cosine")


def make_schedule(recipe: Any, steps: int) -> optax.Schedule:
    """Learning rate as a function of the step.

    Args:
      recipe: fields ``learning_rate``, ``schedule`` and ``warmup_steps``.
      steps: length of the training; ``linear`` and ``cosine`` reach zero there.
    """
    peak, warmup = recipe.learning_rate, min(recipe.warmup_steps, steps)
    rest = max(steps - warmup, 1)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
    }[recipe.schedule]()
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def make_optimizer(recipe: Any, steps: int) -> optax.GradientTransformation:
    """Clipping, weight decay on kernels, and the recipe's optimizer.

    Args:
      recipe: an ``optimizer`` group of the config (``configs/default.py``).
      steps: length of the training.
    """
    schedule = make_schedule(recipe, steps)
    parts = [optax.clip_by_global_norm(recipe.clip)] if recipe.clip else []
    if recipe.name == "adamw":
        parts.append(optax.adamw(schedule, weight_decay=recipe.weight_decay, mask=_kernels))
    else:
        parts.append(optax.add_decayed_weights(recipe.weight_decay, mask=_kernels))
        parts.append(optax.sgd(schedule, momentum=recipe.momentum, nesterov=True))
    return optax.chain(*parts)


def _kernels(params: Any) -> Any:
    # Biases and normalisation scales are vectors: decaying them does not regularise.
    return jax.tree.map(lambda p: p.ndim > 1, params)
