"""``launch/tpu_pod.sh`` against a stand-in that records what Google's tool is asked."""

import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from cluster import until
from command import ROOT

SCRIPT = ROOT / "launch" / "tpu_pod.sh"
TPU = ["--name=ec", "--zone=here-a", "--type=v5litepod-16", "--pause=0"]
RUN = [
    "--config=configs/digits.py",
    "--workdir=/mnt/runs/a run's",
    "--config.forget.classes=$a;`b`",
]
OK = [0, "READY"]
PYTHON = 'import json, sys\nprint(json.dumps(sys.argv[1:]), file=open("{}", "a"))\n'


class Cloud:
    """The stand-in on PATH, and what it was asked."""

    def __init__(self, folder):
        self.folder = folder
        python = folder / "home" / "ec_jax" / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        recorder = PYTHON.format(folder / "RAN")
        self._script(python, recorder)
        path = f"{folder / 'bin'}:{os.environ['PATH']}"
        self.env = {**os.environ, "PATH": path, "GCLOUD": str(folder)}
        self._script(folder / "bin" / "gcloud", (ROOT / "tests/launch/gcloud.py").read_text())

    def _script(self, path, text):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(0o755)

    def launch(self, *arguments, **state):
        """(exit status, stdout, stderr) of the script with a TPU in that state."""
        (self.folder / "STATE").write_text(json.dumps(state))
        done = subprocess.run(
            ["bash", SCRIPT, *arguments], capture_output=True, text=True, env=self.env, timeout=120
        )
        return done.returncode, done.stdout, done.stderr

    def asked(self):
        """What gcloud was asked: [verb, …] without what all have."""
        if not (self.folder / "LOG").exists():
            return []
        found = []
        for line in (self.folder / "LOG").read_text().splitlines():
            argv = json.loads(line)
            assert "--zone=here-a" in argv
            found.append([a for a in argv[3:] if a not in ("--zone=here-a", "--quiet")])
        return found

    def steps(self):
        """The same in a word each."""
        return [_word(argv) for argv in self.asked()]

    def ran(self):
        """The arguments of every Python that was started on the TPU."""
        return [json.loads(line) for line in (self.folder / "RAN").read_text().splitlines()]


def _word(argv):
    verb, command = argv[0], " ".join(argv)
    if verb == "ssh":
        return "run" if "run.pid" in command else "install" if "pip" in command else "setup"
    return "collect" if verb == "scp" and "--recurse" in argv else verb


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


START = ["scp", "install", "run"]


def test_a_tpu_is_made_and_the_run_gets_its_flags_as_they_are(cloud):
    setup = "sudo mount '10.0.0.2:/a b' /mnt"
    flags = [
        *TPU,
        "--spot",
        "--project=my project",
        f"--setup={setup}",
        f"--collect={cloud.folder}",
    ]
    status, out, _ = cloud.launch(*flags, "--", *RUN, **{"is": "", "runs": [OK]})
    assert (status, out) == (0, "")
    assert cloud.steps() == ["describe", "create", "scp", "install", "setup", "run", "collect"]
    asked = cloud.asked()
    project = "--project=my project"
    version = "--version=v2-alpha-tpuv5-lite"
    assert asked[0] == ["describe", "ec", project, "--format=value(state)"]
    assert asked[1] == [
        "create",
        "ec",
        "--accelerator-type=v5litepod-16",
        version,
        "--spot",
        project,
    ]
    assert asked[2][2:] == ["ec:ec_jax.tar.gz", "--worker=all", project]
    assert asked[4] == ["ssh", "ec", "--worker=all", f"--command={setup}", project]
    source = "ec:/mnt/runs/a run's"
    assert asked[6] == ["scp", "--recurse", source, str(cloud.folder), "--worker=0", project]
    assert cloud.ran() == [["-m", "ec_jax.main", *RUN, "--config.parallel.coordinator=auto"]]


def test_one_that_is_there_is_used(cloud):
    status, _, _ = cloud.launch(*TPU, "--", *RUN, **{"is": "READY", "runs": [OK]})
    assert status == 0
    assert cloud.steps() == ["describe", *START]


