"""Preflight in words and in JSON: every program compiled, and what would make it fit.

``SCHEMA`` counts the changes of what the file says.
"""

import importlib.metadata
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ec_jax import config as config_lib
from ec_jax.errors import InputError
from ec_jax.preflight import chips, programs
from ec_jax.preflight.compiled import compiled

SCHEMA = 1
_PACKAGES = ("jax", "jaxlib", "libtpu", "flax")


def preflight(config: Any, topology: str, command: str = "") -> dict[str, Any]:
    """Compiles a config's programs for a topology.

    Args:
      config: validated.
      topology: a known one.
      command: that asked for it.

    Returns:
      What the file of ``--json`` holds.

    Raises:
      InputError: as for ``programs.programs``.
    """
    kind, count = chips.chip(topology), chips.chips(topology)
    found = _compiled(config, topology)
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
        "remedy": _remedy(config, topology, failed) if failed else None,
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _compiled(
    config: Any, topology: str, only: Collection[str] | None = None, told: str = ""
) -> list[dict[str, Any]]:
    kind, mesh = chips.chip(topology), programs.mesh(topology)
    found = []
    for program in programs.programs(config, mesh):
        if only is None or program.name in only:
            print(f"compiling {program.name} for {topology}{told}", flush=True)
            found.append(compiled(program, kind, mesh.size))
    return found


def _remedy(config: Any, topology: str, failed: Collection[str]) -> dict[str, Any]:
    """The first change with which all that does not fit does, and those that were tried before."""
    tried = []
    for changes, there in _candidates(config, topology):
        flags = [f"--config.{field}={_word(value)}" for field, value in changes.items()]
        flags += [f"--topology={there}"] if there != topology else []
        changed = config.copy_and_resolve_references().unlock()
        changed.update_from_flattened_dict(changes)
        try:
            config_lib.validate(changed.lock(), data_there=False)
            found = _compiled(changed, there, failed, f", with {' '.join(flags)}")
        except InputError:  # say batches that these chips cannot share
            continue
        if all(p["fits"] for p in found):
            return {"flags": flags, "tried": tried}
        tried.append(flags)
    return {"flags": None, "tried": tried}


def _candidates(config: Any, topology: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Changes from the one that costs least: time, digits, smaller batches, more chips."""
    remat = {} if config.model.remat else {"model.remat": True}
    narrow = {} if config.model.dtype == "bfloat16" else {"model.dtype": "bfloat16"}
    half = {f"data.{n}": config.data[n] // 2 for n in chips.BATCHES if config.data[n] > 1}
    for changes in (remat, narrow, remat | narrow, half, remat | narrow | half):
        if changes:
            yield changes, topology
    if there := chips.larger(topology):
        yield {}, there
        if remat | narrow:
            yield remat | narrow, there


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def text(found: Mapping[str, Any]) -> str:
    """What is printed: a row a program, what it exchanges, and the outcome."""
    capacity = found["chip"]["hbm_bytes"]
    lines = [
        f"{found['model']}, {found['dtype']}, method {found['method']}, on {found['topology']}: "
        f"{found['chips']} chips with {capacity / chips.GIB:.2f} GiB of memory each",
        "",
        f"{'':24}{'images':>8}{'------- GiB of a chip -------':>35}{'a chip and call':>24}"
        f"{'--- ms at least, of ---':>26}{'seconds':>9}",
        f"{'':24}{'a call':>8}{'arguments':>11}{'temporary':>11}{'needed':>13}"
        f"{'GFLOP':>9}{'GB':>7}{'MB sent':>8}"
        f"{'compute':>9}{'memory':>8}{'links':>9}{'compiled':>9}  binds",
    ]
    lines += [_row(p) for p in found["programs"]]
    lines += ["", *(_exchanged(p) for p in found["programs"] if p.get("collectives"))]
    return "\n".join([*lines, "", _outcome(found)])


def _row(program: Mapping[str, Any]) -> str:
    hbm, start = program["hbm"], f"{program['name'][:23]:24}{program['batch']:>8}"
    sizes = [_gib(hbm[k]) if k in hbm else "?" for k in ("arguments", "temporaries")]
    needed = _gib(hbm["needed"]) if hbm["needed"] is not None else "too much"
    start += f"{sizes[0]:>11}{sizes[1]:>11}{needed:>13}"
    if "seconds" not in program:
        return f"{start}  does not compile: it does not fit"
    ms = {name: f"{1e3 * program['seconds'][name]:.2f}" for name in chips.BOUNDS}
    after = f"{program['seconds']['binds']}{'' if program['fits'] else '; does not fit'}"
    return (
        f"{start}{program['flops'] / 1e9:>9.3g}{program['bytes'] / 1e9:>7.3g}"
        f"{program['sent'] / 1e6:>8.1f}{ms['compute']:>9}{ms['hbm']:>8}{ms['interconnect']:>9}"
        f"{program['compile_seconds']:>9.1f}  {after}"
    )


def _gib(size: float) -> str:
    return f"{size / chips.GIB:.2f}"


def _exchanged(program: Mapping[str, Any]) -> str:
    parts = [
        f"{c['count']} {c['kind']} of {c['bytes'] / 1e6:.2f} MB" for c in program["collectives"]
    ]
    written = program["written"]
    share = 100 * written["gathered"] / max(sum(written.values()), 1)
    gathers = f"; {share:.1f} % of what is sent is gathered, the rest are sums" if share else ""
    return f"{program['name']}: {', '.join(parts)}{gathers}"


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
    return f"It does not fit: {failed}. Nor does it with any of {tried}"
