"""Many runs that share what they start from: one original, oracle, proxy and modules a seed.

A cell is a config run in a folder of its own; what precedes unlearning is taken from a base
folder, where it was trained once. Both resume like any run.
"""

import json
import os
from pathlib import Path
from typing import Any

from ec_jax.errors import TrainingError
from ec_jax.pipeline import Experiment

FORERUNNERS = ("original", "oracle", "proxy", "modules")


def prepare(config: Any, base: Path) -> None:
    """Trains, in ``base``, whatever a method may start from.

    Args:
      config: complete and valid; the method does not matter.
      base: made if missing.
    """
    c = config.copy_and_resolve_references().unlock()
    c.method, c.ec.plugin, c.ec.proxy = "ec", False, 1.0  # which uses modules and a proxy
    c.stages = ",".join(FORERUNNERS)
    Experiment(c.lock(), base).run()


def run(config: Any, base: Path, cell: Path) -> dict[str, Any]:
    """Runs a cell, or finishes one that was cut off.

    Args:
      config: complete and valid, of the same data, model and seed as the base's.
      base: where ``prepare`` was.
      cell: the cell's workdir.

    Returns:
      The contents of its ``metrics.json``; where training could not go on, {"failed": why}.
    """
    result, failure = cell / "metrics.json", cell / "failed.json"
    for path in (result, failure):
        if path.is_file():
            return json.loads(path.read_text())
    checkpoints = cell / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for stage in FORERUNNERS:
        link, trained = checkpoints / stage, (base / "checkpoints" / stage).absolute()
        if trained.is_dir() and not link.exists():
            link.symlink_to(os.path.relpath(trained, checkpoints.resolve()))
    try:
        Experiment(config, cell).run()
    except TrainingError as error:
        failure.write_text(json.dumps({"failed": str(error)}))
        return {"failed": str(error)}
    return json.loads(result.read_text())
