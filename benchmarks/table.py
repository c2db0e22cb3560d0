"""What a benchmark's numbers are in words, and whether they are what was aimed at."""

from typing import Any

from benchmarks import precision, runs

HEAD = "| Name | What | Against | Measured | Aim |\n| --- | --- | --- | --- | --- |\n"
RATIOS = {  # of the median, at least
    "linear_cka_jax": 1.4,
    "linear_cka_torch": 3.0,
    "minibatch_cka_torch": 2.0,
    "knn": 1.0,
    "pictures": 1.0,
    "ec_resnet18_w16": 1.0,
    "ec_resnet18_w64": 1.0,
    "ec_vit_tiny": 1.0,
    "training_loop_8x8": 0.97,
    "training_loop_32x32": 0.97,
    "training_loop_resnet18_w16": 0.97,
}
OPERATIONS = {"pool": 1.15, "conv": 1.35}  # of EC's step, by its modules, at most
ABOVE = 0.05  # its time, at most beyond its operations
SECONDS, SHARE = 3.0, 0.25  # of ``--help``; of an evaluation beside unlearning; at most
GROWTH = 1.1  # of the memory of what is streamed, at most
UNITS = {"seconds": "time", "flops": "operations", "bytes": "memory"}


def rows(results: dict[str, Any], aims: bool = True) -> str:
    """The Markdown table of what the JSON holds, and the machine below it.

    Args:
      results: {"machine", "benchmarks": {name: entry}}.
      aims: whether the numbers are worth a comparison with what is aimed at.
    """
    lines = [
        f"| `{name}` | {entry['what']} | {entry['against']} | {measured(entry)} | "
        f"{aim(name, entry) if aims else '–'} |\n"
        for name, entry in results["benchmarks"].items()
    ]
    m = dict(results["machine"])
    where = f"{m.pop('cores')} core(s), {m.pop('processor')}, {m.pop('system')}"
    versions = ", ".join(f"{name} {value}" for name, value in m.items())
    return f"{HEAD}{''.join(lines)}\nMachine: {where}; {versions}.\n"


def measured(entry: dict[str, Any]) -> str:
    """The numbers of a benchmark."""
    if "ratio" in entry:
        return _ratio(entry)
    if "exponents" in entry:
        return _growth(entry)
    if "accuracy" in entry:
        return f"{precision.in_words(entry['accuracy'])}; {len(entry['seeds'])} seeds"
    if "starts" in entry or "seconds_of" in entry:
        return runs.in_words(entry)
    if "total" in entry:
        t, passes = entry["total"], len(entry["passes"])
        return f"{passes} passes, {t['images']} images, {t['padding']} rows of padding"
    growth = ", ".join(f"{mib:.0f} MiB at {n}" for n, mib in entry["growth_mib"].items())
    held = f"{entry['features_held_mib']:.0f} MiB where features are held"
    return f"{growth} ({entry['growth_ratio']:.2f}×); {held}"


def _ratio(entry: dict[str, Any]) -> str:
    r, pairs = entry["ratio"], len(entry["ours_seconds"])
    spread = f"{r['lowest']:.2f} to {r['highest']:.2f}, {pairs} pairs, load {entry['load']:.1f}"
    more = f"; CPU {r['cpu']:.2f}×" if "cpu" in r else ""
    more += f"; FLOPs {entry['flops']:.2f}×" if "flops" in entry else ""
    rates = entry.get("images_per_second", {})
    more += "".join(f"; {side} {rate} images/s" for side, rate in rates.items())
    return f"{r['median']:.2f}× ({spread}){more}"


def _growth(entry: dict[str, Any]) -> str:
    slopes = ", ".join(f"{UNITS.get(k, k)} {slope:.2f}" for k, slope in entry["exponents"].items())
    times = zip(entry["values"], entry["seconds"], strict=True)
    found = f"{slopes}; {', '.join(f'{v}: {t:.3g} s' for v, t in times)}"
    if "peak_mib" not in entry:
        return found
    return f"{found}; peak memory {', '.join(f'{mib:.0f}' for mib in entry['peak_mib'])} MiB"


def aim(name: str, entry: dict[str, Any]) -> str:
    """What a benchmark is to reach, and whether it does; – where there is nothing."""
    if name in RATIOS:
        least = RATIOS[name]
        return _told(f"≥ {least:g}×", entry["ratio"]["median"] >= least)
    if entry.get("less"):
        most, flops = OPERATIONS[name.rpartition("_")[2]], entry["flops"]
        reached = flops <= most and entry["ratio"]["median"] <= flops + ABOVE
        return _told(f"FLOPs ≤ {most:g}×, time ≤ FLOPs + {ABOVE:g}", reached)
    if "starts" in entry:
        return _told(f"≤ {SECONDS:g} s", max(entry["starts"]) <= SECONDS)
    if "seconds_of" in entry:
        return _told(f"≤ {SHARE:g}×", runs.share(entry) <= SHARE)
    if "growth_ratio" in entry:
        return _told(f"≤ {GROWTH:g}×", entry["growth_ratio"] <= GROWTH)
    return "once" if "total" in entry else "–"


def _told(wanted: str, reached: bool) -> str:
    return f"{wanted}: {'reached' if reached else 'missed'}"
