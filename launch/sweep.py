"""The cells of a grid at once: on this machine, as Slurm jobs, or on TPU machines.

    python launch/sweep.py --on=slurm --with="--time=120 --gpus-per-node=1" -- \
        --config=configs/digits.py --config.ec.temperature=0.1,0.5 --workdir=runs/grid
    python launch/sweep.py --on=local --jobs=4 -- --config=configs/digits.py \
        --sweep=configs/sweeps/ec.py --workdir=runs/grid

What follows ``--`` are the flags of ``ec_jax.sweep``, which is started first for what the cells
share, once for each original, and then for every cell that has no numbers. --with holds flags of
``launch/slurm.py`` or ``launch/tpu_pod.sh``. Logs are in WORKDIR.jobs, the comparison of all cells
in WORKDIR/compare.

The same command goes on: it starts the cells that were killed or failed, and no other. Slurm jobs
outlive it; those that still wait or run are waited for, not submitted again. Training that cannot
go on is final: delete the cell's folder to have it tried again.

Exit status: 0 all cells have numbers, 2 input that cannot be used, 3 some have none,
130 interrupted, 143 terminated.
"""

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
sys.path.append(str(HERE))

from ec_jax import command, workdir  # noqa: E402
from ec_jax.errors import InputError, TrainingError, printable  # noqa: E402

ON = ("local", "slurm", "tpu_pod")
MODULE = "ec_jax.sweep"
_EACH = 0.2  # seconds between two looks at processes of this machine

Jobs = dict[str, list[str]]  # {name: further flags of ec_jax.sweep}
Run = Callable[[Jobs, Path], None]  # (jobs, folder of their logs): returns when all have ended


def main(arguments: Sequence[str]) -> None:
    """Runs what is missing of the grid that the arguments describe."""
    parser = command.Parser(prog="launch/sweep.py", description=__doc__)
    parser.add_argument("--on", choices=ON, default="local", help="where the cells run")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once, but on Slurm; >= 1")
    parser.add_argument("--with", default="", help="flags of what starts them")
    parser.add_argument(
        "--poll", type=int, default=15, help="seconds between looks at Slurm's queue"
    )
    split = list(arguments).index("--") if "--" in arguments else len(arguments)
    asked, flags = vars(parser.parse(arguments[:split])), list(arguments[split + 1 :])
    for name in ("jobs", "poll"):
        if asked[name] < 1:
            raise InputError(f"--{name}", asked[name], "at least 1")
    if not flags:
        remedy = f"give flags of {MODULE} after --, e.g. -- --config=configs/digits.py"
        raise InputError("--", None, remedy)
    if {"--help", "-help", "--helpshort", "--helpfull"} & set(flags):
        sys.exit(subprocess.run(_command(flags, []), env=command.environment()).returncode)
    if there := [flag for flag in flags if re.match("--?only(=|$)", flag)]:
        raise InputError("--only", there[0], "is for the jobs of this command; leave it out")
    if asked["on"] == "local" and asked["with"]:
        raise InputError(
            "--with", asked["with"], "is for --on=slurm and --on=tpu_pod; leave it out"
        )
    run = {"local": _on_local, "slurm": _on_slurm, "tpu_pod": _on_tpu_pod}[asked["on"]](
        asked, flags
    )
    plan = _plan(flags)
    folder = Path(plan["workdir"])
    logs = folder.with_name(f"{folder.name}.jobs")
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)  # submitit's jobs unpickle what is in there
    with workdir.locked(logs):  # two of the same command would start the same jobs
        print(f"{len(plan['cells'])} cells to run, {plan['results']} have numbers", flush=True)
        if shared := _shared(plan):
            run(shared, logs)
            plan = _plan(flags)
        # Cells whose start is missing would all train it at once, into one folder.
        if cells := _cells(plan):
            run(cells, logs)
            plan = _plan(flags)
        _finish(plan, folder, logs)


