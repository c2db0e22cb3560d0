"""Plots of several methods: what each gains against what it pays, and stage by stage."""

import dataclasses
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ec_jax.evaluation.target import TEST
from ec_jax.report import styles
from ec_jax.report.comparison import Comparison, Row
from ec_jax.report.runs import Run
from ec_jax.report.summary import Spread

INK = "#1b1f27"  # text and axes; a page puts its own colour in its place

_WIDTH = 5.4  # inches
_LONGEST = 60  # letters of a line of the legend
# Okabe-Ito without black and yellow, and a brown; colour and marker repeat after 6 and after 7
# methods, so that 42 are told apart.
COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B3A1E")
MARKERS = ("^", "D", "v", "P", "X", "<", "*")


@dataclasses.dataclass(frozen=True)
class Plot:
    """A figure and what is said of it.

    Attributes:
      figure: drawn.
      title: its heading.
      note: how to read it, where that is not said of several at once.
      alt: what it shows, in words and numbers.
    """

    figure: Figure
    title: str
    note: str
    alt: str


@dataclasses.dataclass(frozen=True)
class _Point:
    series: str
    seed: int
    x: float
    y: float


@dataclasses.dataclass(frozen=True)
class _TradeOff:
    name: str
    title: str
    note: str
    keys: tuple[str, str]  # horizontal, vertical
    labels: tuple[str, str]
    against_oracle: bool  # the oracle's number is taken off
    least: tuple[float, float]  # the axes show at least so much


_TRADE_OFFS = (
    _TradeOff(
        "forgetting_retention",
        "Forgetting against retention",
        "Accuracy on images to be forgotten and to be kept, in points above the oracle's; every "
        "mark is a run. The cross of the lines is the oracle: right of it too much is left, below "
        "it too much is lost.",
        ("accuracy/forget_test", "accuracy/retain_test"),
        ("to be forgotten: points above the oracle", "to be kept: points above the oracle"),
        True,
        (4.0, 4.0),
    ),
    _TradeOff(
        "gaps",
        "Gap at the logits against gap in the features",
        "Mean difference to the oracle; every mark is a run. Low and left is best. On the left but "
        "high up, only the output has forgotten.",
        ("gap/logit", "gap/representation"),
        ("gap/logit (points of accuracy)", "gap/representation"),
        False,
        (1.0, 0.1),
    ),
)


@dataclasses.dataclass(frozen=True)
class _ByStage:
    name: str
    title: str
    key: str
    without: str | None  # the model of which it says nothing
    top: float


_BY_STAGE = (
    _ByStage("cka_to_original", "CKA to the original", "cka_to_original", "original", 1.0),
    _ByStage("cka_to_oracle", "CKA to the oracle", "cka_to_oracle", "oracle", 1.0),
    _ByStage("knn", "k-NN accuracy (%)", "knn", None, 100.0),
    _ByStage("probe", "Linear probe accuracy (%)", "probe", None, 100.0),
)
TRADE_OFFS = tuple(kind.name for kind in _TRADE_OFFS)
STAGES = tuple(kind.name for kind in _BY_STAGE)
STAGE_NOTE = (
    "Images to be forgotten: mean over the seeds, and a band of one standard deviation. "
    "The target is the oracle's line."
)


def png(plot: Plot) -> bytes:
    """The plot under its title; a page has the title above it."""
    plot.figure.axes[0].set_title(plot.title, fontsize=12, color=INK, loc="left", pad=10)
    out = io.BytesIO()
    plot.figure.savefig(out, dpi=160, format="png")
    return out.getvalue()


def plots(comparison: Comparison) -> dict[str, Plot]:
    """{name: plot} of all plots for which there are numbers."""
    return _trade_offs(comparison) | _by_stage(comparison)


def _trade_offs(comparison: Comparison) -> dict[str, Plot]:
    found = {}
    for kind in _TRADE_OFFS:
        points = _points(comparison, _judged_on(comparison.forget, kind))
        if any(p.series != "original" for p in points):
            found[kind.name] = _trade_off(kind, points, _looks(comparison))
    return found


def _judged_on(forget: str, kind: _TradeOff) -> _TradeOff:
    keys = tuple(key.replace(TEST, forget) for key in kind.keys)
    return dataclasses.replace(kind, keys=keys)


