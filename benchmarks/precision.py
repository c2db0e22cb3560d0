"""Whole experiments in bfloat16 and in float32: whether their models are as good."""

import contextlib
import io
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import timing
from configs import digits
from ec_jax import pipeline

SMOKE = {
    "model.width": 4,
    "model.depth": 8,
    "original.epochs": 1.0,
    "modules.epochs": 1.0,
    "unlearn.steps": 8,
}
EITHER = {"evaluation.metrics": "accuracy"}
TYPES = ("bfloat16", "float32")
# {(model, key): what the page calls it}
NUMBERS = {
    ("original", "accuracy/retain_test"): "original, retain",
    ("original", "accuracy/forget_test"): "original, forget",
    ("unlearned", "accuracy/retain_test"): "unlearned, retain",
    ("unlearned", "accuracy/forget_test"): "unlearned, forget",
}


def bfloat16(smoke: bool) -> dict[str, Any]:
    """Digits from nothing to the unlearned model by EC, in both types, with the same seeds."""
    seeds = range(timing.repeats(1 if smoke else 3))
    runs = {kind: [_models(kind, seed, smoke) for seed in seeds] for kind in TYPES}
    numbers = {
        title: {kind: [round(m[model][key], 3) for m in runs[kind]] for kind in TYPES}
        for (model, key), title in NUMBERS.items()
    }
    return {
        "what": "accuracy on test images of digits, EC, bfloat16",
        "against": "float32, the same seeds",
        "seeds": list(seeds),
        "accuracy": numbers,
    }


def _models(kind: str, seed: int, smoke: bool) -> dict[str, dict[str, float]]:
    config = digits.get_config()
    config.update_from_flattened_dict({**EITHER, **(SMOKE if smoke else {}), "model.dtype": kind})
    config.seed = seed
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),  # reports
    ):
        pipeline.Experiment(config, Path(folder) / "run").run()
        return json.loads((Path(folder) / "run" / "metrics.json").read_text())["models"]


def differences(values: dict[str, list[float]]) -> list[float]:
    """bfloat16 − float32 of every seed, in points."""
    return [a - b for a, b in zip(*(values[kind] for kind in TYPES), strict=True)]


def in_words(accuracy: dict[str, dict[str, list[float]]]) -> str:
    """Means of both types, and the mean, lowest and highest difference of the seeds."""
    parts = []
    for title, values in accuracy.items():
        means = " and ".join(f"{statistics.mean(values[kind]):.1f}" for kind in TYPES)
        found = differences(values)
        spread = f"{statistics.mean(found):+.1f}, {min(found):+.1f} to {max(found):+.1f}"
        parts.append(f"{title}: {means} % ({spread})")
    return "; ".join(parts)
