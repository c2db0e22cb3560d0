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


def make_optimizer(
    recipe: Any, steps: int, *, head_only: bool = False
) -> optax.GradientTransformation:
    """Clipping, weight decay on kernels, and the recipe's optimizer.

    Args:
      recipe: an ``optimizer`` group of the config (``configs/default.py``).
      steps: length of the training.
      head_only: all but the layers named ``head`` stay as they are, weight decay included.
    """
    schedule = make_schedule(recipe, steps)
    parts = [optax.clip_by_global_norm(recipe.clip)] if recipe.clip else []
    if recipe.name == "adamw":
        parts.append(optax.adamw(schedule, weight_decay=recipe.weight_decay, mask=_kernels))
    else:
        parts.append(optax.add_decayed_weights(recipe.weight_decay, mask=_kernels))
        parts.append(optax.sgd(schedule, momentum=recipe.momentum, nesterov=True))
    moves = optax.chain(*parts)
    if not head_only:
        return moves
    return optax.partition({True: moves, False: optax.set_to_zero()}, _in_head)


def _in_head(params: Any) -> Any:
    def inside(path, _):
        return any(key.key == "head" for key in path)

    return jax.tree_util.tree_map_with_path(inside, params)


def _kernels(params: Any) -> Any:
    # What scales or is added (biases, an attention's table of them, positions, a class token) is
    # not decayed, whatever its shape: pulling it to zero does not regularise.
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
