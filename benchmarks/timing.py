"""Two ways to one value, timed in turn within one process."""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ec_jax.errors import TrainingError

ROOT = Path(__file__).resolve().parent.parent
_most: list[int] = []  # pairs, where fewer are wanted
PACKAGES = ("jax", "jaxlib", "numpy", "scikit-learn", "torch")


@contextlib.contextmanager
def at_most(pairs: int) -> Iterator[None]:
    """Within, ``compare`` times no more pairs."""
    _most.append(pairs)
    try:
        yield
    finally:
        _most.pop()


def repeats(count: int) -> int:
    """``count``, or what ``at_most`` allows."""
    return min([count, *_most])


def compare(
    ours: Callable[[], Any],
    other: Callable[[], Any],
    *,
    pairs: int,
    difference: Callable[[Any, Any], float],
    allowed: float,
    twice: bool = True,
) -> dict[str, Any]:
    """Checks that two sides give the same, then times them alternately: A, B, A, B, …

    Whatever else the machine does meets both sides of a pair nearly alike, so the ratio of a
    pair is steadier than its times. The first call of each, which compiles, is the check's.
    Each time is that of a side's second call in a row: threads that the other side left
    spinning, as OpenMP's are, would else take the cores of a call of a few milliseconds.

    Args:
      ours: returns its value only when that is there.
      other: the same for what it is compared with.
      pairs: repeats, >= 1; fewer within ``at_most``.
      difference: of the two values, >= 0.
      allowed: the largest difference that counts as the same.
      twice: False for calls of many seconds, of which the first milliseconds do not matter: each is
        timed at once.

    Returns:
      ``difference``, the machine's ``load`` before (processes that want a core, the mean of a
      minute), every time in seconds, also of all cores together (``_cpu``), and of other / ours
      the ``ratio``: median, lowest and highest of the pairs, and that of the smallest ``cpu``.

    Raises:
      TrainingError: the values differ by more.
    """
    found = difference(ours(), other())
    check(found, allowed)
    load, pairs = os.getloadavg()[0], repeats(pairs)
    times = np.array([(_seconds(ours, twice), _seconds(other, twice)) for _ in range(pairs)])
    result, cpu = paired(found, load, times[..., 0]), times[..., 1]
    least = cpu.min(axis=0)
    result["ours_seconds_cpu"], result["other_seconds_cpu"] = cpu.T.round(6).tolist()
    result["ratio"] = result.pop("ratio") | {"cpu": round(float(least[1] / least[0]), 3)}
    return result


def check(difference: float, allowed: float) -> None:
    """Refuses to compare two sides whose values differ by more than is allowed, or are no numbers.

    Raises:
      TrainingError: they do.
    """
    if not difference <= allowed:
        raise TrainingError(f"the two sides differ by {difference}, more than {allowed}")


def paired(difference: float, load: float, times: np.ndarray) -> dict[str, Any]:
    """What ``compare`` returns, without the cores' seconds, of the seconds [pairs, (ours, other)].

    Args:
      difference: of the two values.
      load: of the machine, before.
      times: seconds that passed.
    """
    ratios = times[:, 1] / times[:, 0]
    ratio = {"median": np.median(ratios), "lowest": ratios.min(), "highest": ratios.max()}
    return {
        "difference": difference,
        "load": round(load, 2),
        "ours_seconds": times[:, 0].round(6).tolist(),
        "other_seconds": times[:, 1].round(6).tolist(),
        "ratio": {name: round(float(value), 3) for name, value in ratio.items()},
    }


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds that it took, what it gives)."""
    start = time.perf_counter()
    value = run()
    return time.perf_counter() - start, value


def _seconds(run: Callable[[], Any], twice: bool) -> tuple[float, float]:
    """Seconds of a (second) call that passed, and seconds of all cores that this process took."""
    if twice:
        run()
    start, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - cpu


def largest_difference(a: Any, b: Any) -> float:
    """max |a − b| of two numbers or arrays of one shape; NaN where either holds one."""
    return float(np.max(np.abs(np.asarray(a) - np.asarray(b))))


def child(*arguments: str) -> Any:
    """What ``python -m`` of these arguments prints as its last line, JSON, in a process of its own.

    Raises:
      TrainingError: it fails; what it said on stderr is there.
    """
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise TrainingError(f"{' '.join(arguments)} ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def cores() -> int:
    """Cores that this process may use, and JAX therefore does."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def machine() -> dict[str, Any]:
    """Cores, processor, system and versions: what a time depends on."""
    return {
        "cores": cores(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
