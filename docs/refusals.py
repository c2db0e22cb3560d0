"""The page of what commands refuse: ``docs/refusals.md``, from docs/results/refusals.json.

    python -m docs.refusals          # makes the page
    python -m docs.refusals measure  # first runs every case of tests/refusals.py, minutes

A case is run as its user would, in a process of its own, and timed from the start of Python to its
end.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import timing
from docs.study import RESULTS, ROOT
from ec_jax import command
from ec_jax.errors import InputError, printable, shortened
from ec_jax.workdir import write_json

FILE = RESULTS / "refusals.json"
PAGE = ROOT / "docs" / "refusals.md"
HEAD = """\
# What commands refuse

Made by `python -m docs.refusals` from docs/results/refusals.json, which `python -m docs.refusals
measure` makes of the cases in tests/refusals.py: each in a process of its own, timed from the start
of Python to its end. A mistake is one line on stderr and exit status 2; Ctrl-C, also while a config
file is read, is 130. Nothing is written. Tests run every case.

`DIR` is the case's own folder, in which lies what its command is given; values of any length are
shown cut, here and by the commands. What is trusted and what is not: [security.md](security.md).

"""


def measure() -> dict[str, Any]:
    """The machine, its load, and of every case its command, status, line and seconds."""
    sys.path.append(str(ROOT / "tests"))
    from refusals import CASES

    cases = []
    for i, case in enumerate(CASES):
        with tempfile.TemporaryDirectory() as made:
            cases.append(_run(case, Path(made)))
        print(f"{i + 1} of {len(CASES)}: {cases[-1]['seconds']} s", flush=True)
    load = round(os.getloadavg()[2], 1)  # processes that wanted a core, ours among them
    return {"machine": timing.machine(), "load": load, "cases": cases}


def _run(case: Any, folder: Path) -> dict[str, Any]:
    arguments, _ = case.placed(folder)
    began = time.monotonic()
    done = subprocess.run(
        [*case.start, *arguments],
        capture_output=True,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},  # libtpu has much to say where there is no TPU
        timeout=300,
    )
    seconds = time.monotonic() - began

    def told(text: str) -> str:
        text = text.replace(str(folder), "DIR").replace(f"{ROOT}/", "")
        return printable(text.encode(errors="backslashreplace").decode())

    call = re.search(r"dict\((.*)\)\)$", arguments[0].strip()) if case.module == "-c" else None
    return {
        "command": "ec_jax.unlearn" if call else case.module,
        "arguments": [told(shortened(a, 60)) for a in ([call[1]] if call else arguments)],
        "files": sorted(told(name) for name in case.files),
        "status": done.returncode,
        "line": told(done.stderr.decode(errors="backslashreplace").removesuffix("\n")),
        "seconds": round(seconds, 2),
    }


def page(found: dict[str, Any]) -> str:
    """The page of what was measured."""
    cases, m = found["cases"], found["machine"]
    times = sorted(case["seconds"] for case in cases)
    middle, last = times[len(times) // 2], times[-1]
    where = f"{m['cores']} cores ({m['processor']}), no accelerator, Python {m['python']}"
    told = f"{len(cases)} cases; half of them end within {middle} s, all within {last} s\n"
    told += f"({where}; {found['load']} processes wanted a core in the last 15 minutes).\n"
    parts = [HEAD, told]
    for name in dict.fromkeys(case["command"] for case in cases):
        rows = [_row(case) for case in cases if case["command"] == name]
        parts.append(f"\n## {name}\n\n| Arguments | Status | Message | Seconds |\n")
        parts.append("| --- | --- | --- | ---: |\n" + "".join(rows))
    return "".join(parts)


# What all cases of a command have in common.
_USUAL = ("--workdir=DIR/runs/new", "--out=DIR/runs/new", "--config.parallel.devices=2")


def _row(case: dict[str, Any]) -> str:
    given = " ".join(a for a in case["arguments"] if a not in _USUAL)
    message = shortened(case["line"].removeprefix("error: "), 300)
    return f"| {_code(given)} | {case['status']} | {_code(message)} | {case['seconds']} |\n"


def _code(text: str) -> str:
    """Text as code in a cell of a table, whatever is in it."""
    if not text:
        return ""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}".replace("|", "\\|")


def main(arguments: Sequence[str]) -> None:
    """The command."""
    parser = command.Parser(prog="python -m docs.refusals", description=__doc__)
    parser.add_argument("action", metavar="ACTION", nargs="?", help="measure")
    found = parser.parse(arguments)
    if found.action not in (None, "measure"):
        raise InputError("ACTION", found.action, "measure, or nothing")
    if found.action:
        write_json(FILE, measure())
    PAGE.write_text(page(json.loads(FILE.read_text())), encoding="utf-8")


if __name__ == "__main__":
    command.finish(lambda: main(sys.argv[1:]))
