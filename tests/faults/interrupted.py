"""Runs that are ended from outside, and what they have come to."""

import json
import os
import signal
import struct
import subprocess
import sys

from command import ROOT, WITH, config_of
from tensorboardX.proto.event_pb2 import Event

from ec_jax.pipeline import Experiment

ARGUMENTS = [
    "--config=configs/digits.py",
    *("--config.model.depth=8", "--config.model.width=4", "--config.original.epochs=1"),
    *("--config.modules.epochs=0.5", "--config.data.augment=crop"),
    *("--config.unlearn.steps=12", "--config.unlearn.batch_norm=train"),
    "--config.evaluation.metrics=accuracy,cka,variance",
    *("--config.checkpoint.every=4", "--config.report.log_every=1", "--config.parallel.devices=1"),
]


def start(workdir, before="", arguments=ARGUMENTS):
    """A run in a process of its own, whose output can be read."""
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
    """Runs to the end; all that the run said."""
    process = start(workdir, arguments=arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def end_after(workdir, line, how=signal.SIGKILL, arguments=ARGUMENTS):
    """Sends a signal when a run has said a line that begins so; (exit status, all it said)."""
    process = start(workdir, arguments=arguments)
    said = []
    for text in process.stdout:
        said.append(text)
        if text.startswith(line):
            break
    process.send_signal(how)
    rest, _ = process.communicate()
    return process.returncode, "".join(said) + rest


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
