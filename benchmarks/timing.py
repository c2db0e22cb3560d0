"""Two ways to one value, timed in turn within one process."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("jax", "jaxlib", "numpy", "scikit-learn", "torch")


def compare(
    ours: Callable[[], Any],
    other: Callable[[], Any],
    *,
    pairs: int,
    difference: Callable[[Any, Any], float],
    allowed: float,
) -> dict[str, Any]:
    """Checks that two sides give the same, then times them alternately: A, B, A, B, …

    Whatever else the machine does meets both sides of a pair nearly alike, so the ratio of a
    pair is steadier than its times. The first call of each, which compiles, is the check's.

    Args:
      ours: returns its value only when that is there.
      other: the same for what it is compared with.
      pairs: repeats, >= 1.
      difference: of the two values, >= 0.
      allowed: the largest difference that counts as the same.

    Returns:
      ``difference``, every time in seconds, the ``ratio`` other / ours of the pairs (median,
      lowest, highest), the ratio of the two fastest times, and the machine's ``load`` before:
      processes that want a core, the mean of a minute.

    Raises:
      ValueError: the values differ by more.
    """
    found = difference(ours(), other())
    if not found <= allowed:
        raise ValueError(f"the two sides differ by {found}, more than {allowed}")
    load = os.getloadavg()[0]
    times = [(_seconds(ours), _seconds(other)) for _ in range(pairs)]
    ratios = [b / a for a, b in times]
    a, b = zip(*times, strict=True)
    return {
        "difference": found,
        "load": round(load, 2),
        "ours_seconds": [round(t, 6) for t in a],
        "other_seconds": [round(t, 6) for t in b],
        "ratio": {
            "median": round(statistics.median(ratios), 3),
            "lowest": round(min(ratios), 3),
            "highest": round(max(ratios), 3),
            "fastest": round(min(b) / min(a), 3),
        },
    }


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def largest_difference(a: Any, b: Any) -> float:
    """max |a − b| of two numbers or arrays of one shape; NaN where either holds one."""
    return float(np.max(np.abs(np.asarray(a) - np.asarray(b))))


def machine() -> dict[str, Any]:
    """Cores, processor, system and versions: what a time depends on."""
    return {
        "cores": os.cpu_count(),
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
