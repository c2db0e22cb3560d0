"""The training loop of a run beside the compiled step alone: what all around the step costs."""

import contextlib
import dataclasses
import io
import tempfile
from pathlib import Path
from typing import Any

import jax

from benchmarks import timing
from configs import digits
from ec_jax import parallel, pipeline
from ec_jax.checkpoint import Checkpoints
from ec_jax.training import plan
from ec_jax.training.loop import train
from ec_jax.training.optimizer import make_optimizer
from ec_jax.training.state import create
from ec_jax.training.steps import Steps, make_steps

STEPS, WIDTH = 200, 16
SMOKE = 12, 4


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


def digits_ec(smoke: bool) -> dict[str, Any]:
    """EC on digits, a checkpoint every 100 steps and a line every 20, as by default."""
    count, width = SMOKE if smoke else (STEPS, WIDTH)
    c = digits.get_config().unlock()
    c.model.width, c.unlearn.steps = width, count
    scenario, method = pipeline.checked(c.lock())
    network = scenario.network(modules=True)
    training = plan.plan("unlearn", c, scenario.splits, network.points, method)
    optimizer = make_optimizer(c.unlearn.optimizer, count)
    variables = jax.jit(network.init, static_argnums=1)(jax.random.key(0), scenario.image_shape)
    made = create(network, jax.device_get(variables), optimizer, training.trained, training.streams)
    made, mesh = jax.device_get(made), scenario.mesh
    steps = make_steps(scenario, training, network, optimizer, {})
    counted = steps.flops(made, count)
    batches = [steps._batch(step, 1) for step in range(count)]

    def bare() -> float:
        state = parallel.replicate(made, mesh)
        for batch in batches:
            state, metrics = steps.update(state, steps.shared, batch)
        return float(jax.block_until_ready((state, metrics))[1]["loss"])

    def loop() -> float:
        seen = _Seen(**{f.name: getattr(steps, f.name) for f in dataclasses.fields(Steps)})
        seen = dataclasses.replace(seen, counted=counted)
        state = parallel.replicate(made, mesh)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            checkpoints = Checkpoints(Path(folder) / "checkpoints", c.checkpoint.every, 2)
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
        pairs=2 if smoke else 7,
        difference=timing.largest_difference,
        allowed=1e-6,
    )
    what = f"training loop, {count} steps of EC on digits, width {width}, logs and checkpoints"
    return {"what": what, "against": "the compiled step alone", "target": 0.97, **times}
