"""The benchmarks: ``python -m benchmarks.run [NAME...]``, all without a name.

Prints a table a group, writes ``benchmarks/results/GROUP.json`` and, made of it, the group's table
in ``benchmarks/README.md``. ``--smoke`` takes tiny sizes, checks the values and writes nothing.
"""

import functools
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import cka, extraction, knn, memory, pictures, step, timing
from ec_jax import command
from ec_jax.errors import InputError

FOLDER = Path(__file__).resolve().parent
README = FOLDER / "README.md"
GROUPS = {  # what was measured on one machine, together
    "evaluation": {
        "linear_cka_jax": cka.linear_jax,
        "linear_cka_torch": cka.linear_torch,
        "minibatch_cka_torch": cka.minibatch_torch,
        "minibatch_cka_torch_careful": cka.minibatch_torch_careful,
        "knn": knn.scikit_learn,
        "extraction": extraction.passes,
        "memory": memory.streaming,
    },
    "input": {"pictures": pictures.torch_loader},
    "steps": {
        f"{kind.__name__}_{model}": functools.partial(kind, model)
        for model in step.MODELS
        for kind in (step.ec, step.plain)
    },
}
BENCHMARKS = {name: run for group in GROUPS.values() for name, run in group.items()}
HEAD = "| Name | What | Against | Measured | At least |\n| --- | --- | --- | --- | --- |\n"


def measured(entry: dict[str, Any]) -> tuple[str, str]:
    """The last two cells of a benchmark's row."""
    if "ratio" in entry:
        r = entry["ratio"]
        pairs, load = len(entry["ours_seconds"]), entry["load"]
        spread = f"{r['lowest']:.2f} to {r['highest']:.2f}, {pairs} pairs, load {load:.1f}"
        wanted = "–" if entry["target"] is None else f"≥ {entry['target']:.1f}×"
        cpu = f"; CPU {r['cpu']:.2f}×" if "cpu" in r else ""
        rates = entry.get("images_per_second", {})
        cpu += "".join(f"; {side} {rate} images/s" for side, rate in rates.items())
        return f"{r['median']:.2f}× ({spread}){cpu}", wanted
    if "total" in entry:
        t, passes = entry["total"], len(entry["passes"])
        return f"{passes} passes, {t['images']} images, {t['padding']} rows of padding", "once"
    growth = ", ".join(f"{mib:.0f} MiB at {n}" for n, mib in entry["growth_mib"].items())
    held = f"{entry['features_held_mib']:.0f} MiB where features are held"
    return f"{growth} ({entry['growth_ratio']:.2f}×); {held}", "constant"


def table(results: dict[str, Any]) -> str:
    """The Markdown table of what the JSON holds, and the machine below it."""
    rows = [
        "| " + " | ".join([f"`{name}`", entry["what"], entry["against"], *measured(entry)]) + " |\n"
        for name, entry in results["benchmarks"].items()
    ]
    m = dict(results["machine"])
    where = f"{m.pop('cores')} core(s), {m.pop('processor')}, {m.pop('system')}"
    versions = ", ".join(f"{name} {value}" for name, value in m.items())
    return f"{HEAD}{''.join(rows)}\nMachine: {where}; {versions}.\n"


def results_file(group: str) -> Path:
    """Where the numbers of a group are."""
    return FOLDER / "results" / f"{group}.json"


def readme(group: str, results: dict[str, Any]) -> str:
    """The README with a group's table between its markers."""
    block = f"<!-- {group} -->\n{table(results)}<!-- end -->"
    pattern = rf"<!-- {group} -->\n.*?<!-- end -->"
    return re.sub(pattern, lambda _: block, README.read_text(), flags=re.S)


def measure(names: list[str], smoke: bool) -> dict[str, Any]:
    """{"machine", "benchmarks": {name: entry}} of the named benchmarks."""
    entries = {}
    for name in names:
        print(f"{name} …", flush=True)
        entries[name] = BENCHMARKS[name](smoke=smoke)
    return {"machine": timing.machine(), "benchmarks": entries}


def merged(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any] | None:
    """The new numbers among the old ones; None where a part would stay another machine's."""
    if old["machine"] != new["machine"] and old["benchmarks"].keys() - new["benchmarks"]:
        return None
    entries = {**old["benchmarks"], **new["benchmarks"]}
    return {**new, "benchmarks": {name: entries[name] for name in BENCHMARKS if name in entries}}


def written(results: dict[str, Any]) -> str:
    """The JSON with every list of times on one line."""
    text = json.dumps(results, indent=1) + "\n"
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text)


def main(given: Sequence[str]) -> None:
    """The command."""
    parser = command.Parser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; values only")
    arguments = parser.parse(given)
    for name in arguments.names:
        if name not in BENCHMARKS:
            raise InputError("NAME", name, f"no benchmark; there are {', '.join(BENCHMARKS)}")
    for group, known in GROUPS.items():
        if names := [name for name in known if name in (arguments.names or known)]:
            _run(group, names, arguments.smoke)


def _run(group: str, names: list[str], smoke: bool) -> None:
    results, file = measure(names, smoke), results_file(group)
    print(table(results))
    if smoke:
        return
    if file.exists():
        results = merged(results, json.loads(file.read_text()))
    if results is None:
        print("Not written: the others' numbers are of another machine or versions; run all.")
        return
    file.parent.mkdir(exist_ok=True)
    file.write_text(written(results))
    README.write_text(readme(group, results))


if __name__ == "__main__":
    command.finish(lambda: main(sys.argv[1:]))
