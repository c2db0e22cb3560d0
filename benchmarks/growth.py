"""How a step of EC grows: ``python -m benchmarks.growth NAME [--smoke]`` measures one series.

Each is measured in a process of its own, as the devices of one are chosen before it computes.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import step
from ec_jax import methods, parallel

MODEL, REPEATS = "resnet18_w16", 5
IMAGES = 64  # of each stream, where they do not grow
ROOT = Path(__file__).resolve().parent.parent


def _images(size: int, smoke: bool) -> tuple[step.Work, int]:
    return step.ec_work(MODEL, smoke, images=size), 1


def _classes(count: int, smoke: bool) -> tuple[step.Work, int]:
    return step.ec_work(MODEL, smoke, images=IMAGES, classes=count), 1


def _points(count: int, smoke: bool) -> tuple[step.Work, int]:
    work = step.ec_work(MODEL, smoke, images=IMAGES)
    points = work.network.points
    work.config.ec.points = ",".join(points[len(points) - count :])
    return dataclasses.replace(work, loss=methods.build(work.config, points).loss), 1


def _devices(count: int, smoke: bool) -> tuple[step.Work, int]:
    return step.ec_work(MODEL, smoke, images=IMAGES), count


# {name: (what grows, its values, those of a smoke test, how its work is made)}
SERIES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], Callable]] = {
    "images": ("images of each stream", (32, 64, 128, 256), (8, 16), _images),
    "classes": ("classes", (10, 100, 1000), (10, 20), _classes),
    "points": ("supervision points", (1, 2, 3, 4), (1, 2), _points),
    "devices": ("devices, the batch as it is", (1, 2, 4, 8), (1, 2), _devices),
}


def measured(name: str, smoke: bool) -> dict[str, Any]:
    """One series, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", name, *["--smoke"] * smoke]
    done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def series(name: str, smoke: bool) -> dict[str, Any]:
    """What a step takes at every value, and the exponents of the growth.

    Returns:
      ``values``; of each of them ``seconds`` (the least of five), ``flops`` (of all devices) and
      ``bytes`` (temporary, of one device); and ``exponents``: the slopes of their logarithms.
    """
    what, values, tiny, make = SERIES[name]
    values = tiny if smoke else values
    parallel.make_mesh(max(values) if make is _devices else 1)  # makes as many virtual ones
    rows = [_one(*make(value, smoke)) for value in values]
    kinds = ("seconds", "flops", "bytes")
    found = dict(zip(kinds, map(list, zip(*rows, strict=True)), strict=True))
    logs = {kind: np.polyfit(np.log(values), np.log(found[kind]), 1)[0] for kind in kinds}
    return {
        "what": f"EC's step, {MODEL}",
        "against": what,
        "values": list(values),
        **found,
        "exponents": {kind: round(float(slope), 2) for kind, slope in logs.items()},
    }


def _one(work: step.Work, devices: int) -> tuple[float, int, int]:
    made = step.ours(work, step.variables(work.network), devices)
    made.step()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        made.step()
        times.append(time.perf_counter() - start)
    return round(min(times), 5), made.flops, made.bytes


def main(given: list[str]) -> None:
    """Prints one series as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=SERIES)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args(given)
    jax.config.update("jax_platforms", "cpu")
    print(json.dumps(series(arguments.name, arguments.smoke)))


if __name__ == "__main__":
    main(sys.argv[1:])
