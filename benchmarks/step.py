"""One training step, ours and the same in PyTorch: EC's, and a supervised one beside it."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

from benchmarks import timing, torch_step
from configs import default
from ec_jax import methods, parallel, recipes, rng
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
# Not narrower: PyTorch 2.13's gradient of a 1x1 convolution with stride 2 may be wrong, or never
# end, with fewer input channels than a vector register holds (uxlfoundation/oneDNN#6035).
SMOKE = {"depth": 10, "width": 16}, {"depth": 4, "width": 64}
Theirs = Callable[[torch_step.Trainer, Any], torch.Tensor]
ALLOWED = 1e-3  # of the first step's losses
_STEPS = 1000  # of the schedule; more are not made


@dataclasses.dataclass(frozen=True)
class Work:
    """What both sides do.

    Attributes:
      what: in words.
      config: its groups ``model``, ``ec`` and ``unlearn.optimizer`` count.
      network: ours.
      batch: of one step, NumPy arrays.
      loss: ours.
      trained: the parts that move.
      batch_norm: those that take the batch's statistics.
      given: what PyTorch's loss is told beside the batch.
    """

    what: str
    config: Any
    network: Network
    batch: dict[str, dict[str, np.ndarray]]
    loss: Loss
    trained: tuple[str, ...]
    batch_norm: tuple[str, ...]
    given: tuple[Any, ...] = ()


def ec(model: str, smoke: bool) -> dict[str, Any]:
    """EC's step beside the same in PyTorch."""
    work = ec_work(model, smoke)
    return _compared(work, lambda trainer, made: trainer.loss(made, *work.given), "", smoke)


def lack(name: str) -> str:
    """How to get what a benchmark needs and is not there; "" where nothing is missing."""
    if not name.startswith("ec_compiled") or shutil.which(os.environ.get("CXX", "g++")):
        return ""
    return "torch.compile needs a C++ compiler: install g++, or set CXX to one"


def ec_compiled(model: str, smoke: bool) -> dict[str, Any]:
    """EC's step beside what torch.compile makes of the same."""
    work = ec_work(model, smoke)

    def theirs(trainer: torch_step.Trainer, made: Any) -> torch.Tensor:
        trainer.compile()
        return trainer.loss(made, *work.given)

    return _compared(work, theirs, "torch.compile", smoke)


def ec_hooks(model: str, smoke: bool) -> dict[str, Any]:
    """EC's step beside a forward pass a stream that hooks watch."""
    work = ec_work(model, smoke)
    return _compared(
        work, lambda trainer, made: trainer.by_hooks(made, *work.given), "hooks", smoke
    )


def plain(model: str, smoke: bool) -> dict[str, Any]:
    """A supervised step on as many images as EC's takes, beside the same in PyTorch."""
    return _compared(
        _plain(model, smoke),
        lambda trainer, made: trainer.supervised(made[supervised.STREAM]),
        "",
        smoke,
    )


def ec_over_plain(model: str, modules: str, smoke: bool) -> dict[str, Any]:
    """EC's step beside a supervised one on as many images, both ours: what EC costs.

    Both keep BatchNorm's statistics.
    """
    works = _plain(model, smoke, batch_norm=()), ec_work(model, smoke, modules)
    both = [ours(work, variables(work.network)) for work in works]
    steps = [made.step for made in both]
    found = timing.compare(
        *steps, pairs=2 if smoke else 5, difference=lambda a, b: 0.0 * (a + b), allowed=0.0
    )
    return {
        "what": f"EC's step, {_called(works[0].config)}, modules: {modules}",
        "against": "a supervised step on as many images",
        "less": True,
        "flops": round(both[1].flops / both[0].flops, 3),
        **found,
    }


def ec_work(
    model: str,
    smoke: bool,
    modules: str = "conv",
    images: int | None = None,
    classes: int = CLASSES,
) -> Work:
    """EC's step, the backbone's statistics kept.

    Args:
      model: one of ``MODELS``.
      smoke: a tiny one of its family.
      modules: their kind.
      images: of each stream; None: the model's own.
      classes: the last one is forgotten.
    """
    c, size = _config(model, smoke)
    size = images or size
    parts = {"retain": (size, range(classes - 1)), "forget": (size, [classes - 1])}
    network = _network(c, modules, classes)
    weights = layer_weights(c.ec.weights, len(network.points), c.ec.weights_sum)
    what = f"EC's step, {_called(c)}, {size} + {size} images"
    loss = methods.build(c, network.points).loss
    return Work(what, c, network, _batch(parts), loss, PARTS, (), (c.ec, weights))


