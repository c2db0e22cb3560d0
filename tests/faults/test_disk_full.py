"""A file system that takes no more: said in one line, and what was saved before stays."""

import subprocess

import pytest
from command import command
from interrupted import ARGUMENTS

from ec_jax import checkpoint


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own, of a size that can be changed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True
    )
    if made.returncode:
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_space(small_disk):
    run = small_disk / "run"
    arguments = [*ARGUMENTS, f"--workdir={run}"]
    done = command(*arguments, timeout=300)
    assert done.returncode == 3, done.stderr
    # Threads of tensorstore may speak, too, of writes that nobody waits for any more.
    says = "No space left on device; free some space and give the same command again"
    assert f"cannot be saved: {says}" in done.stderr
    step = checkpoint.latest_step(run / "checkpoints" / "original")
    assert step
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    done = command(*arguments, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"original: resumed at step {step}/" in done.stdout
