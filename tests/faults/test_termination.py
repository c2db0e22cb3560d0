"""SIGTERM, as schedulers send it: what is done is kept, and the run ends in time."""

import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from command import ROOT, refused
from interrupted import end_after, finish, results, start

from ec_jax import termination

SAYS = "error: terminated; the same command goes on from the newest checkpoint"


@pytest.mark.slow
def test_a_run_that_is_terminated_goes_on_from_that_very_step(tmp_path):
    finish(tmp_path / "whole")
    moments = ("original: step 2/", "oracle: step 7/", "unlearn: step 6/", "evaluate: forget_test")
    for line in moments:
        status, output = end_after(tmp_path / "ended", line, signal.SIGTERM)
        assert status == termination.STATUS == 143, output
        assert SAYS in output
        assert "Traceback" not in output
        if "step" in line:
            stage = line.partition(":")[0]
            saved = int(output.split(f"{stage}: saved at step ")[1].split("/")[0])
            assert saved >= int(line.split()[2].rstrip("/"))
    output = finish(tmp_path / "ended")
    assert "unlearn: done" in output
    metrics, models = results(tmp_path / "whole")
    again, models_again = results(tmp_path / "ended")
    assert again == metrics
    jax.tree.map(np.testing.assert_array_equal, models_again, models)


# Ends at once where a signal is acted on, with 7; ``work`` is what it comes upon.
PROGRAM = """
import hashlib, os, signal, threading, time
from ec_jax import termination

def soon():
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()

def work():
    {}

os.environ[termination.GRACE_OF] = "0.5"
termination.install()
try:
    work()
except termination.Terminated:
    print("terminated", flush=True)
    os._exit(7)
"""
AT_ONCE = "soon(); time.sleep(60)"
# Python acts on no signal while it hashes.
AT_WORK = "soon(); hashlib.pbkdf2_hmac('sha1', b'', b'', 2**31 - 1)"
TWICE = """try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        print("cleaned")"""
DEFERRED = """with termination.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        print("asked:", termination.asked())"""


@pytest.mark.slow
def test_ended_between_two_stages_it_ends_in_time(tmp_path):
    """There networks are made: Python must not take itself apart while XLA compiles them."""
    for wait in (0.3, 0.7, 1.5):
        process = start(tmp_path / "ended")
        for line in process.stdout:
            if line.startswith("proxy: "):
                break
        time.sleep(wait)
        process.terminate()
        began = time.monotonic()
        output, _ = process.communicate()
        assert process.returncode == termination.STATUS, output
        assert "Fatal" not in output
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("given", ["soon", "-1", "nan", "1e99"])
def test_a_time_that_is_none_is_refused(given):
    env = {termination.GRACE_OF: given}
    refused("--config=configs/digits.py", says=[f"EC_JAX_GRACE = {given!r}: give"], **env)


@pytest.mark.parametrize(
    ("work", "status", "says"),
    [
        (AT_ONCE, 7, ["terminated"]),
        (AT_WORK, termination.STATUS, []),
        (TWICE, 7, ["cleaned", "terminated"]),
        (DEFERRED, 7, ["asked: True", "terminated"]),
    ],
    ids=["at once", "when the time is up", "twice", "deferred"],
)
def test_a_process_is_terminated(work, status, says):
    run = [sys.executable, "-c", PROGRAM.format(work)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.splitlines() == says, done.stderr
    assert done.returncode == status