def _plain(model: str, smoke: bool, batch_norm: tuple[str, ...] = PARTS[:1]) -> Work:
    """A supervised step's; ``batch_norm`` as of ``Work``."""
    c, size = _config(model, smoke)
    batch, network = _batch({supervised.STREAM: (2 * size, range(CLASSES))}), _network(c, None)
    what = f"a supervised step, {_called(c)}, {2 * size} images"
    loss = supervised.make_loss(network.points[-1:])
    return Work(what, c, network, batch, loss, PARTS[:1], batch_norm)


def finetune_work(model: str, smoke: bool, images: int) -> Work:
    """The step of the method ``finetune``: retain images alone, with the batch's statistics."""
    c, size = _config(model, smoke)
    c.method = "finetune"
    c, size = recipes.complete(c), size if smoke else images
    network, batch = _network(c, None), _batch({"retain": (size, range(CLASSES - 1))})
    what = f"fine-tuning, {_called(c)}, {size} images a step"
    loss = methods.build(c, network.points).loss
    return Work(what, c, network, batch, loss, PARTS[:1], PARTS[:1])


def _config(model: str, smoke: bool) -> tuple[Any, int]:
    fields, size = MODELS[model]
    c = default.get_config().unlock()
    c.model.update({**fields, **(SMOKE["patch" in fields] if smoke else {})})
    c.model.padding = "symmetric"  # as PyTorch pads
    c.unlearn.optimizer.schedule = "constant"
    return c, 8 if smoke else size


def _called(c: Any) -> str:
    return f"{c.model.name}{c.model.depth}-w{c.model.width}, 32x32"


def _network(c: Any, modules: str | None, classes: int = CLASSES) -> Network:
    return build(c.model, classes, module_kind=modules, axis_name=parallel.AXIS)


def _batch(parts: dict[str, tuple[int, Any]]) -> dict[str, dict[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    return {
        name: {
            "image": draw.integers(0, 256, (size, *SHAPE), dtype=np.uint8),
            "label": draw.choice(list(classes), size),
        }
        for name, (size, classes) in parts.items()
    }


def variables(network: Network, shape: tuple[int, int, int] = SHAPE) -> Variables:
    """Fresh ones of a network for images of that shape, NumPy arrays."""
    return jax.device_get(jax.jit(network.init, static_argnums=1)(jax.random.key(0), shape))


def _compared(work: Work, loss: Theirs, how: str, smoke: bool) -> dict[str, Any]:
    start = variables(work.network)
    torch.set_num_threads(timing.cores())
    peer = torch_step.from_ours(work.network, start, SHAPE[0]).train(bool(work.batch_norm))
    trainer = torch_step.Trainer(peer, work.config.unlearn.optimizer, MEAN, STD)
    tensors = jax.tree.map(torch.tensor, work.batch)
    times = timing.compare(
        ours(work, start).step,
        lambda: trainer.step(loss(trainer, tensors)),
        pairs=2 if smoke else 5,
        difference=timing.largest_difference,
        allowed=ALLOWED,
    )
    against = f"PyTorch, {how or 'eager'}, channels last"
    return {"what": work.what, "against": against, **times}


@dataclasses.dataclass(frozen=True)
class Ours:
    """Our step, compiled.

    Attributes:
      step: makes the next one and gives its loss.
      flops: its operations, on all devices.
      bytes: that it needs beside its arguments and results, on one device.
    """

    step: Callable[[], float]
    flops: int
    bytes: int


def ours(work: Work, start: Variables, devices: int = 1) -> Ours:
    """Our step of a work."""
    recipe = work.config.unlearn.optimizer
    optimizer, mesh = make_optimizer(recipe, _STEPS), parallel.make_mesh(devices)
    update_recipe = Recipe(work.loss, optimizer, work.trained, work.batch_norm)
    update = parallel.per_device(make_update(work.network, update_recipe, MEAN, STD), mesh)
    state = create(work.network, start, optimizer, work.trained, tuple(work.batch))
    held = [parallel.replicate(state, mesh)]
    shared = parallel.replicate({"key": rng.key(0, "benchmark"), "extras": {}}, mesh)
    there = parallel.shard(work.batch, mesh)

    def step() -> float:
        held[0], metrics = update(held[0], shared, there)
        return float(jax.block_until_ready((held[0], metrics))[1]["loss"])

    arguments = held[0], shared, there
    memory = update.program.lower(*arguments).compile().memory_analysis()
    return Ours(step, update.flops(*arguments), memory.temp_size_in_bytes)
