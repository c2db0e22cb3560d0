"""A program compiled, and what the compiler says of it."""

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from ec_jax import workdir as workdir_lib
from ec_jax.errors import TrainingError
from ec_jax.preflight import collectives, hlo
from ec_jax.preflight.chips import GIB, Chip, roofline
from ec_jax.preflight.programs import Program

_UNIT = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# "… (53.67G) exceeds available HBM (15.75G)", and "Used 20.1G of 15.75G hbm."
_TOO_MUCH = re.compile(r"([\d.]+)([KMGT]?)\)? (?:exceeds available HBM|of [\d.]+[KMGT]? hbm)")


def compiled(
    program: Program, chip: Chip, devices: int, folder: Path | None = None
) -> dict[str, Any]:
    """What a program takes on each of its chips.

    Args:
      program: for devices of that kind.
      chip: the kind.
      devices: how many.
      folder: where its optimized HLO goes, ``NAME.txt``; None: nowhere.

    Returns:
      ``name``; ``batch``: images of a call, on all chips; ``hbm``: bytes of ``arguments``,
      ``temporaries``, ``results`` (those that take no argument's place), ``code``, what is
      ``held`` beside, and what is ``needed`` in all; ``fits``; ``written``: bytes that a chip
      would send if the program were not made faster, for what is ``summed`` (gradients,
      statistics, metrics) and what is ``gathered`` (of EC the candidates of its contrast, and
      their gradients); and, of a program that compiles, ``flops`` and ``bytes`` of a call on one
      chip, ``filled``: the share of the tiles written by products that is no padding (None without
      products), ``collectives`` and the bytes ``sent`` for them, ``seconds`` by the roofline, and
      ``compile_seconds``.

    Raises:
      TrainingError: the compiler fails, for another reason than the program's size.
    """
    began = time.monotonic()
    found = {"name": program.name, "batch": program.batch}
    lowered = program.function.lower(*program.arguments)
    found["written"] = _written(collectives.find(lowered.as_text(dialect="hlo"), devices))
    try:
        made = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise TrainingError(f"{program.name}: the compiler failed: {error}") from error
        return found | {"hbm": _too_much(program, str(error)), "fits": False}
    took = time.monotonic() - began
    hbm, costs = _hbm(program, made.memory_analysis()), made.cost_analysis()
    flops, moved = costs.get("flops", 0.0), costs.get("bytes accessed", 0.0)
    text = made.as_text()
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        name = "_".join(re.findall(r"\w+", program.name))
        workdir_lib.write_whole(folder / f"{name}.txt", lambda part: part.write_text(text))
    exchanged = collectives.find(text, devices)
    sent, full = sum(c.sent for c in exchanged), hlo.filled(text)
    return found | {
        "hbm": hbm,
        "fits": hbm["needed"] <= chip.hbm * GIB,
        "flops": round(flops),
        "bytes": round(moved),
        "filled": full and round(full, 3),
        "collectives": [vars(c) | {"sent": round(c.sent)} for c in exchanged],
        "sent": round(sent),
        "seconds": roofline(chip, flops, moved, sent),
        "compile_seconds": round(took, 1),
    }


def _written(found: Iterable[collectives.Collective]) -> dict[str, int]:
    sums = {"summed": 0.0, "gathered": 0.0}
    for one in found:
        sums["summed" if one.kind == "all-reduce" else "gathered"] += one.sent
    return {name: round(size) for name, size in sums.items()}


def _hbm(program: Program, memory: Any) -> dict[str, int]:
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    found = {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "results": results,
        "code": memory.generated_code_size_in_bytes,
        "held": program.held + program.results * results,
    }
    return found | {"needed": sum(found.values())}


def _too_much(program: Program, message: str) -> dict[str, Any]:
    """What is known of a program that the compiler refuses: how much it asked for."""
    asked = _TOO_MUCH.search(message)
    needed = round(float(asked[1]) * _UNIT[asked[2]]) if asked else None
    return {"arguments": program.size, "held": program.held, "needed": needed}
