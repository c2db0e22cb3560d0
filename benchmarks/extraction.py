"""Passes of a model over a split in a whole experiment: counted, not timed."""

import contextlib
import functools
import io
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from configs import digits
from ec_jax import pipeline
from ec_jax.errors import TrainingError
from ec_jax.evaluation import features, measure

CHANGES = {
    "original.epochs": 3.0,
    "modules.epochs": 1.0,
    "unlearn.steps": 12,
    "parallel.devices": 1,
}
SMOKE = {
    **CHANGES,
    "original.epochs": 1.0,
    "model.depth": 8,
    "model.width": 4,
    "evaluation.metrics": "accuracy,cka,knn",
}


class Passes:
    """``extract`` that looks at every batch the models are given."""

    def __init__(self):
        self.counts: dict[str, dict[str, int]] = {}

    def extract(
        self,
        forwards: Mapping[str, features.Forward],
        images: np.ndarray,
        labels: np.ndarray,
        size: int,
        name: str,
        watch: features.Watch | None,
        part: tuple[int, int],
    ) -> dict[str, features.Features]:
        """Extracts, and checks that every image was seen once, in order, then padding only."""
        seen = {model: [] for model in forwards}

        def watched(model: str, batch: np.ndarray) -> Any:
            seen[model].append(batch)
            return forwards[model](batch)

        bound = {model: functools.partial(watched, model) for model in forwards}
        out = features.extract(bound, images, labels, size, name, watch, part)
        split = name.removeprefix("evaluate: ")
        for model, batches in seen.items():
            self._count(f"{model} on {split}", batches, images, size)
        return out

    def _count(
        self, name: str, batches: Sequence[np.ndarray], images: np.ndarray, size: int
    ) -> None:
        rows, count = np.concatenate(batches), len(images)
        padding = rows[count:]
        right = np.array_equal(rows[:count], images) and (padding == images[-1]).all()
        if not right or len(batches) != math.ceil(count / size) or name in self.counts:
            raise TrainingError(f"{name}: {len(batches)} calls, {len(rows)} rows, {count} images")
        self.counts[name] = {"images": count, "calls": len(batches), "padding": len(padding)}


def passes(smoke: bool) -> dict[str, Any]:
    """Runs digits, hardly trained, with every metric, and counts while it evaluates."""
    config = digits.get_config()
    config.update_from_flattened_dict(SMOKE if smoke else CHANGES)
    counted = Passes()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(measure, "extract", counted.extract),
        contextlib.redirect_stdout(io.StringIO()),  # the report of a model hardly trained
    ):
        pipeline.Experiment(config, Path(folder) / "run").run()
    total = {
        what: sum(c[what] for c in counted.counts.values())
        for what in ("images", "calls", "padding")
    }
    return {
        "what": "images through a model in evaluation: digits, three models, four splits",
        "against": "each image once a model",
        "passes": counted.counts,
        "total": total,
    }