def _by_stage(comparison: Comparison) -> dict[str, Plot]:
    found = {}
    for kind in _BY_STAGE:
        keys = [f"{kind.key}/{comparison.forget}/{point}" for point in comparison.points]
        rows = [
            row
            for row in comparison.rows
            if row.kind != kind.without and all(_finite(row.spread(key)) for key in keys)
        ]
        if any(row.kind == "method" for row in rows):
            found[kind.name] = _stages(kind, comparison, rows, keys)
    return found


def _finite(found: Spread | None) -> bool:
    return found is not None and math.isfinite(found.mean)


def _looks(comparison: Comparison) -> dict[str, dict[str, str]]:
    looks = {
        model: {"color": style.light, "marker": style.marker}
        for model, style in styles.MODELS.items()
    }
    for i, group in enumerate(comparison.groups):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        looks[group.label] = {"color": colour, "marker": marker}
    return looks


# Trade-offs.


def _points(comparison: Comparison, kind: _TradeOff) -> list[_Point]:
    found = []
    for group in comparison.groups:
        for run in group.runs:
            found += _point(group.label, "unlearned", run, kind)
            found += _point("original", "original", run, kind)
    return list(dict.fromkeys(found))  # an original that several runs share is one


def _point(series: str, model: str, run: Run, kind: _TradeOff) -> list[_Point]:
    numbers, oracle = run.models.get(model, {}), run.models.get("oracle", {})
    if not all(key in numbers and (key in oracle or not kind.against_oracle) for key in kind.keys):
        return []
    x, y = (numbers[k] - (oracle[k] if kind.against_oracle else 0.0) for k in kind.keys)
    return [_Point(series, run.seed, x, y)] if math.isfinite(x) and math.isfinite(y) else []


def _trade_off(
    kind: _TradeOff, points: Sequence[_Point], looks: Mapping[str, Mapping[str, str]]
) -> Plot:
    figure, axes = new_figure()
    limits = _limits(points, kind)
    axes.set(xlim=limits[0], ylim=limits[1], xlabel=kind.labels[0], ylabel=kind.labels[1])
    for line in (axes.axhline, axes.axvline):
        line(0, color=INK, lw=1, alpha=0.45, zorder=1)
    # Hollow: the best methods lie on it.
    hollow = {"marker": looks["oracle"]["marker"], "mec": looks["oracle"]["color"], "mfc": "none"}
    told = "oracle: 0, 0 by definition"
    handles = {"oracle": _mark(axes, (0, 0), told, ms=13, mew=2, **hollow)}
    for p in points:
        if all(_beyond(v, limit) == 0 for v, limit in zip((p.x, p.y), limits, strict=True)):
            said = f"{p.series}, seed {p.seed}: {_told((p.x, p.y))}"
            look = {"ms": 8.5, "mew": 0.8, "mec": "white", **looks[p.series]}
            handles[p.series] = _mark(axes, (p.x, p.y), said, **look)
    _original_beyond(axes, points, limits, looks["original"]["color"])
    legend(figure, handles)
    listed = "; ".join(f"{p.series} seed {p.seed}: {_told((p.x, p.y))}" for p in points)
    return Plot(figure, kind.title, kind.note, f"{kind.title}. {listed}.")


def _told(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.3g}".replace("-", "−") for v in values)


def _limits(points: Sequence[_Point], kind: _TradeOff) -> list[tuple[float, float]]:
    """Of both axes: 0, every method and, where that at most doubles them, the originals."""
    found = []
    for axis, least in zip("xy", kind.least, strict=True):
        mine = [getattr(p, axis) for p in points if p.series != "original"]
        low, high = min([0.0, *mine]), max([0.0, *mine])
        if kind.against_oracle and high - low < least:
            low, high = (low + high - least) / 2, (low + high + least) / 2
        high = max(high, low + least)
        originals = [getattr(p, axis) for p in points if p.series == "original"]
        wide = min([low, *originals]), max([high, *originals])
        if wide[1] - wide[0] <= 2 * (high - low):
            low, high = wide
        margin = 0.1 * (high - low)
        found.append((low - margin, high + margin))
    return found


def _beyond(value: float, limit: tuple[float, float]) -> int:
    """On which side of the axis a value lies: -1, 1, or 0 for on it."""
    return int(value > limit[1]) - int(value < limit[0])


