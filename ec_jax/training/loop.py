"""The one training loop: steps, checkpoints, and a halt when the numbers go bad."""

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ec_jax import processes, termination
from ec_jax.checkpoint import Checkpoints
from ec_jax.errors import TrainingError
from ec_jax.training.profile import Profile
from ec_jax.training.progress import Progress
from ec_jax.training.state import TrainState
from ec_jax.training.steps import Steps


def train(
    name: str,
    state: TrainState,
    step_fn: Steps,
    *,
    steps: int,
    checkpoints: Checkpoints,
    log_every: int,
    min_spread: float,
    remedy: str,
    folder: Path,
    profile: int = 0,
    before: Mapping[str, float] | None = None,
) -> None:
    """Trains up to ``steps`` updates, from the newest checkpoint where there is one.

    Args:
      name: of the training, for its messages.
      state: at step 0; also the template of what is restored.
      step_fn: makes them.
      steps: updates in all.
      checkpoints: where the state goes, every ``checkpoints.every`` steps and at the end.
      log_every: steps between two log lines; as often the metrics are looked at.
      min_spread: the smallest allowed ratio of the features' variance to its start.
      remedy: what to do about numbers that go bad, for the message.
      folder: for TensorBoard.
      profile: steps of which a profile is recorded.
      before: ``seconds``, ``images`` and, where known, ``flops`` spent before the first step.

    With a state its cost is saved: ``seconds`` (of the steps up to it, over all resumes; what a
    killed start did after its last checkpoint does not count), ``steps``, ``images`` and
    ``flops``: floating point operations of all devices, left out where they are not known. The
    step that is tried at the end is no part of the training, and counts as seconds alone.

    A checkpoint is written while training goes on; when this returns, all are.

    Raises:
      TrainingError: a loss is not finite, or the features collapsed. Checkpoints written
        before that step stay; none is written after it.
      Terminated: SIGTERM came; the step that was at work is saved.
    """
    before = before or {"seconds": 0.0, "images": 0, "flops": 0}
    spent, images = before["seconds"], before["images"]
    if checkpoints.latest_step() is not None:
        state, cost = checkpoints.restore(state)
        spent, images = cost["seconds"], cost["images"]
    start = int(state.step)
    # The first step is compiled, which is silent and may take a minute.
    begun = f"resumed at step {start}/{steps}" if start else f"{steps} steps"
    print(f"{name}: {begun}; compiling", flush=True)
    began = time.monotonic()
    flops = step_fn.flops(state, steps)  # before a step takes the state over
    progress = Progress(name, start, steps, folder)
    profiled = Profile(folder / name, profile)
    # Metrics stay on the device until they are looked at: the host must not wait for a step.
    unseen: dict[int, tuple[int, dict[str, jax.Array]]] = {}
    # What a step left is seen only by the next one: no state is saved before that was tried.
    held: tuple[TrainState, dict[str, float]] | None = None

    def cost(step: int) -> dict[str, float]:
        seconds = spent + time.monotonic() - began
        found = {"seconds": round(seconds, 3), "steps": step, "images": images}
        if flops and "flops" in before:
            found["flops"] = before["flops"] + flops(step)
        return found

    try:
        with termination.deferred():
            done = start
            while done < steps:
                most = min(_left(done, checkpoints.every), _left(done, log_every), steps - done)
                count = step_fn.together(done, most)
                state, metrics = step_fn(state, done, count)
                unseen[done] = count, metrics
                done += count
                progress.advance(done)
                profiled.advance(count, state)
                save = done % checkpoints.every == 0 or done == steps
                look = save or done % log_every == 0
                ends = _ends(look)
                if look or ends or held:
                    metrics, read = _look(name, unseen, min_spread, remedy)
                    images += read
                    unseen.clear()
                if look or ends:
                    progress.show(done, metrics)
                if held:
                    checkpoints.save(*held)
                    held = None
                if ends or done == steps:  # no step comes after it: one is tried, and forgotten
                    _, ahead = step_fn(_copy(state), done)
                    _look(name, {done: (1, ahead)}, min_spread, remedy)
                    checkpoints.save(state, cost(done))
                elif save:
                    held = _copy(state), cost(done)
                if ends:
                    checkpoints.wait()
                    print(f"{name}: saved at step {done}/{steps}", flush=True)
                    raise termination.Terminated
            checkpoints.wait()
    finally:
        profiled.close()
        progress.close()


def _copy(state: TrainState) -> TrainState:
    """One whose buffers no step takes over, or that it may take over while the state stays."""
    return jax.tree.map(jnp.copy, state)


def _left(done: int, every: int) -> int:
    """Steps up to the next multiple of ``every``."""
    return every - done % every


def _ends(look: bool) -> bool:
    """SIGTERM came to one of the processes, which all end at the same step: when they look."""
    if processes.alone():
        return termination.asked()
    return look and processes.any_process(termination.asked())


def _look(name: str, unseen: dict, min_spread: float, remedy: str) -> tuple[dict[str, float], int]:
    """The newest of each metric as numbers, and the images of all steps; all are checked."""
    newest: dict[str, float] = {}
    images = 0
    for step, metrics in _one_by_one(unseen):
        images += int(metrics.pop("images"))
        newest |= metrics  # steps that read other streams have other metrics
        # The gradient is looked at too: an infinite one spoils the parameters a step later.
        for key in ("loss", "grad_norm"):
            if not math.isfinite(metrics[key]):
                raise TrainingError(f"{name}: step {step + 1}: {key} is {metrics[key]}; {remedy}")
        spread = metrics["spread"]
        if not spread >= min_spread:
            raise TrainingError(
                f"{name}: step {step + 1}: the features collapsed (variance {spread:.1e} of its "
                f"start, allowed {min_spread:.1e}); {remedy}"
            )
    return newest, images


def _one_by_one(unseen: dict) -> Iterator[tuple[int, dict[str, float]]]:
    for first, (count, on_device) in unseen.items():
        found = {key: np.atleast_1d(value) for key, value in jax.device_get(on_device).items()}
        for i in range(count):
            yield first + i, {key: float(values[i]) for key, values in found.items()}
