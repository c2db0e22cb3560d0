"""The benchmarks: ``python -m benchmarks.run [NAME...]``, all without a name.

Prints a table a group, writes ``benchmarks/results/GROUP.json`` and, made of it, the group's table
in ``docs/performance.md``. ``--smoke`` takes tiny sizes, checks the values and writes nothing.
``--quick`` times three pairs each, and writes nothing. ``--check`` writes nothing either: it runs
those that have a ratio and compares these, never times, with what is committed. Exit status 1 where
one is worse by a quarter, twice.
"""

import argparse
import functools
import json
import os
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
    runs,
    step,
    table,
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
        "training_loop_8x8_unsaved": loop.unsaved_8x8,
        "training_loop_32x32": loop.digits_32x32,
        "training_loop_resnet18_w16": loop.resnet18_w16,
    },
    "packages": {
        "finetune_torchunlearn": packages.torchunlearn,
        "finetune_supreme": packages.supreme,
    },
    "precision": {"bfloat16": precision.bfloat16},
    "runs": {
        "help": runs.started,
        "second_run": runs.second_run,
        "evaluation_share": runs.evaluation,
    },
    "growth": {f"growth_{name}": functools.partial(growth.measured, name) for name in growth.NAMES},
}
_SLACK = 0.25  # of a ratio, for the noise of few pairs
BENCHMARKS = {name: run for group in GROUPS.values() for name, run in group.items()}


def results_file(group: str) -> Path:
    """Where the numbers of a group are."""
    return FOLDER / "results" / f"{group}.json"


def page(group: str, results: dict[str, Any]) -> str:
    """The page with a group's table between its markers."""
    block = f"<!-- {group} -->\n{table.rows(results)}<!-- end -->"
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


def worse(new: dict[str, Any], old: dict[str, Any]) -> dict[str, str]:
    """{name: what has become worse, in words} of {name: entry} against the committed entries.

    A ratio of one machine says little of another's, but it hangs less on its load than a time does.
    EC's operations over a supervised step's are counted, so that one in a hundred more is worse.
    """
    found = {}
    for name, entry in new.items():
        if "ratio" not in entry or name not in old:
            continue
        now, known = entry["ratio"]["median"], old[name]["ratio"]["median"]
        least, most = known * (1 - _SLACK), known * (1 + _SLACK)
        if now > most if entry.get("less") else now < least:
            limit = f"at most {most:.2f}" if entry.get("less") else f"at least {least:.2f}"
            found[name] = f"{name}: {now:.2f}, {limit} expected"
        most = 1.01 * old[name].get("flops", 0)
        if entry.get("flops", 0) > most:
            found[name] = f"{name}: FLOPs {entry['flops']:.3f}, at most {most:.3f} expected"
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
    # As PyTorch's side, whatever else is there, and so do the processes that are started here.
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_platforms", "cpu")
    for name in arguments.names:
        if name not in BENCHMARKS:
            raise InputError("NAME", name, f"no benchmark; there are {', '.join(BENCHMARKS)}")
    for name in arguments.names if arguments.check else []:
        if not _has_ratio(name):
            raise InputError("NAME", name, "it has no committed ratio to compare; leave it out")
    wanted, compared, found = there(arguments.names), 0, {}
    for group, known in GROUPS.items():
        names = [name for name in known if name in wanted]
        if arguments.check:
            names = [name for name in names if _has_ratio(name)]
        if names:
            compared += len(names)
            found |= _run(group, names, arguments)
    if arguments.smoke:
        print("The values are right. Times and ratios of tiny sizes mean nothing.")
    elif arguments.check:
        print("\n".join(found.values()) or f"None of {compared} ratios is worse than before.")
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
    """{"machine", "benchmarks": {name: entry}} of what is written."""
    file = results_file(group)
    return json.loads(file.read_text()) if file.exists() else {"machine": {}, "benchmarks": {}}


def _has_ratio(name: str) -> bool:
    group = next(group for group, known in GROUPS.items() if name in known)
    return "ratio" in _committed(group)["benchmarks"].get(name, {})


def _run(group: str, names: list[str], how: argparse.Namespace) -> dict[str, str]:
    """Measures; gives what is worse than before."""
    known = _committed(group)
    with timing.at_most(3 if how.quick else 1000):
        results = measure(names, how.smoke)
        print(table.rows(results, aims=not how.smoke))
        if how.smoke:
            return {}
        found = worse(results["benchmarks"], known["benchmarks"])
        if how.check and found:  # another program may have run beside it: once more
            again = measure(list(found), how.smoke)
            print(table.rows(again))
            found = worse(again["benchmarks"], known["benchmarks"])
    if not (how.quick or how.check):
        _write(group, results)
    elif how.check and known["machine"] != results["machine"]:
        print("What is committed is of another machine or other versions.\n")
    return found


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
