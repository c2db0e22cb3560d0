"""Killed with SIGKILL at several moments and started again: the same parameters and metrics."""

import json
import os
import signal
import struct
import subprocess
import sys

import jax
import jpegs
import numpy as np
import pytest
from command import ROOT, WITH, config_of
from tensorboardX.proto.event_pb2 import Event

from ec_jax import checkpoint
from ec_jax.pipeline import Experiment

ARGUMENTS = [
    "--config=configs/digits.py",
    *("--config.model.width=4", "--config.original.epochs=1", "--config.modules.epochs=0.5"),
    *(
        "--config.data.augment=crop",
        "--config.unlearn.steps=12",
        "--config.unlearn.batch_norm=train",
    ),
    "--config.evaluation.metrics=accuracy,cka,variance",
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
    "evaluate: retain_test",
]


# Kills the process when it is about to open, make, rename or remove the K-th thing there.
AT_FILE = """
import os, signal, sys
seen = 0
def hook(event, args):
    global seen
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
        if str(args[0]).startswith("{workdir}"):
            seen += 1
            if seen == {k}:
                os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""


def start(workdir, before="", arguments=ARGUMENTS):
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            WITH.format(before, "ec_jax.main"),
            *arguments,
            f"--workdir={workdir}",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def finish(workdir, arguments=ARGUMENTS):
    process = start(workdir, arguments=arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def kill_after(workdir, line, arguments=ARGUMENTS):
    process = start(workdir, arguments=arguments)
    said = []
    for text in process.stdout:
        said.append(text)
        if text.startswith(line):
            break
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL, "".join(said)


def kill_at_file(workdir, k):
    """Whether the K-th thing came before the end."""
    process = start(workdir, AT_FILE.format(workdir=workdir, k=k))
    output, _ = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), output
    return process.returncode != 0


def scalars(folder):
    """The steps of all scalars in a training's event files."""
    steps = set()
    for path in folder.glob("events*"):
        content = path.read_bytes()
        while len(content) >= 12:
            (size,) = struct.unpack("Q", content[:8])
            event = Event.FromString(content[12 : 12 + size])
            steps |= {event.step} if event.summary.value else set()
            content = content[12 + size + 4 :]
    return steps


def results(workdir):
    """(metrics without seconds, {model: its arrays})."""
    metrics = json.loads((workdir / "metrics.json").read_text())
    for cost in metrics["cost"].values():
        (cost or {}).pop("seconds", None)  # a stage may be unused
    experiment = Experiment(config_of(workdir), workdir)
    return metrics, {m: experiment.model(m) for m in ("original", "oracle", "unlearned")}


@pytest.mark.slow
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
    for stage in ("original", "oracle", "modules", "unlearn"):
        steps = checkpoint.latest_step(tmp_path / "killed" / "checkpoints" / stage)
        assert scalars(tmp_path / "killed" / "tensorboard" / stage) == set(range(1, steps + 1))


@pytest.mark.slow
def test_killed_at_any_file_it_touches_a_run_ends_as_if_it_had_not_been(tmp_path):
    finish(tmp_path / "whole")
    killed = [kill_at_file(tmp_path / "killed", k) for k in (1, 2, 3, 5, 9, 25, 60, 110, 150, 190)]
    assert sum(killed) >= 8
    finish(tmp_path / "killed")
    metrics, models = results(tmp_path / "whole")
    again, models_again = results(tmp_path / "killed")
    assert again == metrics
    jax.tree.map(np.testing.assert_array_equal, models_again, models)


@pytest.mark.slow
def test_killed_amid_an_epoch_of_pictures_a_run_reads_on_where_it_was(tmp_path):
    folder = jpegs.folder(tmp_path / "data", train=12, test=4)
    (folder / "train" / "ant" / "0.jpg").write_bytes(b"no picture")
    arguments = [
        "--config=configs/default.py",
        *("--config.data.name=folder", f"--config.data.data_dir={folder}"),
        *("--config.data.image_size=16", "--config.data.resize=20", "--config.data.damaged=skip"),
        *("--config.data.augment=crop+flip", "--config.forget.classes=bee"),
        *("--config.model.depth=8", "--config.model.width=4", "--config.method=scrub"),
        # 47 pictures: no epoch is a whole number of batches.
        *("--config.data.batch_size=5", "--config.original.epochs=1.5"),
        *("--config.data.retain_batch_size=8", "--config.data.forget_batch_size=5"),
        *("--config.unlearn.steps=12", "--config.scrub.max_share=0.6"),
        *("--config.data.eval_batch_size=16", "--config.evaluation.neighbors=3"),
        *("--config.evaluation.metrics=accuracy,cka", "--config.evaluation.cka_batch_size=8"),
        *("--config.checkpoint.every=4", "--config.report.log_every=1"),
        "--config.parallel.devices=1",
    ]
    finish(tmp_path / "whole", arguments)
    for line in ("original: step 6/", "unlearn: step 3/", "unlearn: step 9/"):
        kill_after(tmp_path / "killed", line, arguments)
    output = finish(tmp_path / "killed", arguments)
    assert "data: 1 damaged training picture left out" in output
    metrics, models = results(tmp_path / "whole")
    again, models_again = results(tmp_path / "killed")
    assert again == metrics
    assert metrics["scenario"]["images"]["retain_train"] == 35
    jax.tree.map(np.testing.assert_array_equal, models_again, models)
