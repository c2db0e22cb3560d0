"""Two runs in one workdir, what a killed one leaves, and locks of other hosts."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT, refused

from ec_jax import workdir as workdir_lib
from ec_jax.errors import InputError
from ec_jax.workdir import LOCK, locked

# A run that stands still once it is at work.
HOLD = """import time
from pathlib import Path
from ec_jax.workdir import locked
with locked(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """(process that has the lock of a workdir, the workdir)."""
    workdir = tmp_path / "run"
    code = f"import sys\n{HOLD}"
    process = subprocess.Popen(
        [sys.executable, "-c", code, workdir], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout.readline() == "in\n"
    yield process, workdir
    process.kill()
    process.wait()
    process.stdout.close()


def refusal(workdir):
    with pytest.raises(InputError) as error, locked(workdir):
        pass
    return str(error.value)


def test_a_second_run_is_refused_and_names_the_first(holder):
    process, workdir = holder
    message = refusal(workdir)
    there = f"another run is in it: process {process.pid} on {socket.gethostname()}"
    assert message.startswith(f"workdir = {str(workdir)!r}: {there}; wait for it")
    before = (workdir / LOCK).read_bytes()
    says = ["workdir = ", f"process {process.pid} on "]
    command = ["--config=configs/digits.py", f"--workdir={workdir}"]
    # What the second start prints and writes before it would start to train is nothing.
    refused(*command, "--config.parallel.devices=1", says=says)
    assert [p.name for p in workdir.iterdir()] == [LOCK]
    assert (workdir / LOCK).read_bytes() == before


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_run_leaves_does_not_block(holder, how):
    process, workdir = holder
    process.send_signal(how)
    process.wait()
    assert json.loads((workdir / LOCK).read_text())["pid"] == process.pid
    with locked(workdir):
        assert json.loads((workdir / LOCK).read_text())["pid"] == os.getpid()
    assert not list(workdir.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"host": 1, "pid": "x"}', "\xff"])
def test_a_lock_that_says_nothing_does_not_block(content, tmp_path):
    (tmp_path / LOCK).write_text(content, encoding="latin-1")
    with locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_of_another_host_is_refused_with_the_remedy(tmp_path):
    (tmp_path / LOCK).write_text(json.dumps({"host": "node7", "pid": 12}))
    message = refusal(tmp_path)
    assert "another run is in it: process 12 on node7, as its file lock says" in message
    assert message.endswith(f"if that run is over, delete {tmp_path / LOCK}")
    (tmp_path / LOCK).unlink()
    with locked(tmp_path):
        pass


def test_a_job_that_is_started_again_on_another_host_goes_on(tmp_path, monkeypatch):
    left = {"host": "node7", "pid": 12, "job": "slurm-3"}
    monkeypatch.setenv(workdir_lib.JOB, "slurm-3")
    for job in ("slurm-4", None):
        (tmp_path / LOCK).write_text(json.dumps(left | {"job": job}))
        assert "process 12 on node7" in refusal(tmp_path)
    (tmp_path / LOCK).write_text(json.dumps(left))
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["job"] == "slurm-3"
    monkeypatch.delenv(workdir_lib.JOB)
    (tmp_path / LOCK).write_text(json.dumps(left))
    assert "process 12 on node7" in refusal(tmp_path)


def test_a_lock_ends_with_an_error_and_within_itself_is_no_other(tmp_path):
    def work():
        with locked(tmp_path):
            with locked(tmp_path):
                pass
            assert (tmp_path / LOCK).is_file()
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert not list(tmp_path.iterdir())


def test_without_locks_of_the_file_system_the_process_decides(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(workdir_lib.fcntl, "lockf", none)
    host = socket.gethostname()
    started = workdir_lib._started(os.getppid())
    assert started is not None
    alive = {"host": host, "pid": os.getppid(), "process_started": started}
    (tmp_path / LOCK).write_text(json.dumps(alive))
    assert f"process {os.getppid()} on {host}; wait for it" in refusal(tmp_path)
    # The number was given to another process since.
    (tmp_path / LOCK).write_text(json.dumps(alive | {"process_started": started - 1}))
    with locked(tmp_path):
        pass
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / LOCK).write_text(json.dumps(alive | {"pid": gone.pid}))
    with locked(tmp_path):
        pass


def test_a_lock_goes_with_a_moved_workdir_and_blocks_no_one(holder, tmp_path):
    process, workdir = holder
    process.kill()
    process.wait()
    moved = Path(shutil.move(workdir, tmp_path / "moved"))
    with locked(moved):
        pass


@pytest.mark.parametrize("text", ['{"host": "x", "pid": Infinity}', "[" * 60_000, "3", ""])
def test_what_no_run_has_written_does_not_block(text, tmp_path):
    (tmp_path / LOCK).write_text(text)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
