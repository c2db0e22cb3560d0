"""Passes of a model over a split in a whole experiment: counted, not timed."""

import contextlib
import io
import math
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from configs import digits
from ec_jax import pipeline
from ec_jax.evaluation import features

CHANGES = {
    "original.epochs": 3.0,
    "modules.epochs": 1.0,
    "unlearn.steps": 12,
    "parallel.devices": 1,
}
SMOKE = {**CHANGES, "model.width": 4, "evaluation.metrics": "accuracy,cka,knn"}


class Passes:
    """``extract`` that looks at every batch the model is given."""

    def __init__(self):
        self.counts: dict[str, dict[str, int]] = {}

    def extract(
        self, forward: Any, images: np.ndarray, labels: np.ndarray, size: int, name: str
    ) -> features.Features:
        """Extracts, and checks that every image was seen once, in order, then padding only."""
        seen = []

        def watched(batch: np.ndarray) -> Any:
            seen.append(batch)
            return forward(batch)

        out = features.extract(watched, images, labels, size, name)
        rows, count = np.concatenate(seen), len(images)
        padding = rows[count:]
        right = np.array_equal(rows[:count], images) and (padding == images[-1]).all()
        if not right or len(seen) != math.ceil(count / size) or name in self.counts:
            raise ValueError(f"{name}: {len(seen)} calls, {len(rows)} rows for {count} images")
        key = name.removeprefix("evaluate: ")
        self.counts[key] = {"images": count, "calls": len(seen), "padding": len(padding)}
        return out


def passes(smoke: bool) -> dict[str, Any]:
    """Runs digits, hardly trained, with every metric, and counts while it evaluates."""
    config = digits.get_config()
    config.update_from_flattened_dict(SMOKE if smoke else CHANGES)
    counted = Passes()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(pipeline, "extract", counted.extract),
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
