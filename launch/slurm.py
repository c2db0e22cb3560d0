"""A run as a Slurm job that goes on after preemption and when its time is up.

    python launch/slurm.py --nodes=2 --gpus-per-node=4 --time=600 -- --config=configs/digits.py \
        --workdir=runs/digits

What follows ``--`` are the flags of ``ec_jax.main``; they are checked before anything is submitted.
Several tasks are the processes of one run, which join by what Slurm tells them
(``parallel.coordinator=auto``); each takes one GPU, so a node gets as many tasks as it has GPUs
unless --tasks-per-node says otherwise. Logs and the job's own files are in WORKDIR.jobs.

Shortly before its time is up the job has the run save its step, and takes its place in the queue
again (``--timeouts``). So it does when it is preempted; a job that is cancelled ends.

Exit status: 0 submitted, 2 input that cannot be used.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
sys.path.append(str(HERE))

from ec_jax import command, config_file, termination, workdir  # noqa: E402
from ec_jax import config as config_lib  # noqa: E402
from ec_jax import main as run_command  # noqa: E402
from ec_jax.errors import InputError  # noqa: E402

try:
    import submitit
    from submitit.core.utils import FailedJobError
    from submitit.slurm import slurm as scripts
except ImportError:
    command.end(2, "submitit is not installed: pip install submitit")

_EACH = 0.2  # seconds between two looks at the run
_PAUSE = 30  # seconds after which Slurm is asked again
_SHORTEST = 5  # minutes: submitit has the job warned 90 s before its end, and starting takes some
_UNSUBMITTED = re.compile(r"[0-9a-f]{32}\.pkl|\.submission_file_[0-9a-f]{32}\.sh")
_GRACE = "80"  # seconds of these 90 to save a step; a preempted job Slurm ends when it likes
_WARNED = signal.SIGUSR2  # what submitit has Slurm send before the time is up


class Job(submitit.helpers.Checkpointable):
    """A command as a job's task; when its time is up it is ended and queued again."""

    def __init__(self, arguments: Sequence[str], lasting: str | None):
        """Args:
        arguments: the command's, without the name of Python.
        lasting: a name of which there is one job at a time, by whatever submission; None: that of
          this one, which stays when it is queued again.
        """
        self._arguments, self._lasting = list(arguments), lasting
        self._process: subprocess.Popen | None = None

    def __call__(self) -> None:
        """Runs the command; one that fails makes the job fail."""
        lasting = self._lasting or f"slurm-{os.environ['SLURM_JOB_ID']}"
        self._process = subprocess.Popen(
            [sys.executable, *self._arguments],
            env=command.environment() | {workdir.JOB: lasting, termination.GRACE_OF: _GRACE},
            # Slurm warns every process of the job; this one would die of it.
            preexec_fn=lambda: signal.signal(_WARNED, signal.SIG_IGN),
        )
        while self._process.poll() is None:
            time.sleep(_EACH)
        if self._process.returncode == termination.STATUS:
            _take_place_again()
        if self._process.returncode:
            sys.exit(self._process.returncode)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Ends the command, which saves its step, and says what the job does the next time."""
        if self._process:  # else it was warned before it began
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(ChildProcessError):  # it has ended and was seen to
                # This interrupts the loop of __call__, which is still to see the process's status.
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(Job(self._arguments, self._lasting))


def _take_place_again() -> None:
    """Queues the job again, unless it was cancelled.

    Slurm does so with a preempted job that it had to kill, but not with one that ended by itself in
    the time that it was given.
    """
    job, task = os.environ["SLURM_JOB_ID"], os.environ["SLURM_PROCID"]
    asking = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    state = subprocess.run(asking, capture_output=True, text=True).stdout.strip()
    if task == "0" and state == "RUNNING":
        subprocess.run(["scontrol", "requeue", job])


def parser(prog: str, description: str) -> command.Parser:
    """The flags that say what a job asks of Slurm."""
    found = command.Parser(prog=prog, description=description)
    found.add_argument("--nodes", type=int, default=1, help="how many machines, >= 1")
    found.add_argument("--tasks-per-node", type=int, help="processes of each; one for each GPU")
    found.add_argument("--gpus-per-node", type=int, help="GPUs of each")
    found.add_argument("--cpus-per-task", type=int, help="CPU cores of each process")
    found.add_argument("--time", type=int, default=60, help="minutes until it is queued again")
    found.add_argument("--timeouts", type=int, default=100, help="how often it is, at most")
    found.add_argument("--partition", help="the part of the cluster")
    found.add_argument(
        "--set", action="append", default=[], help="another flag of sbatch: --set=account=NAME"
    )
    found.add_argument("--dry-run", action="store_true", help="print the batch script alone")
    return found


def asked(found: command.Parser, arguments: Sequence[str]) -> dict[str, Any]:
    """The values of the flags of ``parser``, checked.

    Raises:
      InputError: one of them cannot work.
    """
    values = vars(found.parse(arguments))
    for name, value in values.items():
        low = {"timeouts": 0, "gpus_per_node": 0, "time": _SHORTEST}.get(name, 1)
        if isinstance(value, int) and not isinstance(value, bool) and value < low:
            raise InputError(f"--{name.replace('_', '-')}", value, f"at least {low}")
    for setting in values["set"]:
        if not re.fullmatch(r"[a-z][a-z-]*=.+", setting):
            raise InputError("--set", setting, "give a flag of sbatch, e.g. --set=account=NAME")
    return values


def check_there() -> None:
    """Refuses a machine without Slurm's commands."""
    if not all(shutil.which(name) for name in ("sbatch", "srun", "squeue")):
        raise InputError("sbatch", None, "is not on this machine; go to one of the cluster's")


