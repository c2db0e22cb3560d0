"""The tables of docs/scaling.md, made of the files in docs/results/preflight.

    python -m docs.scaling run   # compiles what has no file yet: minutes each, without a TPU
    python -m docs.scaling       # makes the page's tables

A file is what ``python -m ec_jax.preflight --json=FILE`` wrote for one config and topology; a test
compares page and files.
"""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from docs.study import ROOT
from ec_jax.preflight import report
from ec_jax.preflight.chips import CHIPS, GIB

PAGE, FILES = ROOT / "docs" / "scaling.md", ROOT / "docs" / "results" / "preflight"
CONFIGS = ("digits", "imagenet_resnet50", "imagenet_swin_tiny")
# In the order in which they are compiled: the ends of the range first.
TOPOLOGIES = (
    "v5e:2x2",
    "v5e:2x4",
    "v5e:16x16",
    "v6e:2x4",
    "v4:2x2x2",
    "v5e:8x8",
    "v6e:16x16",
    "v5e:4x4",
    "v4:4x8x8",
    "v5e:4x8",
    "v5e:8x16",
)
EXAMPLE = FILES / "example.json"  # of all stages
MEANT = 8  # chips that the configs' batches are taken to be for
STAGES = "unlearn,evaluate"
_GROWN_KIND = "v5e"  # of which there are most files
_COLUMNS = (
    "topology",
    "chips",
    "images a step",
    "HBM needed, GiB",
    "of it temporary",
    "GFLOP",
    "GB moved",
    "MB sent",
    "sums, MB",
    "contrast, MB",
    "compute, ms",
    "HBM, ms",
    "links, ms",
    "binds",
)


def path(config: str, topology: str) -> Path:
    """The file of a config and a topology."""
    return FILES / f"{config}-{topology.replace(':', '-')}.json"


def run() -> None:
    """Compiles what has no file yet, one after the other."""
    for topology in TOPOLOGIES:
        for config in CONFIGS:
            target = path(config, topology).relative_to(ROOT)
            if not (ROOT / target).exists():
                flags = [
                    f"--config=configs/{config}.py",
                    f"--config.stages={STAGES}",
                    f"--topology={topology}",
                    f"--batches_for={MEANT}",
                    f"--json={target}",
                ]
                command = [sys.executable, "-m", "ec_jax.preflight", *flags]
                subprocess.run(command, cwd=ROOT, check=False)  # 1: it does not fit


def page() -> str:
    """The page with what the files say."""
    text = PAGE.read_text()
    printed = report.text(json.loads(EXAMPLE.read_text()))
    parts = {"example": f"```text\n{printed}\n```\n"}
    parts |= {f"{c} {stage}": _table(c, stage) for c in CONFIGS for stage in STAGES.split(",")}
    parts["costs"], parts["growth"] = _costs(), _growth()
    for name, part in parts.items():
        start, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, _, rest = text.partition(start)
        text = f"{before}{start}{part}{end}{rest.partition(end)[2]}"
    return text


def _table(config: str, stage: str) -> str:
    lines = ["| " + " | ".join(_COLUMNS) + " |", "| --- |" + " ---: |" * (len(_COLUMNS) - 2)]
    lines[1] += " --- |"
    lines += ["| " + " | ".join(_row(*found)) + " |" for found in _found(config, stage)]
    return "\n".join(lines) + "\n"


def _costs() -> str:
    """The least that the programs cost which were compiled, by the roofline."""
    titles = ("config", "topology", "steps", "seconds", "chip-hours", "a checkpoint, GB")
    lines = [f"| {' | '.join(titles)} |", "| --- | ---" + " | ---:" * (len(titles) - 2) + " |"]
    for config in CONFIGS[1:]:  # digits cost nothing
        steps = importlib.import_module(f"configs.{config}").get_config().unlearn.steps
        for found, program in _found(config, "unlearn"):
            if "seconds" in program:
                of_step = max(v for k, v in program["seconds"].items() if k != "binds")
                hours = steps * of_step * found["chips"] / 3600
                row = (f"{steps:,}", _short(steps * of_step), _short(hours))
                held = _short(program["hbm"]["held"] / 1e9)
                lines.append("| " + " | ".join((config, found["topology"], *row, held)) + " |")
    return "\n".join(lines) + "\n"


_GROWN = {  # of one chip and one call
    "operations": lambda p: p["flops"],
    "HBM, temporary": lambda p: p["hbm"]["temporaries"],
    "bytes moved": lambda p: p["bytes"],
    "sent for sums": lambda p: p["written"]["summed"],
    "sent for the contrast": lambda p: p["written"]["gathered"],
    "all sent": lambda p: p["sent"],
}


def _growth() -> str:
    """The slopes of the logarithms against the number of chips, of one kind of them."""
    titles = ("config", "program", "chips", *_GROWN)
    lines = [f"| {' | '.join(titles)} |", "| --- | --- | ---" + " | ---:" * len(_GROWN) + " |"]
    for config in CONFIGS:
        for stage in STAGES.split(","):
            rows = [
                (found["chips"], program)
                for found, program in _found(config, stage)
                if found["topology"].startswith(_GROWN_KIND) and "seconds" in program
            ]
            slopes = [_slope([(n, value(p)) for n, p in rows]) for value in _GROWN.values()]
            chips = ", ".join(str(n) for n, _ in rows)
            lines.append(f"| {' | '.join((config, stage, chips, *slopes))} |")
    return "\n".join(lines) + "\n"


def _slope(values: Sequence[tuple[int, float]]) -> str:
    if not all(v for _, v in values):
        return "–"
    slope = np.polyfit(*np.log(np.array(values, float)).T, 1)[0]
    return f"{round(float(slope), 2) + 0.0:.2f}"  # no −0


def _found(config: str, stage: str) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(file, its program) by kind and number of chips."""
    kinds = list(CHIPS)
    files = [json.loads(p.read_text()) for p in FILES.glob(f"{config}-*.json")]
    files.sort(key=lambda f: (kinds.index(f["topology"].partition(":")[0]), f["chips"]))
    for found in files:
        yield from ((found, p) for p in found["programs"] if p["name"] == stage)


def _row(found: Mapping[str, Any], program: Mapping[str, Any]) -> list[str]:
    start = [found["topology"], str(found["chips"]), f"{program['batch']:,}"]
    if "seconds" not in program:
        return [*start, "does not fit", *[""] * (len(_COLUMNS) - len(start) - 1)]
    hbm, written, seconds = program["hbm"], program["written"], program["seconds"]
    return [
        *start,
        *(f"{hbm[k] / GIB:.2f}" for k in ("needed", "temporaries")),
        *(_short(program[k] / 1e9) for k in ("flops", "bytes")),
        *(_short(n / 1e6) for n in (program["sent"], written["summed"], written["gathered"])),
        *(_short(1e3 * seconds[k]) for k in ("compute", "hbm", "interconnect")),
        seconds["binds"],
    ]


def _short(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    if sys.argv[1:] == ["run"]:
        run()
    elif sys.argv[1:]:
        sys.exit("error: run, or nothing")
    PAGE.write_text(page())
