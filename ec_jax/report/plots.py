"""Plots of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ec_jax.report import styles, table

_SPLITS = {
    "forget_test": "forget classes, test images",
    "forget_train": "training images to be forgotten",
    "retain_test": "retain classes, test images",
}


def cka_per_stage(metrics: Mapping[str, Any], path: Path) -> None:
    """Linear CKA of every stage to the original and to the oracle, as a PNG.

    Args:
      metrics: the contents of ``metrics.json``.
      path: the PNG.
    """
    points = metrics["scenario"]["points"]
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    shown = (table.forget_split(metrics), "retain_test")
    for row, split in zip(axes, shown, strict=True):
        for ax, reference in zip(row, ("original", "oracle"), strict=True):
            for model, style in styles.MODELS.items():
                if model == reference:  # its similarity to itself is 1 by definition
                    continue
                values = metrics["models"][model]
                keys = [f"cka_to_{reference}/{split}/{p}" for p in points]
                if all(k in values for k in keys):
                    look = {"color": style.light, "marker": style.marker, "lw": 2}
                    ax.plot(points, [values[k] for k in keys], label=model, **look)
            ax.set_title(f"CKA to the {reference}\n{_SPLITS[split]}", fontsize=10)
            ax.set_ylim(-0.02, 1.04)
            ax.grid(alpha=0.3)
            ax.spines[["top", "right"]].set_visible(False)
            if ax.lines:
                ax.legend(frameon=False, loc="lower left")
        row[0].set_ylabel("linear CKA")
    scenario = metrics["scenario"]
    forgotten = scenario.get("forget", ", ".join(scenario["forget_names"])).replace("$", r"\$")
    figure.suptitle(
        f"{scenario['dataset']}, forgotten: {forgotten}. "
        "On forget images the unlearned model should follow the oracle.",
        fontsize=11,
    )
    figure.savefig(path, dpi=120, format="png")
