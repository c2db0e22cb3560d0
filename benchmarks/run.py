"""The benchmarks: ``python -m benchmarks.run [NAME...]``, all without a name.

Prints a table a group, writes ``benchmarks/results/GROUP.json`` and, made of it, the group's table
in ``docs/performance.md``. ``--smoke`` takes tiny sizes, checks the values and writes nothing.
``--quick`` times three pairs each, and writes nothing. ``--check`` writes nothing either: it runs
those that have a ratio and compares these, never times, with what is committed. Exit status 1 where
one is worse by a fifth than the worst pair was.
"""

import argparse
import functools
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import (
    cka,
    extraction,
    growth,
    knn,
    loop,
    memory,
    packages,
    pictures,
    precision,
    step,
    timing,
)
from ec_jax import command
from ec_jax.errors import InputError

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER.parent / "docs" / "performance.md"
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
        **{
            f"{kind.__name__}_{model}": functools.partial(kind, model)
            for model in step.MODELS
            for kind in (step.ec, step.plain)
        },
        **{
            f"{kind.__name__}_{model}": functools.partial(kind, model)
            for model in ("resnet18_w16", "vit_tiny")
            for kind in (step.ec_compiled, step.ec_hooks)
        },
        **{
            f"ec_over_plain_{model}_{kind}": functools.partial(step.ec_over_plain, model, kind)
            for model in ("resnet18_w16", "resnet18_w64")
            for kind in ("pool", "conv")
        },
        "training_loop_8x8": loop.digits_8x8,
        "training_loop_32x32": loop.digits_32x32,
        "training_loop_resnet18_w16": loop.resnet18_w16,
    },
    "packages": {
        "finetune_torchunlearn": packages.torchunlearn,
        "finetune_supreme": packages.supreme,
    },
    "precision": {"bfloat16": precision.bfloat16},
    "growth": {f"growth_{name}": functools.partial(growth.measured, name) for name in growth.NAMES},
}
_SLACK = 0.2  # of a ratio, for the noise of few pairs
BENCHMARKS = {name: run for group in GROUPS.values() for name, run in group.items()}
HEAD = "| Name | What | Against | Measured | At least |\n| --- | --- | --- | --- | --- |\n"


def measured(entry: dict[str, Any]) -> tuple[str, str]:
    """The last two cells of a benchmark's row."""
    if "ratio" in entry:
        r = entry["ratio"]
        pairs, load = len(entry["ours_seconds"]), entry["load"]
        spread = f"{r['lowest']:.2f} to {r['highest']:.2f}, {pairs} pairs, load {load:.1f}"
        least = entry["target"]
        wanted = "–" if least is None else f"≥ {least:.{1 if least >= 1 else 2}f}×"
        cpu = f"; CPU {r['cpu']:.2f}×" if "cpu" in r else ""
        cpu += f"; FLOPs {entry['flops']:.2f}×" if "flops" in entry else ""
        rates = entry.get("images_per_second", {})
        cpu += "".join(f"; {side} {rate} images/s" for side, rate in rates.items())
        return f"{r['median']:.2f}× ({spread}){cpu}", wanted
    if "exponents" in entry:
        e, units = entry["exponents"], {"seconds": "time", "flops": "operations", "bytes": "memory"}
        slopes = ", ".join(f"{units.get(kind, kind)} {slope:.2f}" for kind, slope in e.items())
        times = zip(entry["values"], entry["seconds"], strict=True)
        return f"{slopes}; {', '.join(f'{v}: {t:.3g} s' for v, t in times)}", "–"
    if "accuracy" in entry:
        return f"{precision.in_words(entry['accuracy'])}; {len(entry['seeds'])} seeds", "–"
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


def page(group: str, results: dict[str, Any]) -> str:
    """The page with a group's table between its markers."""
    block = f"<!-- {group} -->\n{table(results)}<!-- end -->"
    pattern = rf"<!-- {group} -->\n.*?<!-- end -->"
    return re.sub(pattern, lambda _: block, PAGE.read_text(), flags=re.S)


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


