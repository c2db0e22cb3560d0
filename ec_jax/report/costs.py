"""Closeness to the oracle against the compute that it took."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from ec_jax.report.summary import Spread
from ec_jax.report.tradeoff import COLOURS, INK, MARKERS, Plot, legend, new_figure, styled

_SMALLEST = 0.1  # percent: left of it everything is drawn there, as closed forms take next to none
_LABEL = {"fontsize": 8, "color": INK, "textcoords": "offset points"}
_HOLLOW = {"mfc": "white", "mew": 1.2}
_EMPTY = {"color": INK, "marker": "o", "ls": "", "ms": 6, **_HOLLOW}  # what a legend shows of it
_RIGHT = 20.0  # percent: names of what is right of it stand left of it, inside the axes


def scatter(
    points: Mapping[str, tuple[float, float]],
    kinds: Mapping[str, Sequence[str]],
    failing: Collection[str] = (),
) -> Plot:
    """Methods of several kinds; those to which none is both nearer and cheaper are named.

    Args:
      points: {method: (FLOPs in percent of the oracle's, mean CKA to the oracle)}.
      kinds: {what they are: methods}.
      failing: methods that do not forget or damage the model, drawn hollow and not named.
    """
    figure, axes = _axes()
    handles = {}
    for i, (kind, names) in enumerate(kinds.items()):
        look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "ls": ""}
        for name in (n for n in names if n in points):
            x, y = points[name]
            face = _HOLLOW if name in failing else {"mec": "white", "mew": 0.7}
            axes.plot(max(x, _SMALLEST), y, ms=7.5, **look, **face)
            handles[kind] = Line2D([], [], ms=7.5, **look)
    if failing:
        handles["does not forget, or damages"] = Line2D([], [], **_EMPTY)
    whole = {name: point for name, point in points.items() if name not in failing}
    for name in _apart(best(whole), whole):
        x, y = points[name]
        side = {"ha": "right", "xytext": (-5, 4)} if x > _RIGHT else {"xytext": (5, 4)}
        axes.annotate(name, (max(x, _SMALLEST), y), **_LABEL, **side)
    legend(figure, handles)
    title = "Closeness to the oracle against compute"
    listed = "; ".join(f"{n}: {x:.3g} %, {y:.3f}" for n, (x, y) in points.items())
    return Plot(figure, title, "", f"{title}. {listed}.")


def crossing(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, Spread, bool]]]],
    originals: Mapping[str, float],
) -> Plot:
    """Lines of closeness over compute, side by side, with the seeds' deviation around them.

    Args:
      panels: {what differs: {method: [(FLOPs in percent of the oracle's, mean CKA to it, whether
        every seed's model is whole; if not, it is drawn hollow)]}}; training from scratch is
        ``scratch``, in ink.
      originals: {what differs: mean CKA of the original to the oracle}.
    """
    figure = Figure(figsize=(3.3 * len(panels) + 0.6, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    looks = _looks(names)
    said = []
    for axes, (title, lines) in zip(row, panels.items(), strict=True):
        styled(axes)
        axes.set(xscale="log", xlabel="FLOPs, percent of retraining's")
        axes.text(0.97, 0.04, title, transform=axes.transAxes, ha="right", color=INK)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        if title in originals:
            axes.axhline(originals[title], color=INK, lw=1.2, ls=":", zorder=1)
        for name, points in lines.items():
            x, y = [p[0] for p in points], [p[1].mean for p in points]
            away = [p[1].deviation or 0.0 for p in points]
            axes.plot(x, y, ms=6, mec="white", mew=0.7, **looks[name])
            if broken := [p for p in points if not p[2]]:
                at = [p[0] for p in broken], [p[1].mean for p in broken]
                axes.plot(*at, ms=6, **looks[name] | {"ls": ""}, **_HOLLOW)
            low, high = ([m + s * d for m, d in zip(y, away, strict=True)] for s in (-1, 1))
            axes.fill_between(x, low, high, color=looks[name]["color"], alpha=0.12, lw=0)
            listed = ", ".join(f"{a:.3g} %: {b:.3f}" for a, b in zip(x, y, strict=True))
            said.append(f"{title}, {name}: {listed}")
    row[0].set_ylabel("mean CKA to the oracle")
    handles = dict(zip(names, (Line2D([], [], **looks[n]) for n in names), strict=True))
    handles["the original"] = Line2D([], [], color=INK, lw=1.2, ls=":")
    handles["a seed's model damaged or lost"] = Line2D([], [], **_EMPTY)
    figure.legend(
        handles.values(),
        handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        labelcolor=INK,
    )
    title = "Where unlearning begins to pay"
    return Plot(figure, title, "", f"{title}. {'; '.join(said)}.")


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{method: how it is drawn}."""
    others = [name for name in names if name != "scratch"]
    looks = {
        name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        for i, name in enumerate(others)
    }
    return looks | {"scratch": {"color": INK, "marker": "o", "ls": "--"}}


def best(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Those to which no other is at least as near and as cheap, and better in one of the two.

    >>> best({"a": (1.0, 0.5), "b": (2.0, 0.4), "c": (3.0, 0.9)})
    ['a', 'c']
    """

    def beaten(name: str) -> bool:
        x, y = points[name]
        return any(u <= x and v >= y and (u, v) != (x, y) for u, v in points.values())

    return [name for name in points if not beaten(name)]


def _apart(names: Sequence[str], points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Those, the nearest to the oracle first, whose names do not lie on one another."""
    high = [y for _, y in points.values()]
    line = 0.05 * (max(high) - min(high)) if high else 0.0
    kept: list[str] = []
    for name in sorted(names, key=lambda n: -points[n][1]):
        if all(points[other][1] - points[name][1] > line for other in kept):
            kept.append(name)
    return kept


def _axes() -> tuple[Figure, Axes]:
    figure, axes = new_figure()
    axes.set(xscale="log", xlabel="FLOPs, percent of retraining's", ylabel="mean CKA to the oracle")
    axes.axvline(100, color=INK, lw=1, alpha=0.45, zorder=1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return figure, axes