@pytest.mark.parametrize("state", ["PREEMPTED", "TERMINATED"])
def test_one_that_was_preempted_before_is_made_again(cloud, state):
    status, _, _ = cloud.launch(*TPU, "--", *RUN, **{"is": state, "runs": [OK]})
    assert status == 0
    assert cloud.steps() == ["describe", "delete", "create", *START]


def test_after_a_preemption_and_a_lost_connection_the_same_command_runs_again(cloud):
    lost = [[143, "PREEMPTED"], [3, ""], [255, "READY"], OK]
    status, _, errors = cloud.launch(*TPU, "--", *RUN, **{"is": "", "runs": lost})
    assert status == 0, errors
    assert cloud.steps() == [
        *("describe", "create", *START, "describe"),
        *("describe", "delete", "create", *START, "describe"),
        *("describe", "create", *START, "describe"),
        *("describe", *START),
    ]
    first, *others = cloud.ran()
    assert others == [first] * 3
    assert "the TPU ec was lost (status 143, state PREEMPTED); retry 1 of 10" in errors


def test_the_retries_end(cloud):
    lost = [[143, "PREEMPTED"]] * 2
    state = {"is": "", "runs": lost}
    status, _, errors = cloud.launch(*TPU, "--retries=1", "--delete", "--", *RUN, **state)
    assert status == 143
    assert errors.splitlines()[-1] == (
        "error: the TPU ec was lost 2 times; the same command goes on"
    )
    assert len(cloud.ran()) == 2
    assert cloud.steps()[-1] == "delete"


@pytest.mark.parametrize("failed", [1, 3])
def test_a_run_that_fails_by_itself_is_not_tried_again(cloud, failed):
    flags = [*TPU, "--delete", f"--collect={cloud.folder}", "--", *RUN]
    status, _, errors = cloud.launch(*flags, **{"is": "", "runs": [[failed, "READY"]]})
    assert status == failed
    assert f"error: ec_jax.main ended with status {failed} on the TPU ec" in errors
    # What it left is copied before it is gone.
    end = ["describe", "collect", "delete"]
    assert cloud.steps() == ["describe", "create", *START, "describe", *end]


def test_what_fails_before_the_run_is_not_called_the_runs(cloud):
    flags = [*TPU, "--setup=exit 5", "--", *RUN]
    status, _, errors = cloud.launch(*flags, **{"is": "READY"})
    assert status == 5
    assert "error: what ec_jax.main needs ended with status 5 on the TPU ec" in errors


def test_a_look_that_fails_is_a_lost_try_and_the_tpu_is_deleted_in_the_end(cloud):
    flags = [*TPU, "--delete", "--retries=1", "--", *RUN]
    state = {"is": "", "runs": [[255, "READY"]], "answers": [True, False, False]}
    status, _, errors = cloud.launch(*flags, **state)
    assert status == 1
    assert "network is unreachable" in errors
    assert "the TPU ec was lost (status 255, state unknown); retry 1 of 1" in errors
    assert errors.splitlines()[-1].startswith("error: the TPU ec was lost 2 times")
    assert cloud.steps() == ["describe", "create", *START, *["describe"] * 3, "delete"]


def test_a_delete_that_is_not_heard_is_told(cloud):
    shim = cloud.folder / "bin" / "gcloud"
    text = shim.read_text()
    shim.write_text(text.replace('        assert state["is"]\n', "        return 1\n"))
    flags = [*TPU, "--delete", "--", *RUN]
    status, _, errors = cloud.launch(*flags, **{"is": "READY", "runs": [OK]})
    assert status == 0
    assert "the TPU ec may still be there, and cost; delete it by hand" in errors


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_tpu_is_deleted_when_the_script_is_interrupted(cloud, how):
    recorder = PYTHON.format(cloud.folder / "RAN") + "import time\ntime.sleep(300)\n"
    cloud._script(cloud.folder / "home/ec_jax/.venv/bin/python", recorder)
    (cloud.folder / "STATE").write_text(json.dumps({"is": "", "runs": [OK]}))
    # A shell does not trap what was ignored when it began, as in a job in the background.
    flags = ["env", "--default-signal=INT", "bash", SCRIPT, *TPU, "--delete", "--", *RUN]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(flags, env=cloud.env, start_new_session=True, **quiet)
    until((cloud.folder / "RAN").exists, "it runs")
    os.killpg(process.pid, how)
    assert process.wait(timeout=60) in (128 + how, -how)
    assert cloud.steps() == ["describe", "create", *START, "describe", "delete"]


