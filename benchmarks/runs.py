"""Whole commands, as their user gives them: how they start, and how long a run evaluates."""

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import timing
from ec_jax.errors import TrainingError

STARTS = 5
_SHORT = {  # every stage
    "original.epochs": 1.0,
    "modules.epochs": 1.0,
    "unlearn.steps": 8,
    "evaluation.metrics": "accuracy",
}
_SMOKE = {"model.width": 4, "model.depth": 8}
_REFERENCES = ("original", "oracle")
_SET_HERE = ("GLIBC_TUNABLES", "JAX_")  # by the benchmarks' own start


def started(smoke: bool) -> dict[str, Any]:
    """Seconds from the start of Python to the end of ``--help``."""
    found = []
    for _ in range(timing.repeats(2 if smoke else STARTS)):
        seconds, _ = timing.timed(functools.partial(_python, "--help"))
        found.append(round(seconds, 3))
    return {"what": "python -m ec_jax.main --help", "against": "–", "starts": found}


def second_run(smoke: bool) -> dict[str, Any]:
    """A short run, beside the one before it, which compiled the same programs."""
    # Without modules a smoke test compiles less.
    fields = {**_SHORT, **({**_SMOKE, "method": "finetune"} if smoke else {})}
    load, times = os.getloadavg()[0], []
    for _ in range(timing.repeats(1 if smoke else 5)):
        with tempfile.TemporaryDirectory() as folder:
            run = functools.partial(_numbers, fields, Path(folder))
            (first, numbers), (second, again) = timing.timed(run), timing.timed(run)
        found = timing.largest_difference(numbers, again)
        timing.check(found, 0.0)
        times.append((second, first))
    what = "a short run of digits, all stages, compiled by an earlier one"
    against = "nothing compiled before"
    return {"what": what, "against": against, **timing.paired(found, load, np.array(times))}


def evaluation(smoke: bool) -> dict[str, Any]:
    """Seconds of a run's evaluation and of its unlearning, on Fashion-MNIST.

    A run before those that count trains the references and compiles. The others take them along,
    and measure them anew.
    """
    config = "digits" if smoke else "fashion_mnist"
    fields: dict[str, Any] = {**_SHORT, **_SMOKE} if smoke else {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _run(config, fields, folder / "first", folder / "cache")
        there = {f"{name}.checkpoint": folder / "first/checkpoints" / name for name in _REFERENCES}
        rows = [
            _run(config, fields | there, folder / f"run{i}", folder / "cache")["cost"]
            for i in range(timing.repeats(1 if smoke else 5))
        ]
    seconds = {
        stage: [row[stage]["seconds"] for row in rows]
        for stage in ("evaluate", "unlearn", "modules")
    }
    return {
        "what": f"evaluation of a run, all metrics of three models, {config}",
        "against": "its unlearning",
        "seconds_of": seconds,
    }


def _numbers(fields: dict[str, Any], cache: Path) -> list[float]:
    """Those of a run in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        found = _run("digits", fields, Path(folder) / "run", cache)
    return [value for numbers in found["models"].values() for value in numbers.values()]


def _run(config: str, fields: dict[str, Any], workdir: Path, cache: Path) -> Any:
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    _python(f"--config=configs/{config}.py", f"--workdir={workdir}", *flags, cache=cache)
    return json.loads((workdir / "metrics.json").read_text())


def _python(*arguments: str, cache: Path | None = None) -> None:
    own = {name: v for name, v in os.environ.items() if not name.startswith(_SET_HERE)}
    kept = {"XDG_CACHE_HOME": str(cache)} if cache else {}
    done = subprocess.run(
        [sys.executable, "-m", "ec_jax.main", *arguments],
        capture_output=True,
        text=True,
        cwd=timing.ROOT,
        env={**own, **kept, "JAX_PLATFORMS": "cpu"},
    )
    if done.returncode:
        raise TrainingError(f"a run ended with status {done.returncode}: {done.stderr.strip()}")


def in_words(entry: dict[str, Any]) -> str:
    """Medians, and the lowest and highest of the repeats."""
    if "starts" in entry:
        found = entry["starts"]
        spread = f"{min(found):.2f} to {max(found):.2f}, {len(found)} starts"
        return f"{statistics.median(found):.2f} s ({spread})"
    found, seconds = _shares(entry), entry["seconds_of"]
    spread = f"{min(found):.2f} to {max(found):.2f}, {len(found)} runs"
    medians = ", ".join(f"{stage} {statistics.median(of):.0f} s" for stage, of in seconds.items())
    return f"{share(entry):.2f}× ({spread}); {medians}"


def share(entry: dict[str, Any]) -> float:
    """Evaluation's time over unlearning's, the median of the runs."""
    return statistics.median(_shares(entry))


def _shares(entry: dict[str, Any]) -> list[float]:
    seconds = entry["seconds_of"]
    return [a / b for a, b in zip(seconds["evaluate"], seconds["unlearn"], strict=True)]