def submit(
    name: str,
    arguments: Sequence[str],
    folder: Path,
    values: dict[str, Any],
    *,
    lasting: str | None = None,
) -> str:
    """Submits a command as a job.

    Args:
      name: of the job.
      arguments: of Python: ["-m", MODULE, FLAG, …].
      folder: of logs and of the job's own files; of a file system that the cluster shares.
      values: those of ``asked``.
      lasting: as for ``Job``.

    Returns:
      The job's number; of a dry run, the batch script.

    Raises:
      InputError: Slurm refuses the job.
    """
    parameters = _parameters(name, values)
    if values["dry_run"]:
        line = shlex.join([sys.executable, *arguments])
        script = scripts._make_sbatch_string(command=line, folder=folder, **parameters)
        told = (
            "# What Slurm is asked for; as a job the run is also told of its end and queued again."
        )
        return f"{told}\n{script}"
    executor = submitit.SlurmExecutor(folder, max_num_timeout=values["timeouts"])
    executor.update_parameters(**parameters)
    # Jobs unpickle what is in there.
    new = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Within the lock, as what others are about to submit looks like what is left here.
    with _gone_if_empty(folder, new), workdir.locked(folder):
        before = _unsubmitted(folder)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit says there what it raises
                return executor.submit(Job(arguments, lasting)).job_id
        except FailedJobError as error:
            for left in _unsubmitted(folder) - before:
                left.unlink()
            said = str(error).strip() or "no reason given"
            raise InputError("sbatch", name, f"refused: {said.splitlines()[-1]}") from error


@contextlib.contextmanager
def _gone_if_empty(folder: Path, new: bool) -> Iterator[None]:
    """Takes a folder that was made for a job away again, if that was refused."""
    try:
        yield
    except InputError:
        if new:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()
        raise


def _unsubmitted(folder: Path) -> set[Path]:
    """submitit's files of jobs that have no number yet; it leaves a link in a script's place."""
    found = {path for path in folder.iterdir() if _UNSUBMITTED.fullmatch(path.name)}
    return {path for path in found if not path.is_symlink()}


def _parameters(name: str, values: dict[str, Any]) -> dict[str, Any]:
    given = {
        "job_name": name,
        "nodes": values["nodes"],
        "ntasks_per_node": values["tasks_per_node"],
        "gpus_per_node": values["gpus_per_node"],
        "cpus_per_task": values["cpus_per_task"],
        "time": values["time"],
        "partition": values["partition"],
        # One task's end must not end the first one, which queues the job again.
        "srun_args": ["--kill-on-bad-exit=0"],
        # Modules are found from whatever folder the job is submitted.
        "setup": [f"export PYTHONPATH={shlex.quote(command.environment()['PYTHONPATH'])}"],
        "additional_parameters": {
            "requeue": True,  # also after preemption
            **dict(setting.split("=", 1) for setting in values["set"]),
        },
    }
    return {field: value for field, value in given.items() if value is not None}


def queued() -> set[str]:
    """The names of this user's jobs that wait or run; waits for a Slurm that does not answer."""
    asking = ["squeue", "--noheader", "--format=%j", f"--user={os.getuid()}"]
    while (done := subprocess.run(asking, capture_output=True, text=True)).returncode:
        print(f"squeue: {done.stderr.strip()}; asked again in {_PAUSE} s", flush=True)
        time.sleep(_PAUSE)
    return set(done.stdout.splitlines())


def main(arguments: Sequence[str]) -> None:
    """Submits the run that the arguments describe."""
    split = list(arguments).index("--") if "--" in arguments else len(arguments)
    values = asked(parser("launch/slurm.py", __doc__), arguments[:split])
    values["tasks_per_node"] = values["tasks_per_node"] or values["gpus_per_node"] or 1
    if not values["dry_run"]:
        check_there()
    flags = list(arguments[split + 1 :])
    if not flags:
        remedy = "give flags of ec_jax.main after --, e.g. -- --config=configs/digits.py"
        raise InputError("--", None, remedy)
    if values["nodes"] * values["tasks_per_node"] > 1:
        flags.append("--config.parallel.coordinator=auto")

    def work(config: Any, found: Any) -> None:
        if not found.workdir:
            raise config_file.missing("workdir", found.workdir, run_command.FLAGS)
        config_lib.validate(config, data_there=not values["dry_run"])
        folder = Path(found.workdir).expanduser().absolute()
        workdir.check_workdir(config, folder, foreign=workdir.OF_A_GRID)
        logs = folder.with_name(f"{folder.name}.jobs")
        job = submit(f"ec_jax-{folder.name}", ["-m", "ec_jax.main", *flags], logs, values)
        print(job if values["dry_run"] else f"job {job}: {logs}/{job}_0_log.out")

    sys.argv = [sys.argv[0], *flags]
    config_file.run(work, run_command.FLAGS, "interrupted; nothing was submitted")


if __name__ == "__main__":
    command.finish(lambda: main(sys.argv[1:]))
