"""A pod on this machine: several processes, each with some of the devices, that run one command.

    python launch/local_pod.py --processes=2 --devices=2 -- --config=configs/digits.py \
        --workdir=runs/digits

What follows ``--`` are the flags of ``ec_jax.main``. On a machine without accelerators every
process gets its own virtual CPU devices: the rehearsal of a real pod, with its processes,
messages and common checkpoints.

Exit status: 0 if all processes ended so, else that of the first that failed, which the others only
miss; of several at once the largest.
"""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
sys.path.append(str(HERE))

from ec_jax import command, config_file  # noqa: E402
from ec_jax import config as config_lib  # noqa: E402
from ec_jax import main as run_command  # noqa: E402
from ec_jax.errors import InputError  # noqa: E402

PATIENCE = 90  # seconds in which the others end by themselves when one has failed
_EACH = 0.1  # seconds between two looks at them


def main(arguments: Sequence[str]) -> None:
    """Runs the pod that the arguments describe, and ends with its exit status."""
    parser = command.Parser(prog="launch/local_pod.py", description=__doc__)
    parser.add_argument("--processes", type=int, default=2, help="how many processes, >= 1")
    parser.add_argument("--devices", type=int, default=1, help="of each process, >= 1")
    split = list(arguments).index("--") if "--" in arguments else len(arguments)
    asked, flags = parser.parse(arguments[:split]), list(arguments[split + 1 :])
    for name in ("processes", "devices"):
        if getattr(asked, name) < 1:
            raise InputError(f"--{name}", getattr(asked, name), "at least 1")
    if not flags:
        remedy = "give flags of ec_jax.main after --, e.g. -- --config=configs/digits.py"
        raise InputError("--", None, remedy)

    def work(config: Any, found: Any) -> None:
        # Mistakes are said once, and not by every process.
        if not found.workdir:
            raise config_file.missing("workdir", found.workdir, run_command.FLAGS)
        config_lib.validate(config)
        config_lib.check_batches(config, asked.processes * asked.devices)
        sys.exit(_run(asked.processes, asked.devices, flags))

    sys.argv = [sys.argv[0], *flags]
    config_file.run(work, run_command.FLAGS, interrupted=run_command.INTERRUPTED)


def _run(processes: int, devices: int, flags: Sequence[str]) -> int:
    """Starts the processes and waits for them; the exit status of all."""
    where, group = f"localhost:{_free_port()}", []
    try:
        for process in range(processes):
            run = [
                *(sys.executable, "-m", "ec_jax.main", *flags),
                f"--config.parallel.coordinator={where}",
                f"--config.parallel.processes={processes}",
                f"--config.parallel.process={process}",
                f"--config.parallel.devices={processes * devices}",
            ]
            group.append(subprocess.Popen(run, env=command.environment()))
        return _wait(group)
    except BaseException:  # a signal amid the starts
        _end(group, signal.SIGTERM)
        raise


def _wait(group: Sequence[subprocess.Popen]) -> int:
    """Waits for all; after a failure the others are given time, then they are ended."""
    # Both are the processes' own matter: at Ctrl-C they get the signal from the terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: _end(group, signal.SIGTERM))
    first, until = 0, 0.0
    while True:
        runs = None in [process.poll() for process in group]  # all are looked at
        if not first and (first := _failure(group)):
            until = time.monotonic() + PATIENCE
        if not runs:
            return first
        if first and time.monotonic() > until:
            _end(group, signal.SIGKILL)
        time.sleep(_EACH)


def _failure(group: Sequence[subprocess.Popen]) -> int:
    """The largest status of those that have ended, as shells say it."""
    ended = [process.returncode or 0 for process in group]
    return max(128 - status if status < 0 else status for status in ended)


def _end(group: Sequence[subprocess.Popen], how: int) -> None:
    for process in group:
        if process.poll() is None:
            process.send_signal(how)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return taken.getsockname()[1]


if __name__ == "__main__":
    command.finish(lambda: main(sys.argv[1:]))
