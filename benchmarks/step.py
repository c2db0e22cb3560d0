"""One training step, ours and the same in PyTorch: EC's, and a plain supervised one beside it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

from benchmarks import timing, torch_step
from configs import default
from ec_jax import methods, parallel, rng
from ec_jax.methods._weights import layer_weights
from ec_jax.models.network import Network, Variables, build
from ec_jax.training import supervised
from ec_jax.training.optimizer import make_optimizer
from ec_jax.training.state import create
from ec_jax.training.update import Loss, Recipe, make_update

SHAPE, CLASSES = (32, 32, 3), 10
MEAN, STD = np.float32([0.49, 0.48, 0.45]), np.float32([0.25, 0.24, 0.26])
PARTS = ("backbone", "modules")
# {name: (fields of the model, images of each of EC's two streams)}
MODELS = {
    "resnet18_w16": ({"name": "resnet", "depth": 18, "width": 16}, 256),
    "resnet18_w64": ({"name": "resnet", "depth": 18, "width": 64}, 64),
    "vit_tiny": ({"name": "vit", "depth": 12, "width": 192, "patch": 4}, 64),
}
SMOKE = {"depth": 10, "width": 4}, {"depth": 4, "width": 64}
_ALLOWED = 1e-3  # of the first step's losses
_STEPS = 1000  # of the schedule; more are not made


@dataclasses.dataclass(frozen=True)
class Work:
    """What both sides do.

    Attributes:
      config: its groups ``model``, ``ec`` and ``unlearn.optimizer`` count.
      network: ours.
      batch: of one step, NumPy arrays.
      ours: our loss.
      theirs: ``(trainer, tensors) -> loss`` in PyTorch.
      trained: the parts that move.
      batch_norm: those that take the batch's statistics.
    """

    config: Any
    network: Network
    batch: dict[str, dict[str, np.ndarray]]
    ours: Loss
    theirs: Callable[[torch_step.Trainer, Any], torch.Tensor]
    trained: tuple[str, ...] = PARTS
    batch_norm: tuple[str, ...] = ()


def ec(model: str, smoke: bool) -> dict[str, Any]:
    """EC's step, with modules of convolutions and the backbone's statistics kept."""
    c, size = _config(model, smoke)
    parts = {"retain": (size, range(CLASSES - 1)), "forget": (size, [CLASSES - 1])}
    network = _network(c, "conv")
    weights = layer_weights(c.ec.weights, len(network.points), c.ec.weights_sum)

    def theirs(trainer: torch_step.Trainer, tensors: Any) -> torch.Tensor:
        return trainer.loss(tensors, c.ec, weights)

    work = Work(c, network, _batch(parts), methods.build(c, network.points).loss, theirs)
    return _compared(f"EC's step, {_called(c)}, {size} + {size} images", work, smoke)


def plain(model: str, smoke: bool) -> dict[str, Any]:
    """A supervised step on as many images as EC's takes, with the batch's statistics."""
    c, size = _config(model, smoke)
    batch, network = _batch({supervised.STREAM: (2 * size, range(CLASSES))}), _network(c, None)
    ours = supervised.make_loss(network.points[-1:])

    def theirs(trainer: torch_step.Trainer, tensors: Any) -> torch.Tensor:
        return trainer.supervised(tensors[supervised.STREAM])

    work = Work(c, network, batch, ours, theirs, PARTS[:1], PARTS[:1])
    return _compared(f"a supervised step, {_called(c)}, {2 * size} images", work, smoke)


def _config(model: str, smoke: bool) -> tuple[Any, int]:
    fields, size = MODELS[model]
    c = default.get_config().unlock()
    c.model.update({**fields, **(SMOKE["patch" in fields] if smoke else {})})
    c.model.padding = "symmetric"  # as PyTorch pads
    c.unlearn.optimizer.schedule = "constant"
    return c, 8 if smoke else size


def _called(c: Any) -> str:
    return f"{c.model.name}{c.model.depth}-w{c.model.width}, 32x32"


def _network(c: Any, modules: str | None) -> Network:
    return build(c.model, CLASSES, module_kind=modules, axis_name=parallel.AXIS)


def _batch(parts: dict[str, tuple[int, Any]]) -> dict[str, dict[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    return {
        name: {
            "image": draw.integers(0, 256, (size, *SHAPE), dtype=np.uint8),
            "label": draw.choice(list(classes), size),
        }
        for name, (size, classes) in parts.items()
    }


def _compared(what: str, work: Work, smoke: bool) -> dict[str, Any]:
    variables = jax.jit(work.network.init, static_argnums=1)(jax.random.key(0), SHAPE)
    variables = jax.device_get(variables)
    torch.set_num_threads(timing.cores())
    peer = torch_step.from_ours(work.network, variables, SHAPE[0]).train(bool(work.batch_norm))
    trainer = torch_step.Trainer(peer, work.config.unlearn.optimizer, MEAN, STD)
    tensors = jax.tree.map(torch.tensor, work.batch)
    times = timing.compare(
        _ours(work, variables),
        lambda: trainer.step(work.theirs(trainer, tensors)),
        pairs=2 if smoke else 7,
        difference=timing.largest_difference,
        allowed=_ALLOWED,
    )
    return {"what": what, "against": "PyTorch, eager, channels last", "target": None, **times}


def _ours(work: Work, variables: Variables) -> Callable[[], float]:
    """A function that makes the next step and gives its loss."""
    optimizer, mesh = make_optimizer(work.config.unlearn.optimizer, _STEPS), parallel.make_mesh(1)
    recipe = Recipe(work.ours, optimizer, work.trained, work.batch_norm)
    update = parallel.per_device(make_update(work.network, recipe, MEAN, STD), mesh)
    state = create(work.network, variables, optimizer, work.trained, tuple(work.batch))
    held = [parallel.replicate(state, mesh)]
    shared = parallel.replicate({"key": rng.key(0, "benchmark"), "extras": {}}, mesh)
    there = parallel.shard(work.batch, mesh)

    def step() -> float:
        held[0], metrics = update(held[0], shared, there)
        return float(jax.block_until_ready((held[0], metrics))[1]["loss"])

    return step
