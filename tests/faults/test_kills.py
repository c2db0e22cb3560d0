"""Killed with SIGKILL at any moment and started again: the same parameters and metrics."""

import signal
import time

import jax
import jpegs
import numpy as np
import pytest
from interrupted import end_after, finish, results, scalars, start

from ec_jax import checkpoint

KILLS = 25
STAGES = {"original", "oracle", "modules", "unlearn", "evaluate"}
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


def killed(workdir, draw):
    """The stage amid which a run was killed, at a moment that is drawn; none if it had ended."""
    before = []
    if draw.random() < 0.4:  # at a file that it touches
        process = start(workdir, AT_FILE.format(workdir=workdir, k=draw.integers(1, 150)))
    else:  # some time after something that it says
        process = start(workdir)
        for _ in range(draw.integers(1, 12)):
            before.append(process.stdout.readline())
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
    output, _ = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), output
    lines = ("".join(before) + output).splitlines()
    return (lines[-1].partition(":")[0] if lines else "start") if process.returncode else None


@pytest.mark.slow
def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(tmp_path):
    finish(tmp_path / "whole")
    metrics, models = results(tmp_path / "whole")
    draw, stages, runs = np.random.default_rng(0), [], 1
    while len(stages) < KILLS:
        if stage := killed(tmp_path / f"killed{runs}", draw):
            stages.append(stage)
        else:
            runs += 1  # it had come to its end
    # The machine's speed has a part in it: what no moment fell into gets one more kill.
    for stage in sorted(STAGES - set(stages)):
        runs += 1
        status, output = end_after(tmp_path / f"killed{runs}", f"{stage}: ")
        assert status == -signal.SIGKILL, output
    for run in range(1, runs + 1):
        workdir = tmp_path / f"killed{run}"
        finish(workdir)
        again, models_again = results(workdir)
        assert again == metrics
        jax.tree.map(np.testing.assert_array_equal, models_again, models)
        for stage in ("original", "oracle", "modules", "unlearn"):
            steps = checkpoint.latest_step(workdir / "checkpoints" / stage)
            assert scalars(workdir / "tensorboard" / stage) == set(range(1, steps + 1))


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
        status, output = end_after(tmp_path / "killed", line, arguments=arguments)
        assert status == -signal.SIGKILL, output
    output = finish(tmp_path / "killed", arguments)
    assert "data: 1 damaged training picture left out" in output
    metrics, models = results(tmp_path / "whole")
    again, models_again = results(tmp_path / "killed")
    assert again == metrics
    assert metrics["scenario"]["images"]["retain_train"] == 35
    jax.tree.map(np.testing.assert_array_equal, models_again, models)