def _plan(flags: Sequence[str]) -> dict[str, Any]:
    """What is missing of the grid (``ec_jax.sweep._plan``), after all checks of ``ec_jax.sweep``.

    In a process of its own, as JAX keeps the accelerators of a process that asks for them.
    """
    done = subprocess.run(
        _command(flags, ["--only=plan"]),
        stdout=subprocess.PIPE,
        text=True,
        env=command.environment(),
    )
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def _command(flags: Sequence[str], more: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", MODULE, *flags, *more]


def _shared(plan: dict[str, Any]) -> Jobs:
    """A job for each original that cells start from, for what else is trained from it, too."""
    rows: dict[tuple[str, int], list[str]] = {}
    for cell in plan["cells"]:
        if not cell["ready"]:
            rows.setdefault((cell["shared"], cell["seed"]), []).append(cell["row"])
    return {
        name: [f"--rows={','.join(found)}", f"--seeds={seed}", "--only=shared"]
        for (name, seed), found in rows.items()
    }


def _cells(plan: dict[str, Any]) -> Jobs:
    return {
        f"{cell['row']}-seed{cell['seed']}": [f"--rows={cell['row']}", f"--seeds={cell['seed']}"]
        for cell in plan["cells"]
        if cell["ready"]
    }


def _finish(plan: dict[str, Any], folder: Path, logs: Path) -> None:
    """Puts the cells that have numbers side by side, and tells of the others."""
    for cell, why in plan["failed"].items():
        print(f"{cell}: {printable(why)}", flush=True)
    if plan["results"]:
        results = sorted(map(str, (folder / "results").glob("*.json")))
        to = f"--out={folder / 'compare'}"
        compare = [sys.executable, "-m", "ec_jax.compare", "--by-scenario", to, *results]
        if status := subprocess.run(compare, env=command.environment()).returncode:
            sys.exit(status)
    missing = [*plan["failed"], *(f"{c['row']}-seed{c['seed']}" for c in plan["cells"])]
    if missing:
        what = "cell has" if len(missing) == 1 else "cells have"
        listed = f"{', '.join(missing[:6])}{', …' if len(missing) > 6 else ''}"
        raise TrainingError(
            f"{len(missing)} {what} no numbers ({listed}); their logs are in {logs}; the same "
            "command starts again what was killed or failed"
        )


def _on_local(asked: dict[str, Any], flags: Sequence[str]) -> Run:
    def run(jobs: Jobs, logs: Path) -> None:
        _at_once(jobs, asked["jobs"], lambda more, slot: _command(flags, more), logs, {})

    return run


def _split(given: str) -> list[str]:
    """The flags in --with."""
    try:
        return shlex.split(given)
    except ValueError as error:
        raise InputError("--with", given, f"{error}; quote it as in a shell") from None


def _on_tpu_pod(asked: dict[str, Any], flags: Sequence[str]) -> Run:
    """NAME-0, NAME-1, … are TPUs, each of which takes one job after another."""
    given = _split(asked["with"])
    names = [flag for flag in given if flag.startswith("--name=")]
    if len(names) != 1:
        remedy = "give --name=NAME once, and what else launch/tpu_pod.sh needs"
        raise InputError("--with", asked["with"], remedy)
    others = [flag for flag in given if flag not in names]
    script = str(HERE / "launch" / "tpu_pod.sh")

    def pod(more: Sequence[str], slot: int) -> list[str]:
        asked_of_it = [f"{names[0]}-{slot}", *others, f"--module={MODULE}"]
        return ["bash", script, *asked_of_it, "--", *flags, *more]

    def run(jobs: Jobs, logs: Path) -> None:
        lasting = {name: _lasting(name, logs) for name in jobs}
        _at_once(jobs, asked["jobs"], pod, logs, lasting)

    return run


def _at_once(
    jobs: Jobs,
    slots: int,
    command_of: Callable[[list[str], int], list[str]],
    logs: Path,
    lasting: dict[str, str],
) -> None:
    """Runs jobs as processes of this machine, as many at once as there are slots.

    ``lasting`` has the names of those that run elsewhere; here a lock's host and process suffice.
    """
    waiting, running = list(jobs.items()), {}
    try:
        while waiting or running:
            for slot in range(slots):
                if waiting and slot not in running:
                    name, more = waiting.pop(0)
                    print(f"{name}: started", flush=True)
                    running[slot] = (
                        name,
                        _start(command_of(more, slot), logs / f"{name}.log", lasting.get(name)),
                    )
            time.sleep(_EACH)
            for slot, (name, process) in list(running.items()):
                if process.poll() is not None:
                    del running[slot]
                    print(f"{name}: ended with status {process.returncode}", flush=True)
    finally:
        for _, process in running.values():
            os.killpg(process.pid, signal.SIGTERM)
        for _, process in running.values():
            process.wait()


def _start(arguments: list[str], log: Path, lasting: str | None) -> subprocess.Popen:
    env = command.environment()
    env.pop(workdir.JOB, None)  # that of the job that this command may be
    if lasting:
        env[workdir.JOB] = lasting
    with open(log, "a") as out:
        # In a group of its own: Ctrl-C reaches this process alone, which ends the others once.
        return subprocess.Popen(arguments, stdout=out, stderr=out, env=env, process_group=0)


def _lasting(name: str, logs: Path) -> str:
    """A job's name that is no other grid's, and stays for the next start of this command."""
    return f"ec_jax-{hashlib.sha256(str(logs).encode()).hexdigest()[:8]}-{name}"


def _on_slurm(asked: dict[str, Any], flags: Sequence[str]) -> Run:
    from launch import slurm  # submitit is needed for nothing else

    values = slurm.asked(slurm.parser("--with", "Flags of launch/slurm.py."), _split(asked["with"]))
    values["tasks_per_node"] = values["tasks_per_node"] or 1  # which takes all GPUs
    if values["nodes"] * values["tasks_per_node"] > 1 or values["dry_run"]:
        remedy = "a cell is one process; leave out --nodes, --tasks-per-node and --dry-run"
        raise InputError("--with", asked["with"], remedy)
    slurm.check_there()

    def run(jobs: Jobs, logs: Path) -> None:
        names = {name: _lasting(name, logs) for name in jobs}
        there = slurm.queued()
        for name, more in jobs.items():
            if names[name] in there:
                print(f"{name}: is in the queue", flush=True)
                continue
            arguments = ["-m", MODULE, *flags, *more]
            job = slurm.submit(names[name], arguments, logs, values, lasting=names[name])
            print(f"{name}: job {job}", flush=True)
        while slurm.queued() & set(names.values()):
            time.sleep(asked["poll"])

    return run


if __name__ == "__main__":
    command.finish(lambda: main(sys.argv[1:]), interrupted="interrupted; the same command goes on")