def _original_beyond(
    axes: Axes, points: Sequence[_Point], limits: Sequence[tuple[float, float]], colour: str
) -> None:
    """An arrow to originals far off: on their scale all methods would be one point."""
    originals = [(p.x, p.y) for p in points if p.series == "original"]
    far = [o for o in originals if any(map(_beyond, o, limits))]
    if not far:
        return
    mean = [float(np.mean(values)) for values in zip(*far, strict=True)]
    sides = [_beyond(v, limit) for v, limit in zip(mean, limits, strict=True)]
    shares = [(v - low) / (high - low) for v, (low, high) in zip(mean, limits, strict=True)]
    tip = [min(max(share, 0.0), 1.0) for share in shares]
    tail = [t - 0.11 * side for t, side in zip(tip, sides, strict=True)]
    arrow = {"arrowstyle": "-|>", "color": colour, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
    where = {"xycoords": "axes fraction", "arrowprops": arrow}
    axes.annotate("", xy=tip, xytext=tail, **where)
    above = mean[1] >= 0 and tip[1] < 0.85  # the line of zero does not cross it
    axes.annotate(
        f"original: {_told(mean)}",
        xy=(tip[0], tail[1]),
        xycoords="axes fraction",
        xytext=(0, 9 if above else -9),
        textcoords="offset points",
        ha="right" if tip[0] > 0.5 else "left",
        va="bottom" if above else "top",
        fontsize=9,
        color=colour,
    )


def _mark(axes: Axes, at: tuple[float, float], said: str, **look: Any) -> Line2D:
    (line,) = axes.plot(*([v] for v in at), ls="", clip_on=False, zorder=3, **look)
    line.set_gid(f"title: {said}")
    return line


# By stage.


def _stages(
    kind: _ByStage, comparison: Comparison, rows: Sequence[Row], keys: Sequence[str]
) -> Plot:
    figure, axes = new_figure()
    looks, said, handles, lowest = _looks(comparison), [], {}, kind.top
    for i, row in enumerate(rows):
        # Side by side: a method that left a stage as it was would hide the original.
        at = np.arange(len(keys)) + min(0.05, 0.5 / len(rows)) * (i - (len(rows) - 1) / 2)
        found = [row.spread(key) for key in keys]
        means = np.array([f.mean for f in found])
        look = looks[row.label]
        (handles[row.label],) = axes.plot(at, means, lw=1.8, ms=7, mec="white", mew=0.6, **look)
        deviations = np.array([f.deviation or 0.0 for f in found])
        low, high = (np.clip(means + s * deviations, 0, kind.top) for s in (-1, 1))
        lowest = min(lowest, *low)
        if len(row.numbers) > 1:
            axes.fill_between(at, low, high, color=look["color"], alpha=0.13, lw=0)
        said.append(f"{row.label}: {', '.join(f.plus_minus(2) for f in found)}")
    axes.set_xticks(range(len(keys)), comparison.points)
    axes.set(ylabel=kind.title, xlabel="images to be forgotten; band: one standard deviation")
    room = 0.1 * (kind.top - lowest) or 0.1 * kind.top
    axes.set_ylim(lowest - room, kind.top + room / 2)
    legend(figure, handles)
    alt = f"{kind.title} at {', '.join(comparison.points)}. {'; '.join(said)}."
    return Plot(figure, kind.title, "", alt)


# The frame of all.


def new_figure() -> tuple[Figure, Axes]:
    """An empty figure in the style of all."""
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    styled(axes)
    return figure, axes


def styled(axes: Axes) -> None:
    """Gives axes the style of all."""
    axes.grid(color=INK, alpha=0.12)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)


def legend(figure: Figure, handles: Mapping[str, Line2D]) -> None:
    """Puts {name: what it is drawn with} below the drawing, and gives the figure its size."""
    # Matplotlib leaves out what begins with an underscore.
    labels = [f" {name}" if name.startswith("_") else name for name in handles]
    labels = [textwrap.fill(label, _LONGEST) for label in labels]
    fit = int(_WIDTH / (0.6 + 0.073 * max(len(line) for s in labels for line in s.split("\n"))))
    columns = min(max(fit, 1), 3, len(handles))
    lines = sum(label.count("\n") + 1 for label in labels) / columns
    figure.set_size_inches(_WIDTH, 4.0 + 0.22 * math.ceil(lines))
    box = figure.legend(
        handles.values(),
        labels,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        labelcolor=INK,
    )
    for text in box.get_texts():
        text.set_parse_math(False)
