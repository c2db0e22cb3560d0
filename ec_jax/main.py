"""The command: ``python -m ec_jax.main --config=configs/digits.py --workdir=runs/digits``.

--config=FILE        a file with get_config(); --config.FIELD=VALUE sets one of its fields
--workdir=DIR        where the run's results and checkpoints go

A sequence of requests, --config.forget.classes='5;1;8', is a run each, in DIR/request1 and so on.

Several processes, on one machine or many, join by --config.parallel.coordinator (docs/scaling.md).
All get the same command and the same DIR; the first one speaks and writes.

Exit status: 0 done, 2 input that cannot be used, 3 training that could not go on,
130 interrupted, 143 terminated (``ec_jax/command.py``). A mistake is answered with one line on
stderr.
"""

import functools
import os
import shlex
import signal
import sys
from typing import Any, NoReturn

from ec_jax import config as config_lib
from ec_jax import config_file, data_config, watched
from ec_jax import workdir as workdir_lib
from ec_jax.command import finish
from ec_jax.errors import MISSED, TrainingError

FLAGS = {"workdir": ("Where the run's results and checkpoints go.", "runs/digits")}
INTERRUPTED = "interrupted; the same command goes on from the newest checkpoint, if there is one"


def main(config: Any, flags: Any) -> None:
    """Runs the experiment that the flags describe."""
    if not flags.workdir:
        raise config_file.missing("workdir", flags.workdir, FLAGS)
    workdir = os.path.expanduser(flags.workdir)
    config_lib.validate(config)
    workdir_lib.check_workdir(config, workdir, foreign=workdir_lib.OF_A_GRID)
    command = shlex.join(["python", "-m", "ec_jax.main", *sys.argv[1:]])
    if len(data_config.requests(config)) > 1:
        config_lib.check_alone(config, "a sequence of requests")
        # JAX is imported only for input that can work.
        from ec_jax import sequence

        sequence.run(config, workdir, command)
    elif config.parallel.coordinator:
        _run_as_one_of_many(config, workdir, command)
    else:
        from ec_jax.pipeline import Experiment

        Experiment(config, workdir, command).run()


def _run_as_one_of_many(config: Any, workdir: str, command: str) -> NoReturn:
    """Runs the experiment together with the other processes of the run."""
    status = watched.run(functools.partial(_run_together, config, workdir, command))
    if status == -signal.SIGABRT:
        # JAX has said whom it misses; a library that aborts has said why.
        raise TrainingError(f"aborted; if no line above says why, {MISSED}")
    sys.exit(128 - status if status < 0 else status)


def _run_together(config: Any, workdir: str, command: str) -> NoReturn:
    from ec_jax import processes
    from ec_jax.pipeline import Experiment

    p = config.parallel
    processes.join(p.coordinator, p.processes, p.process, p.devices)
    if not processes.primary():
        workdir_lib.leave_writing()

    def work() -> None:
        with processes.together():
            processes.check_same(config_lib.in_common(config))
            Experiment(config, workdir, command).run()

    try:
        finish(work, interrupted=INTERRUPTED, leave=processes.leave)
        processes.leave(0)
    except SystemExit as end:
        processes.leave(end.code)


if __name__ == "__main__":
    config_file.run(main, FLAGS, interrupted=INTERRUPTED)
