"""What each training of the experiment is: original, oracle, modules, unlearn."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ec_jax.methods import Method
from ec_jax.training import supervised
from ec_jax.training.update import Loss

# A collapse is a failure of unlearning; the variance of a model trained from scratch may
# legitimately move far, so there only vanished features count.
VANISHED = 1e-12


@dataclasses.dataclass(frozen=True)
class Training:
    """One training of the experiment.

    Attributes:
      streams: {name: (indices into the training images, images a step)}.
      steps: updates.
      group: the config's group whose ``optimizer`` is used.
      loss: the update step's loss.
      modules: the network has its EC modules.
      trained: parts that move.
      batch_norm_train: parts in BatchNorm's training mode.
      draw: name of its random streams: the order of the images, augmentation, the loss's own.
      initial: name of the random stream of its initial weights, where it has fresh ones.
      min_spread: variance of the features, as a share of its start, that counts as collapse.
      head_only: of the parts that move, only the heads do.
      method: what unlearns, where the training is that.
    """

    streams: Mapping[str, tuple[np.ndarray, int]]
    steps: int
    group: str
    loss: Loss
    modules: bool
    trained: tuple[str, ...]
    batch_norm_train: tuple[str, ...]
    draw: str
    initial: str
    min_spread: float = VANISHED
    head_only: bool = False
    method: Method | None = None


def plan(
    stage: str,
    config: Any,
    splits: Mapping[str, np.ndarray],
    points: Sequence[str],
    method: Method,
) -> Training:
    """The training of a stage.

    Args:
      stage: ``original``, ``oracle``, ``proxy``, ``modules`` or ``unlearn``.
      config: of the run.
      splits: {split: indices}.
      points: supervision points of the model, first to last.
      method: what unlearns.
    """
    everything = np.concatenate([splits["retain_train"], splits["forget_train"]])
    if stage == "unlearn":
        return _unlearning(config, splits, points, method)
    if stage == "proxy":
        oracle = plan("oracle", config, splits, points, method)
        steps = max(round(config.proxy.share * oracle.steps), 1)
        return dataclasses.replace(oracle, steps=steps, draw=stage, initial=stage)
    modules = stage == "modules"
    group, part = ("modules", "modules") if modules else ("original", "backbone")
    indices = splits["retain_train"] if stage == "oracle" else everything
    return Training(
        {supervised.STREAM: (indices, config.data.batch_size)},
        _steps(config[group].epochs, len(indices), config.data.batch_size),
        group,
        supervised.make_loss(points[:-1] if modules else points[-1:]),
        modules=modules,
        trained=(part,),
        batch_norm_train=(part,),
        draw=stage,
        initial=stage,
    )


def _unlearning(
    config: Any, splits: Mapping[str, np.ndarray], points: Sequence[str], method: Method
) -> Training:
    parts = ("backbone", "modules") if method.uses_modules else ("backbone",)
    taken = config.unlearn.batch_norm == "train" and not method.head_only
    draw = f"unlearn/draw{method.draw}" if method.draw else "unlearn"
    streams = {
        name: (splits[f"{name}_train"], config.data[f"{name}_batch_size"])
        for name in method.streams
    }
    training = Training(
        streams,
        0 if method.closed_form else config.unlearn.steps,
        "unlearn",
        method.loss,
        modules=method.uses_modules,
        trained=parts,
        batch_norm_train=parts if taken else (),
        draw=draw,
        initial=draw,
        min_spread=config.unlearn.min_spread,
        head_only=method.head_only,
        method=method,
    )
    if method.fresh is None:
        return training
    oracle = plan("oracle", config, splits, points, method)
    steps = round(method.fresh * oracle.steps + method.images / config.data.batch_size)
    return dataclasses.replace(
        oracle,
        steps=max(steps, 1) if method.fresh or method.images else 0,
        streams={"retain": oracle.streams[supervised.STREAM]},
        loss=method.loss,
        draw=draw,
        initial=method.initial or draw,
        method=method,
    )


def _steps(epochs: float, examples: int, batch_size: int) -> int:
    """Updates in ``epochs`` passes; at least one, unless no pass is asked for."""
    return max(math.ceil(epochs * examples / batch_size), 1) if epochs else 0
