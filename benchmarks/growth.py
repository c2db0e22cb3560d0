"""How a step of EC and an evaluation grow: ``python -m benchmarks.growth NAME [--smoke]``.

Each is measured in a process of its own, as the devices of one are chosen before it computes.
"""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import memory, step, timing
from configs import digits
from ec_jax import methods, parallel
from ec_jax.data.sources import Dataset
from ec_jax.evaluation import measure, suite
from ec_jax.evaluation.features import Context, Features, extract
from ec_jax.scenario import Scenario

MODEL, REPEATS = "resnet18_w16", 5
IMAGES = 64  # of each stream, where they do not grow; a smoke test takes its own


def _images(size: int, smoke: bool) -> tuple[step.Work, int]:
    return step.ec_work(MODEL, smoke, images=size), 1


def _fixed(smoke: bool, **more: Any) -> step.Work:
    return step.ec_work(MODEL, smoke, images=None if smoke else IMAGES, **more)


def _classes(count: int, smoke: bool) -> tuple[step.Work, int]:
    return _fixed(smoke, classes=count), 1


def _points(count: int, smoke: bool) -> tuple[step.Work, int]:
    work = _fixed(smoke)
    points = work.network.points
    work.config.ec.points = ",".join(points[len(points) - count :])
    return dataclasses.replace(work, loss=methods.build(work.config, points).loss), 1


def _devices(count: int, smoke: bool) -> tuple[step.Work, int]:
    return _fixed(smoke), count


# {name: (what grows, its values, those of a smoke test, how its work is made)}
SERIES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], Callable]] = {
    "images": ("images of each stream", (32, 64, 128, 256), (8, 16), _images),
    "classes": ("classes", (10, 100, 1000), (10, 20), _classes),
    "points": ("supervision points", (1, 2, 3, 4), (1, 2), _points),
    "devices": ("devices, the batch as it is", (1, 2, 4, 8), (1, 2), _devices),
}


EVALUATION = "evaluation"
NAMES = (*SERIES, EVALUATION)
_TIMES = (1, 2, 4, 8), (1, 2)  # how often the images are there, and in a smoke test
_SMOKE = {
    "model.depth": 8,
    "model.width": 4,
    "evaluation.idi_steps": 2,
    "evaluation.recovery_steps": 2,
}


def measured(name: str, smoke: bool) -> dict[str, Any]:
    """One series, from a process of its own; an evaluation from one for every value."""
    given = ("benchmarks.growth", name, *["--smoke"] * smoke)
    if name != EVALUATION:
        return timing.child(*given)
    return evaluation([timing.child(*given, f"--times={times}") for times in _TIMES[smoke]])


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
    return {
        "what": f"EC's step, {MODEL}",
        "against": what,
        "values": list(values),
        **found,
        "exponents": _exponents(values, found),
    }


def _exponents(values: Sequence[int], found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The slope of each one's logarithm against that of the values."""
    return {
        name: round(float(np.polyfit(np.log(values), np.log(those), 1)[0]), 2)
        for name, those in found.items()
    }


class _More(Scenario):
    """Digits, of which each image is there several times, every time with other noise."""

    def __init__(self, config: Any, times: int):
        super().__init__(config)
        self._times = times

    @functools.cached_property
    def data(self) -> Dataset:
        """As of ``Scenario``."""
        found, draw = super().data, np.random.default_rng(0)
        made = {}
        for part in ("train", "test"):
            images = np.repeat(getattr(found, f"{part}_images"), self._times, axis=0)
            noise = draw.integers(-16, 17, images.shape)
            made[f"{part}_images"] = np.clip(images + noise, 0, 255).astype(np.uint8)
            for what in ("labels", "classes"):
                name = f"{part}_{what}"
                made[name] = np.repeat(getattr(found, name), self._times)
        return dataclasses.replace(found, **made)


def evaluation(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What an evaluation of one model takes on more and more images, metric by metric.

    Args:
      found: of every size what ``evaluated`` gives.

    Returns:
      ``values`` (images of all splits); ``seconds`` of all; ``parts``: those of each metric and
      of ``extract``, the passes of the model; ``peak_mib``, the process's largest memory; and
      ``exponents`` of the times.
    """
    values = [one["images"] for one in found]
    parts = {name: [one["seconds"][name] for one in found] for name in found[0]["seconds"]}
    seconds = [round(sum(one["seconds"].values()), 5) for one in found]
    return {
        "what": f"all metrics of a model, digits, {found[0]['shape']}",
        "against": "images, of each split as many times",
        "values": values,
        "seconds": seconds,
        "peak_mib": [one["peak_mib"] for one in found],
        "parts": parts,
        "exponents": _exponents(values, {"seconds": seconds, **parts}),
    }


def evaluated(times: int, smoke: bool) -> dict[str, Any]:
    """One evaluation, of every image so many times."""
    c = digits.get_config()
    c.model.width = 16
    if smoke:
        c.update_from_flattened_dict(_SMOKE)
    scenario = _More(c, times)
    seconds = _evaluated(scenario)
    return {
        "shape": "x".join(map(str, scenario.image_shape[:2])),
        "images": sum(map(len, scenario.measured.values())),
        "seconds": {name: round(value, 5) for name, value in seconds.items()},
        "peak_mib": round(memory.peak_mib()),
    }


def _evaluated(scenario: Scenario) -> dict[str, float]:
    """Seconds of every part, the second time, when all is compiled."""
    mesh, forward = scenario.mesh, measure.make_forward(scenario)
    tree = step.variables(scenario.network(modules=False), scenario.image_shape)
    models = {"original": {kind: part["backbone"] for kind, part in tree.items()}}
    subject, tree = measure.subjects(scenario, models)["original"], parallel.replicate(tree, mesh)
    size = measure.batch_size(scenario)

    def passes() -> dict[str, Features]:
        splits = {}
        for split, rows in scenario.measured.items():
            images, labels = scenario.data.images_and_labels(split, rows)
            model = {"it": lambda images: forward(tree, parallel.shard(images, mesh))}
            splits |= {split: extract(model, images, labels, size)["it"]}
        return splits

    found = {}
    for _ in range(2):
        found["extract"], taken = timing.timed(passes)
        context = Context(scenario.config, {"original": taken}, subject, mesh)
        for name, metric in suite.METRICS.items():
            # Agreement is of a model and the references.
            if hasattr(metric, "run") and name != "agreement":
                found[name], _ = timing.timed(functools.partial(metric.run, taken, context))
    return found


def _one(work: step.Work, devices: int) -> tuple[float, int, int]:
    made = step.ours(work, step.variables(work.network), devices)
    made.step()
    times = [timing.timed(made.step)[0] for _ in range(REPEATS)]
    return round(min(times), 5), made.flops, made.bytes


def main(given: list[str]) -> None:
    """Prints one series as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--times", type=int, default=1)
    arguments = parser.parse_args(given)
    jax.config.update("jax_platforms", "cpu")
    if arguments.name == EVALUATION:
        print(json.dumps(evaluated(arguments.times, arguments.smoke)))
    else:
        print(json.dumps(series(arguments.name, arguments.smoke)))


if __name__ == "__main__":
    main(sys.argv[1:])
