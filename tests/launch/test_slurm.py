"""Runs and grids on a real Slurm: warned, preempted, cancelled, killed, and gone on."""

import json
import os
import re
import signal
import subprocess
import sys

import cluster
import pytest
from cluster import said, until
from command import ROOT

SMALL = [
    "--config=configs/digits.py",
    *("--config.model.depth=8", "--config.model.width=4", "--config.report.log_every=5"),
]


@pytest.fixture(scope="module")
def running_slurm(tmp_path_factory):
    with cluster.slurm(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture
def slurm(running_slurm):
    yield
    cluster.end_jobs()


def launch(name, *arguments, timeout=600, **env):
    """``launch/NAME.py`` in a process of its own."""
    return subprocess.run(
        [sys.executable, f"launch/{name}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=timeout,
        env={**os.environ, **env},
    )


def is_refused(done, says):
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {says}"), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_machine_without_slurm_is_told_so(tmp_path):
    nothing = os.path.dirname(sys.executable)
    done = launch("slurm", "--", *SMALL, f"--workdir={tmp_path / 'W'}", PATH=nothing)
    is_refused(done, "sbatch = None: is not on this machine")
    assert not list(tmp_path.iterdir())


def test_a_dry_run_prints_what_is_asked_of_slurm(tmp_path):
    asked = ["--nodes=2", "--tasks-per-node=4", "--gpus-per-node=4", "--time=90", "--dry-run"]
    workdir = tmp_path / "a run's"
    done = launch("slurm", *asked, "--set=account=us", "--", *SMALL, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for field in ("nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "time=90", "account=us"):
        assert f"#SBATCH --{field}" in lines
    assert "#SBATCH --requeue" in lines
    (command,) = [line for line in lines if line.startswith("srun ")]
    assert command.endswith("' --config.parallel.coordinator=auto")
    assert not list(tmp_path.iterdir())


def test_a_node_gets_a_task_for_each_gpu(tmp_path):
    flags = ["--gpus-per-node=4", "--dry-run", "--", *SMALL, f"--workdir={tmp_path / 'run'}"]
    done = launch("slurm", *flags)
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --ntasks-per-node=4" in done.stdout.splitlines()
    assert done.stdout.rstrip().endswith("--config.parallel.coordinator=auto")


def test_a_refused_job_takes_its_own_files_alone(tmp_path):
    folder, tools = tmp_path / "run.jobs", tmp_path / "bin"
    tools.mkdir()
    for name in ("srun", "squeue", "sbatch"):
        # Meanwhile another job starts to write its log.
        text = f"#!/bin/sh\ntouch '{folder}/7_0_log.out'\necho no such partition >&2\nexit 1\n"
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    done = launch("slurm", "--", *SMALL, f"--workdir={tmp_path / 'run'}", PATH=path)
    is_refused(done, "sbatch = 'ec_jax-run': refused: ")
    assert [path.name for path in folder.iterdir()] == ["7_0_log.out"]
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_what_slurm_refuses_is_one_line_and_leaves_nothing(slurm, tmp_path):
    run = ["--partition=none", "--", *SMALL, f"--workdir={tmp_path / 'run'}"]
    is_refused(launch("slurm", *run), "sbatch = 'ec_jax-run': refused: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_when_its_time_is_up_and_after_preemption(slurm, tmp_path):
    workdir = tmp_path / "run"
    flags = [*SMALL, "--config.stages=original", "--config.original.epochs=900"]
    flags.append("--config.parallel.devices=2")
    done = launch("slurm", "--tasks-per-node=2", "--", *flags, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    job, log = re.match(r"job (\d+): (.*)", done.stdout).groups()

    until(lambda: "original: step " in _read(log), "it trains")
    subprocess.run(["scancel", "--signal=USR2", job], check=True)  # as when its time is up
    again = "original: resumed at step "
    until(lambda: "original: step " in _read(log).partition(again)[2], "it goes on")

    def twice():
        return _read(log).count(again) == 2

    urgent = ["sbatch", "--partition=urgent", "--ntasks=2", "--wrap=true", "--output=/dev/null"]
    subprocess.run(urgent, check=True, stdout=subprocess.DEVNULL)
    until(lambda: "original: step " in _read(log).rpartition(again)[2] and twice(), "again")
    text = _read(log)
    saved = re.findall(r"original: saved at step (\d+)/", text)
    assert len(saved) == 2
    assert saved == re.findall(r"original: resumed at step (\d+)/", text)
    assert "Traceback" not in text + _read(log.replace(".out", ".err"))


@pytest.mark.slow
def test_a_cancelled_run_saves_and_stays_away(slurm, tmp_path):
    flags = [*SMALL, "--config.stages=original", f"--workdir={tmp_path / 'run'}"]
    done = launch("slurm", "--", *flags)
    job, log = re.match(r"job (\d+): (.*)", done.stdout).groups()
    until(lambda: "original: step " in _read(log), "it trains")
    # By this name it is known when it is queued again, on whatever machine.
    assert json.loads(_read(tmp_path / "run" / "lock"))["job"] == f"slurm-{job}"
    subprocess.run(["scancel", job], check=True)
    until(lambda: not said("squeue", "--noheader"), "it has ended")
    assert "original: saved at step" in _read(log)


def _read(path):
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""


CELLS = [
    *SMALL,
    *("--config.method=finetune", "--config.original.epochs=0.5", "--config.data.subset=300"),
    "--config.evaluation.metrics=accuracy",
    # The product: six rows.
    "--config.unlearn.optimizer.learning_rate=0.01,0.02,0.05",
    "--config.unlearn.steps=1,2",
]


@pytest.mark.slow
def test_a_grid_of_twelve_cells_two_of_them_killed_and_resubmitted(slurm, tmp_path):
    workdir = tmp_path / "grid"
    grid = ["--on=slurm", "--poll=1", "--", *CELLS, "--seeds=0,1", f"--workdir={workdir}"]
    cells = {
        f"unlearn.optimizer.learning_rate={rate}+unlearn.steps={steps}-seed{seed}"
        for rate in ("0.01", "0.02", "0.05")
        for steps in (1, 2)
        for seed in (0, 1)
    }
    cancelled, killed = (
        f"unlearn.optimizer.learning_rate={rate}+unlearn.steps=2-seed1" for rate in ("0.02", "0.05")
    )
    with open(tmp_path / "out", "w") as out:
        process = subprocess.Popen(
            [sys.executable, "launch/sweep.py", *grid], cwd=ROOT, stdout=out, stderr=out
        )
    until(lambda: f"{cancelled}: job" in _read(tmp_path / "out"), "submitted")
    (number,) = re.findall(rf"{re.escape(cancelled)}: job (\d+)", _read(tmp_path / "out"))
    state = ("squeue", "--noheader", "--format=%T", f"--jobs={number}")
    until(lambda: said(*state) == "RUNNING", "it runs")
    subprocess.run(["scancel", number], check=True)
    row, _, seed = killed.rpartition("-seed")
    pattern = rf"[e]c_jax.sweep .*{workdir} --rows={re.escape(row)} --seeds={seed}$"
    until(lambda: said("pgrep", "-f", pattern), "it runs")
    for pid in said("pgrep", "-f", pattern).split():
        os.kill(int(pid), signal.SIGKILL)
    assert process.wait(timeout=900) == 3
    output = _read(tmp_path / "out")
    assert {cell for cell in cells if f"{cell}: job" in output} == cells
    assert output.count("references-") == 2, "each original is a job"
    assert "error: 2 cells have no numbers" in output
    results = workdir / "results"
    there = {path.stem: path.stat().st_mtime_ns for path in results.iterdir()}
    assert there.keys() == cells - {cancelled, killed}

    done = launch("sweep", *grid, timeout=900)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"^(.*): job \d+$", done.stdout, re.M)) == {cancelled, killed}
    after = {path.stem: path.stat().st_mtime_ns for path in results.iterdir()}
    assert after.keys() == cells
    assert there.items() <= after.items(), "done cells are not touched"
    for cell in cells:
        about = json.loads((results / f"{cell}.json").read_text())["scenario"]
        assert f"{about['method']}-seed{about['seed']}" == cell
    table = (workdir / "compare" / "table.csv").read_text()
    assert all(cell.rpartition("-seed")[0] in table for cell in cells)