def test_no_tpu_to_be_had_is_the_end(cloud):
    status, _, errors = cloud.launch(*TPU, "--", *RUN, **{"is": "", "full": True})
    assert status == 1
    assert "no more capacity" in errors
    assert cloud.steps() == ["describe", "create"]


def test_none_in_the_place_of_one_that_was_preempted_is_the_end(cloud):
    status, _, errors = cloud.launch(*TPU, "--", *RUN, **{"is": "PREEMPTED", "full": True})
    assert status == 1
    assert errors.splitlines()[-1] == "ERROR: no more capacity"
    assert cloud.steps() == ["describe", "delete", "create"]


@pytest.mark.parametrize(
    ("state", "status", "says"),
    [
        ("CREATING", 2, "error: --name = 'ec': is CREATING; wait until it is READY, or delete it"),
        ("UNKNOWN", 1, "error: ERROR: (gcloud) PERMISSION_DENIED: who are you?"),
    ],
)
def test_a_tpu_that_cannot_be_used_is_left_alone(cloud, state, status, says):
    ended, _, errors = cloud.launch(*TPU, "--", *RUN, **{"is": state})
    assert ended == status
    assert errors.splitlines()[-1] == says
    assert cloud.steps() == ["describe"]


def test_a_grid_runs_on_one_machine(cloud):
    flags = [*TPU, "--module=ec_jax.sweep", "--", *RUN]
    status, _, errors = cloud.launch(*flags, **{"is": "READY", "machines": 4})
    assert status == 2
    assert "has 4 machines, and ec_jax.sweep runs on one" in errors.splitlines()[-1]
    status, _, _ = cloud.launch(*flags, **{"is": "READY", "machines": 1, "runs": [OK]})
    assert status == 0
    assert cloud.ran() == [["-m", "ec_jax.sweep", *RUN]]


def test_a_dry_run_prints_what_can_be_pasted_and_does_nothing(cloud):
    flags = [*TPU, "--spot", "--setup=a 'b'", "--collect=to here", "--dry-run", "--", *RUN]
    status, out, errors = cloud.launch(*flags, **{"is": ""})
    assert (status, errors) == (0, "")
    assert cloud.asked() == []
    (cloud.folder / "STATE").write_text(json.dumps({"is": "", "runs": [OK]}))
    there = cloud.folder / "elsewhere"
    there.mkdir()
    subprocess.run(["bash", "-c", out], cwd=there, env=cloud.env, check=True)
    first = ["describe", "create", "scp", "install", "setup", "run"]
    assert cloud.steps() == [*first, "delete", "collect"]
    assert cloud.asked()[4] == ["ssh", "ec", "--worker=all", "--command=a 'b'"]
    assert cloud.ran() == [["-m", "ec_jax.main", *RUN, "--config.parallel.coordinator=auto"]]
    assert {path.name for path in there.iterdir()} == {"ec_jax.tar.gz", "to here"}


def test_the_checkout_is_brought_whole_without_what_git_ignores(cloud):
    keep = cloud.folder / "kept.tar.gz"
    shim = cloud.folder / "bin" / "gcloud"
    text = shim.read_text().replace(
        'if __name__ == "__main__":',
        "if sys.argv[4] == 'scp':\n"
        f"    __import__('shutil').copy(sys.argv[5], {str(keep)!r})\n"
        'if __name__ == "__main__":',
    )
    shim.write_text(text)
    status, _, _ = cloud.launch(*TPU, "--", *RUN, **{"is": "READY", "runs": [OK]})
    assert status == 0
    with tarfile.open(keep) as archive:
        names = set(archive.getnames())
    assert {"ec_jax/main.py", "configs/digits.py", "requirements.txt"} <= names
    assert not [n for n in names if "__pycache__" in n or n.startswith((".git/", ".pytest_cache"))]


def test_shellcheck_finds_nothing():
    shellcheck = Path(sys.executable).parent / "shellcheck"  # of requirements-dev.txt
    done = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