def worse(new: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """What has become worse, in words: {name: entry} against the committed entries.

    A ratio of one machine says little of another's, but it hangs less on its load than a time does.
    Operations are counted, so that one in a hundred more is worse.
    """
    found = []
    for name, entry in new.items():
        if "ratio" not in entry or name not in old:
            continue
        now, known = entry["ratio"]["median"], old[name]["ratio"]
        if entry.get("less"):
            limit = round(known["highest"] * (1 + _SLACK), 3)
            bad, side = now > limit, "most"
        else:
            limit = round(known["lowest"] * (1 - _SLACK), 3)
            bad, side = now < limit, "least"
        if bad:
            found.append(f"{name}: {now:.2f}, at {side} {limit:.2f} expected")
        most = 1.01 * old[name].get("flops", 0)
        if entry.get("flops", 0) > most:
            found.append(f"{name}: FLOPs {entry['flops']:.3f}, at most {most:.3f} expected")
    return found


def written(results: dict[str, Any]) -> str:
    """The JSON with every list of times on one line."""
    text = json.dumps(results, indent=1) + "\n"
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text)


def main(given: Sequence[str]) -> None:
    """The command."""
    parser = command.Parser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; values only")
    parser.add_argument("--quick", action="store_true", help="three pairs each; writes nothing")
    parser.add_argument("--check", action="store_true", help="status 1 where a ratio is worse")
    arguments = parser.parse(given)
    jax.config.update("jax_platforms", "cpu")  # as PyTorch's side, whatever else is there
    for name in arguments.names:
        if name not in BENCHMARKS:
            raise InputError("NAME", name, f"no benchmark; there are {', '.join(BENCHMARKS)}")
    wanted, found = there(arguments.names), []
    for group, known in GROUPS.items():
        names = [name for name in known if name in wanted]
        if arguments.check:
            names = [name for name in names if "ratio" in _committed(group).get(name, {})]
        if names:
            found += _run(group, names, arguments)
    if arguments.check and arguments.smoke:
        print("The values are right; of tiny sizes no ratio is compared.")
    elif arguments.check:
        print("\n".join(found) or "No ratio is worse than those that are committed.")
        sys.exit(bool(found))


def there(names: list[str]) -> list[str]:
    """The named ones, else all that can run here; of the others a line says how to go on."""
    lacks = {name: packages.lack(name) or step.lack(name) for name in names or BENCHMARKS}
    for name, remedy in lacks.items():
        if remedy and names:
            raise InputError("NAME", name, f"something is missing: {remedy}")
        if remedy:
            print(f"{name}: skipped, something is missing: {remedy}", flush=True)
    return [name for name, remedy in lacks.items() if not remedy]


def _committed(group: str) -> dict[str, Any]:
    """{name: entry} of what is written."""
    file = results_file(group)
    return json.loads(file.read_text())["benchmarks"] if file.exists() else {}


def _run(group: str, names: list[str], how: argparse.Namespace) -> list[str]:
    """Measures; gives what is worse than before."""
    with timing.at_most(3 if how.quick else 1000):
        results = measure(names, how.smoke)
    print(table(results))
    if not (how.smoke or how.quick or how.check):
        _write(group, results)
    # Of tiny sizes the ratios mean nothing.
    return [] if how.smoke else worse(results["benchmarks"], _committed(group))


def _write(group: str, results: dict[str, Any]) -> None:
    file = results_file(group)
    if file.exists():
        results = merged(results, json.loads(file.read_text()))
    if results is None:
        print("Not written: the others' numbers are of another machine or versions; run all.")
        return
    file.parent.mkdir(exist_ok=True)
    file.write_text(written(results))
    PAGE.write_text(page(group, results))


if __name__ == "__main__":
    command.finish(lambda: main(sys.argv[1:]))
