"""The training loop of a run beside the compiled step alone: what all around the step costs."""

import contextlib
import dataclasses
import functools
import io
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import timing
from configs import digits
from ec_jax import parallel, pipeline
from ec_jax.checkpoint import Checkpoints
from ec_jax.data.sources import Dataset
from ec_jax.scenario import Scenario
from ec_jax.training import plan
from ec_jax.training.loop import train
from ec_jax.training.optimizer import make_optimizer
from ec_jax.training.state import create
from ec_jax.training.steps import Steps, make_steps

SMOKE = {
    "unlearn.steps": 12,
    "model.width": 4,
    "data.retain_batch_size": 8,
    "data.forget_batch_size": 8,
}


class _Enlarged(Scenario):
    """Digits of which every pixel is 4 x 4 of three channels."""

    image_shape = (32, 32, 3)

    @functools.cached_property
    def data(self) -> Dataset:
        """As of ``Scenario``."""
        found = super().data
        train, test = (
            np.repeat(images.repeat(4, 1).repeat(4, 2), 3, 3)
            for images in (found.train_images, found.test_images)
        )
        return dataclasses.replace(found, train_images=train, test_images=test)


@dataclasses.dataclass(frozen=True)
class _Seen(Steps):
    """Steps that keep the newest loss of those that are made, not only tried.

    Their operations are counted before, when they are compiled.
    """

    counted: Any = None
    losses: dict[int, Any] = dataclasses.field(default_factory=dict)

    def flops(self, state: Any, steps: int) -> Any:
        """As of ``Steps``."""
        return self.counted

    def __call__(self, state: Any, step: int, count: int = 1) -> Any:
        """As of ``Steps``."""
        state, metrics = super().__call__(state, step, count)
        self.losses.setdefault(step, metrics["loss"])
        return state, metrics


class _Unsaved(Checkpoints):
    """Checkpoints of which none is written."""

    def save(self, state: Any, cost: dict[str, Any]) -> None:
        """Does nothing."""


def digits_8x8(smoke: bool) -> dict[str, Any]:
    """EC of 200 steps on digits as they are, a checkpoint every 100 and a line every 20."""
    return _measured({"unlearn.steps": 200, "model.width": 16}, smoke, Scenario)


def unsaved_8x8(smoke: bool) -> dict[str, Any]:
    """The same as of ``digits_8x8`` without a checkpoint: what these cost."""
    return _measured({"unlearn.steps": 200, "model.width": 16}, smoke, Scenario, _Unsaved)


def digits_32x32(smoke: bool) -> dict[str, Any]:
    """EC of 200 steps on digits made as large as CIFAR's images, as often looked at and saved."""
    fields = {"unlearn.steps": 200, "model.width": 16}
    sizes = {"data.retain_batch_size": 32, "data.forget_batch_size": 32}
    return _measured(fields | sizes, smoke, _Enlarged)


def resnet18_w16(smoke: bool) -> dict[str, Any]:
    """EC of 100 steps with the network of the other benchmarks, a checkpoint at the end."""
    fields = {"unlearn.steps": 100, "model.depth": 18, "model.width": 16}
    sizes = {"data.retain_batch_size": 64, "data.forget_batch_size": 64}
    return _measured(fields | sizes, smoke, _Enlarged)


def _measured(
    fields: dict[str, Any],
    smoke: bool,
    kind: type[Scenario],
    keeping: type[Checkpoints] = Checkpoints,
) -> dict[str, Any]:
    c = digits.get_config()
    c.update_from_flattened_dict({**fields, **(SMOKE if smoke else {})})
    count = c.unlearn.steps
    scenario, method = pipeline.checked(c.lock(), kind(c))
    network = scenario.network(modules=True)
    training = plan.plan("unlearn", c, scenario.splits, network.points, method)
    optimizer = make_optimizer(c.unlearn.optimizer, count)
    variables = jax.jit(network.init, static_argnums=1)(jax.random.key(0), scenario.image_shape)
    made = create(network, jax.device_get(variables), optimizer, training.trained, training.streams)
    made, mesh = jax.device_get(made), scenario.mesh
    steps = make_steps(scenario, training, network, optimizer, {})
    counted = steps.flops(made, count)
    batches = [steps.batch(step, 1) for step in range(count)]

    def bare() -> float:
        state = parallel.replicate(made, mesh)
        for batch in batches:
            state, metrics = steps.update(state, steps.shared, batch)
        return float(jax.block_until_ready((state, metrics))[1]["loss"])

    def loop() -> float:
        fields = {f.name: getattr(steps, f.name) for f in dataclasses.fields(Steps)}
        seen = _Seen(**fields, counted=counted)
        state = parallel.replicate(made, mesh)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            checkpoints = keeping(Path(folder) / "checkpoints", c.checkpoint.every, 2)
            try:
                train(
                    "unlearn",
                    state,
                    seen,
                    steps=count,
                    checkpoints=checkpoints,
                    log_every=c.report.log_every,
                    min_spread=training.min_spread,
                    remedy="",
                    folder=Path(folder),
                )
            finally:
                checkpoints.close()
        return float(seen.losses[count - 1])

    times = timing.compare(
        loop,
        bare,
        pairs=2 if smoke else 5,
        difference=timing.largest_difference,
        allowed=1e-6,
        twice=False,
    )
    size = "x".join(map(str, scenario.image_shape[:2]))
    net, data = f"{c.model.name}{c.model.depth}-w{c.model.width}", c.data
    images = f"{data.retain_batch_size} + {data.forget_batch_size} images"
    saved = "" if keeping is Checkpoints else ", no checkpoint"
    what = f"training loop, {count} steps of EC on digits, {net}, {size}, {images}{saved}"
    return {"what": what, "against": "the compiled step alone", **times}
