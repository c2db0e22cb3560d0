"""Preflight in words and in JSON: every program compiled, and what would make it fit.

``SCHEMA`` counts the changes of what the file says; a field more is none.
"""

import importlib.metadata
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ec_jax import config as config_lib
from ec_jax.errors import InputError, TrainingError
from ec_jax.preflight import chips, programs
from ec_jax.preflight.compiled import compiled

SCHEMA = 1
# The batches that a stage's programs read.
_READ = {
    "original": ("batch_size",),
    "modules": ("batch_size",),
    "unlearn": ("retain_batch_size", "forget_batch_size"),
    "evaluate": ("eval_batch_size",),
}
_FULL = 0.9  # what is padding beyond it is told
_PACKAGES = ("jax", "jaxlib", "libtpu", "flax")


def preflight(
    config: Any,
    topology: str,
    command: str = "",
    meant: int | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Compiles a config's programs for a topology.

    Args:
      config: validated.
      topology: a known one.
      command: that asked for it.
      meant: chips for which the batches were meant that the command names; None: for these.
      folder: where the compiled programs go as text; None: nowhere.

    Returns:
      What the file of ``--json`` holds.

    Raises:
      InputError: as for ``programs.programs``.
      TrainingError: the compiler fails.
    """
    kind, count = chips.chip(topology), chips.chips(topology)
    found = _compiled(config, topology, folder=folder)
    failed = [p["name"] for p in found if not p["fits"]]
    return {
        "schema": SCHEMA,
        "command": command,
        "model": f"{config.model.name}{config.model.depth}-w{config.model.width}",
        "dtype": config.model.dtype,
        "method": config.method,
        "topology": topology,
        "chips": count,
        "chip": {
            "hbm_bytes": round(kind.hbm * chips.GIB),
            "flops": kind.flops,
            "hbm_bandwidth": kind.hbm_bandwidth,
            "interconnect": round(kind.interconnect),
        },
        "batches": {name: config.data[name] for name in chips.BATCHES},
        "programs": found,
        "fits": not failed,
        "remedy": _remedy(config, topology, failed, meant) if failed else None,
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _compiled(
    config: Any,
    topology: str,
    only: Collection[str] | None = None,
    told: str = "",
    folder: Path | None = None,
) -> list[dict[str, Any]]:
    kind, mesh = chips.chip(topology), programs.mesh(topology)
    found = []
    for program in programs.programs(config, mesh):
        if only is None or program.name in only:
            print(f"compiling {program.name} for {topology}{told}", flush=True)
            found.append(compiled(program, kind, mesh.size, folder))
    return found


def _remedy(
    config: Any, topology: str, failed: Collection[str], meant: int | None
) -> dict[str, Any]:
    """The first change with which all that does not fit does, and those that were tried before."""
    tried = []
    for changes, there in _candidates(config, topology, failed, meant):
        # The command that gets these flags scales batches itself.
        given = {
            f: _unscaled(v, topology, meant) if "batch" in f else v for f, v in changes.items()
        }
        flags = [f"--config.{field}={_word(value)}" for field, value in given.items()]
        flags += [f"--topology={there}"] if there != topology else []
        changed = config.copy_and_resolve_references().unlock()
        changed.update_from_flattened_dict(changes)
        try:
            config_lib.validate(changed.lock(), data_there=False)
            found = _compiled(changed, there, failed, f", with {' '.join(flags)}")
        except (InputError, TrainingError):  # say batches that these chips cannot share
            continue
        if all(p["fits"] for p in found):
            return {"flags": flags, "tried": tried}
        tried.append(flags)
    return {"flags": None, "tried": tried}


def _candidates(
    config: Any, topology: str, failed: Collection[str], meant: int | None
) -> Iterator[tuple[dict[str, Any], str]]:
    """Changes from the one that costs least: time, digits, smaller batches, more chips."""

    def cut(by: int) -> dict[str, int]:
        sizes = {n: config.data[n] for name in failed for n in _READ[name.partition(" ")[0]]}
        smaller = {f"data.{name}": size // by for name, size in sizes.items() if size >= by}
        return smaller if all(_unscaled(s, topology, meant) for s in smaller.values()) else {}

    remat = {} if config.model.remat else {"model.remat": True}
    narrow = {} if config.model.dtype == "bfloat16" else {"model.dtype": "bfloat16"}
    both = remat | narrow
    found = [(changes, topology) for changes in (remat, narrow, both, cut(2), both | cut(2))]
    # With ``meant`` more chips get more images, and no chip fewer.
    if meant is None and (there := chips.larger(topology)):
        found += [({}, there), (both, there)]
    found += [(both | cut(by), topology) for by in (4, 8)]
    for i, candidate in enumerate(found):
        if candidate not in found[:i] and candidate != ({}, topology):
            yield candidate


def _unscaled(size: int, topology: str, meant: int | None) -> int:
    """The batch that ``--batches_for`` makes so large; 0 where there is none."""
    count = chips.chips(topology)
    if meant is None:
        return size
    return size * meant // count if size * meant % count == 0 else 0


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# (title, unit, width, what a program says of it); everything but the images is a chip's, of a call.
_COLUMNS = (
    ("images", "a call", 12, lambda p: f"{p['batch']:,}"),
    ("arguments", "GiB", 11, lambda p: _gib(p["hbm"]["arguments"])),
    ("temporary", "GiB", 11, lambda p: _gib(p["hbm"]["temporaries"])),
    ("needed", "GiB", 9, lambda p: _gib(p["hbm"]["needed"])),
    ("work", "GFLOP", 9, lambda p: f"{p['flops'] / 1e9:.3g}"),
    ("moved", "GB", 8, lambda p: f"{p['bytes'] / 1e9:.3g}"),
    ("sent", "MB", 8, lambda p: f"{p['sent'] / 1e6:.3g}"),
    *((n, "ms", len(n) + 4, lambda p, n=n: f"{1e3 * p['seconds'][n]:.3f}") for n in chips.BOUNDS),
    ("compiled", "s", 10, lambda p: f"{p['compile_seconds']:.1f}"),
)


def text(found: Mapping[str, Any]) -> str:
    """What is printed: a row a program, what it exchanges, and the outcome."""
    capacity, rows = found["chip"]["hbm_bytes"], found["programs"]
    first = max(len(p["name"]) for p in rows)
    lines = [
        f"{found['model']}, {found['dtype']}, method {found['method']}, on {found['topology']}: "
        f"{found['chips']} chips with {_gib(capacity)} GiB of memory each",
        "",
        " " * first + "".join(f"{title:>{width}}" for title, _, width, _ in _COLUMNS) + "  binds",
        " " * first + "".join(f"{unit:>{width}}" for _, unit, width, _ in _COLUMNS),
        *(f"{p['name']:{first}}{_row(p)}" for p in rows),
        "",
        *(_exchanged(p) for p in rows if p.get("collectives")),
        *_padded(rows),
        "",
        _outcome(found),
    ]
    return "\n".join(lines)


def _row(program: Mapping[str, Any]) -> str:
    if "seconds" not in program:
        needed = program["hbm"]["needed"]
        asked = f": {_gib(needed)} GiB are asked for" if needed else ""
        return f"{program['batch']:>12,}  is not compiled, as it does not fit{asked}"
    row = "".join(f"{value(program):>{width}}" for _, _, width, value in _COLUMNS)
    return f"{row}  {program['seconds']['binds']}{'' if program['fits'] else ', does not fit'}"


def _gib(size: float) -> str:
    return f"{size / chips.GIB:.2f}"


def _exchanged(program: Mapping[str, Any]) -> str:
    parts = [
        f"{c['count']} {c['kind']} of {c['bytes'] / 1e6:.2f} MB" for c in program["collectives"]
    ]
    written = program["written"]
    share = 100 * written["gathered"] / max(sum(written.values()), 1)
    gathers = f"; as it is written, {share:.1f} % of it is gathered, the rest are sums"
    return f"{program['name']}: {', '.join(parts)}{gathers if share else ''}"


def _padded(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What of the chip's tiles is padding, where that is much."""
    some = [p for p in rows if (p.get("filled") or 1) < _FULL]
    shares = [f"{p['name']} {100 * p['filled']:.0f} %" for p in some]
    if not shares:
        return []
    return [
        f"Of the tiles that products write are filled: {', '.join(shares)}. A tile has "
        "128 lanes: channels, or images a chip, in multiples of that leave none empty"
    ]


def _outcome(found: Mapping[str, Any]) -> str:
    if found["fits"]:
        needed = max(p["hbm"]["needed"] for p in found["programs"])
        share = math.ceil(100 * needed / found["chip"]["hbm_bytes"])
        return f"It fits: at most {_gib(needed)} GiB of a chip are needed, {share} %."
    failed = ", ".join(p["name"] for p in found["programs"] if not p["fits"])
    flags = found["remedy"]["flags"]
    if flags:
        return f"It does not fit: {failed}. It would with {' '.join(flags)}"
    tried = "; ".join(" ".join(flags) for flags in found["remedy"]["tried"])
    if not tried:
        return f"It does not fit: {failed}. There is no other change to try; take other chips"
    return f"It does not fit: {failed}. Nor does it with any of {tried}"
