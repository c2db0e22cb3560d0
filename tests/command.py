"""The command line and its overrides, as a user gives them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The command with a little Python before it.
WITH = "import runpy, sys\n{}\nrunpy.run_module('ec_jax.main', run_name='__main__')"


def command(*arguments, before=None, cwd=ROOT, timeout=60, **env):
    """``python -m ec_jax.main`` in a process of its own; ``before`` runs in it first."""
    start = ["-c", WITH.format(before)] if before else ["-m", "ec_jax.main"]
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        timeout=timeout,
    )


def changed(config, **fields):
    """A config with other values, of whatever type; ``a__b=1`` sets ``a.b``."""
    c = config.unlock()
    with c.ignore_type():
        for name, value in fields.items():
            *groups, field = name.split("__")
            group = c
            for g in groups:
                group = group[g]
            group[field] = value
    return c.lock()
