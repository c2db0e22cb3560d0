"""The result as a table: original, oracle and unlearned side by side."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MODELS = ("original", "oracle", "unlearned")
_SPLIT_NAMES = {
    "forget_train": "forget, train",
    "retain_train": "retain, train",
    "forget_test": "forget, test",
    "retain_test": "retain, test",
}
_ORACLE = "the oracle's"


def _rows(metrics: Mapping[str, Any]) -> Iterator[tuple[str, list[str], str]]:
    """(label, one cell a model, what the unlearned model's number should be close to)."""
    models = [metrics["models"][m] for m in MODELS]
    points = metrics["scenario"]["points"]

    def row(label, key, digits, goal):
        return label, [f"{m[key]:.{digits}f}" if key in m else "–" for m in models], goal

    for split, name in _SPLIT_NAMES.items():
        yield row(f"accuracy, {name} (%)", f"accuracy/{split}", 1, _ORACLE)
    for point in points:
        key = f"cka_to_original/forget_test/{point}"
        yield row(f"CKA to original, forget, test, {point}", key, 3, _ORACLE)
    for point in points:
        key = f"cka_to_oracle/forget_test/{point}"
        yield row(f"CKA to oracle, forget, test, {point}", key, 3, "1, and above the original's")
    last = points[-1]
    for split in ("forget_test", "retain_test"):
        name = _SPLIT_NAMES[split]
        yield row(f"k-NN accuracy, {name}, {last} (%)", f"knn/{split}/{last}", 1, _ORACLE)
    label, key = f"feature variance, forget, test, {last}", f"variance/forget_test/{last}"
    yield row(label, key, 4, "not near 0")


def _cost_line(metrics: Mapping[str, Any]) -> str:
    cost = metrics["cost"]
    parts = [
        f"{stage} {c['steps']} steps, {c['images']} images, {c['seconds']:.0f} s"
        for stage, c in cost.items()
        if c and "steps" in c
    ]
    share = 100 * cost["unlearn"]["steps"] / cost["oracle"]["steps"]
    images = 100 * cost["unlearn"]["images"] / cost["oracle"]["images"]
    return (
        f"Cost: {'; '.join(parts)}. Unlearning took {share:.1f} % of the oracle's steps "
        f"and {images:.1f} % of its images."
    )


def _scenario_line(metrics: Mapping[str, Any]) -> str:
    s = metrics["scenario"]
    names = ", ".join(
        f"{i} ({n})" if str(i) != n else n
        for i, n in zip(s["forget_classes"], s["forget_names"], strict=True)
    )
    return (
        f"{s['dataset']}, forgotten: {names}; {s['model']}, method {s['method']}, seed {s['seed']}"
    )


def markdown(metrics: Mapping[str, Any]) -> str:
    """The table in Markdown, with scenario and cost.

    Args:
      metrics: the contents of ``metrics.json``.
    """
    # A class name may hold what Markdown reads as markup.
    heading = _scenario_line(metrics).replace("|", "\\|").replace("_", "\\_")
    lines = [f"**{heading}**", "", f"| | {' | '.join(MODELS)} | unlearned should be close to |"]
    lines.append("| --- | ---: | ---: | ---: | --- |")
    lines += [
        f"| {label} | {' | '.join(cells)} | {goal} |" for label, cells, goal in _rows(metrics)
    ]
    return "\n".join([*lines, "", _cost_line(metrics), ""])


def text(metrics: Mapping[str, Any]) -> str:
    """The same table for a terminal."""
    rows = list(_rows(metrics))
    width = max(len(label) for label, _, _ in rows)
    head = f"{'':{width}}" + "".join(f"{m:>11}" for m in MODELS) + "   unlearned should be close to"
    body = [
        f"{label:{width}}" + "".join(f"{c:>11}" for c in cells) + f"   {goal}"
        for label, cells, goal in rows
    ]
    return "\n".join(["", _scenario_line(metrics), "", head, *body, "", _cost_line(metrics), ""])


def write(metrics: Mapping[str, Any], path: Path) -> None:
    """Writes the Markdown table."""
    path.write_text(markdown(metrics), encoding="utf-8")
