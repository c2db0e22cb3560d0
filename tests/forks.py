"""Many commands in a short time: what they import is imported once, and every one is a fork of it.

    python tests/forks.py < CALLS > RESULTS

CALLS is JSON: a list of {"module", "arguments", "cwd"}; RESULTS has {"status", "out", "err"} each,
of ``python -m MODULE ARGUMENTS`` in that folder; where the module is a path ending in ``.py`` or
``.sh``, of that program, and where it is ``-c``, of the code. What hangs ends with status 124.
"""

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIMIT = 60  # seconds a command
_SLOW = (
    "jax flax orbax.checkpoint tensorflow_datasets torch PIL.Image safetensors matplotlib.pyplot"
)
_OURS = "ec_jax.pipeline ec_jax.convert ec_jax.audit ec_jax.tune ec_jax.report.comparison_files"


def run(calls):
    """[{"status", "out", "err"}] of the calls, in a process of their own."""
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _serve():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    calls = json.load(sys.stdin)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in (*_SLOW.split(), *_OURS.split()):
            importlib.import_module(name)
    results = [_forked(**call) for call in calls]
    json.dump(results, sys.stdout)


def _forked(module, arguments, cwd):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            _become(module, arguments, cwd, out, err)
        _, state = os.waitpid(child, 0)
        status = 124 if os.WIFSIGNALED(state) else os.waitstatus_to_exitcode(state)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="backslashreplace"))
    return {"status": status, "out": texts[0], "err": texts[1]}


def _become(module, arguments, cwd, out, err):
    """The child's whole life: it never comes back."""
    status = 1
    try:
        signal.alarm(LIMIT)
        for number, file in enumerate(
            (os.open(os.devnull, os.O_RDONLY), out.fileno(), err.fileno())
        ):
            os.dup2(file, number)
        os.chdir(cwd)
        sys.argv = [module, *arguments]
        sys.modules.pop(module, None)
        if module == "-c":
            exec(arguments[0], {"__name__": "__main__"})
        elif module.endswith(".sh"):
            os.execvp("bash", ["bash", module, *arguments])
        elif module.endswith(".py"):
            runpy.run_path(module, run_name="__main__")
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
