"""Killed with SIGKILL at several moments and started again: the same parameters and metrics."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from ec_jax import checkpoint
from ec_jax.pipeline import Experiment

ROOT = Path(__file__).parent.parent.parent
COMMAND = [
    *(sys.executable, "-m", "ec_jax.main", "--config=configs/digits.py"),
    *("--config.model.width=4", "--config.original.epochs=1", "--config.modules.epochs=0.5"),
    *(
        "--config.data.augment=crop",
        "--config.unlearn.steps=12",
        "--config.unlearn.batch_norm=train",
    ),
    *("--config.checkpoint.every=4", "--config.report.log_every=1", "--config.parallel.devices=1"),
]
# What a run has just said when it is killed: inside every stage, on and off checkpoints.
MOMENTS = [
    "original: step 3/",
    "original: step 8/",
    "oracle: step 14/",
    "modules: step 5/",
    "unlearn: step 1/",
    "unlearn: step 11/",
    "evaluate: oracle on forget_test",
]


def start(workdir):
    return subprocess.Popen(
        [*COMMAND, f"--workdir={workdir}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def finish(workdir):
    process = start(workdir)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def kill_after(workdir, line):
    process = start(workdir)
    said = []
    for text in process.stdout:
        said.append(text)
        if text.startswith(line):
            break
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL, "".join(said)


def results(workdir):
    """(metrics without seconds, {model: its arrays})."""
    metrics = json.loads((workdir / "metrics.json").read_text())
    for cost in metrics["cost"].values():
        del cost["seconds"]
    config = _config(workdir)
    experiment = Experiment(config, workdir)
    return metrics, {m: experiment.model(m) for m in ("original", "oracle", "unlearned")}


def _config(workdir):
    from configs import digits

    config = digits.get_config().unlock()
    config.update(json.loads((workdir / "config.json").read_text()))
    return config.lock()


def test_killed_at_every_stage_a_run_ends_as_if_it_had_not_been(tmp_path):
    finish(tmp_path / "whole")
    for line in MOMENTS:
        kill_after(tmp_path / "killed", line)
    output = finish(tmp_path / "killed")
    assert "unlearn: done" in output
    metrics, models = results(tmp_path / "whole")
    again, models_again = results(tmp_path / "killed")
    assert again == metrics
    jax.tree.map(np.testing.assert_array_equal, models_again, models)
    steps = checkpoint.Checkpoints(tmp_path / "killed" / "checkpoints" / "unlearn")
    assert steps.latest_step() == 12
