"""The command line and its overrides, as a user gives them."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# A command with a little Python before it.
WITH = "import runpy, sys\n{}\nrunpy.run_module('{}', run_name='__main__')"


def command(*arguments, module="ec_jax.main", before=None, cwd=ROOT, timeout=60, **env):
    """``python -m MODULE`` in a process of its own; ``before`` runs in it first."""
    start = ["-c", WITH.format(before, module)] if before else ["-m", module]
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        timeout=timeout,
    )


def installed(source, target):
    """Installs a package from a folder into another one, without what it depends on."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, f"--target={target}", str(source)], check=True)


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


def config_of(workdir):
    """The config of a run, from what it left."""
    from configs import default

    config = default.get_config().unlock()
    config.update(json.loads((Path(workdir) / "config.json").read_text()))
    return config.lock()


def model(**fields):
    """The group ``model`` of a config with these fields."""
    from configs import default

    group = default.get_config().model.unlock()
    group.update(fields)
    return group.lock()


def refused(*arguments, says=(), **how):
    """Runs a command that cannot work; ``says`` are parts of its one line, in their order."""
    done = command(*arguments, **how)
    assert done.returncode == 2, done
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in lines[0]
    rest = lines[0]
    for part in says:
        assert part in rest, (part, lines[0])
        rest = rest.partition(part)[2]
