"""Drawings as SVG: arrays in, markup out.

Colours come from the page's classes, so that a drawing follows its theme; sizes are in units of
its view box, about a pixel each where figures stand in panels. Text is text.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ec_jax.report import styles
from ec_jax.report.page import escape

_WIDE = 340  # of figures two in a row
_NARROW = 270  # of figures three in a row
_LONGEST = 13  # letters of the name of a bar

_MARKERS = {name: style.marker for name, style in styles.MODELS.items()}
_SHAPES = {  # of radius 1
    "s": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "^": ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
    "D": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
}
# White to blue: one hue whose grey falls evenly, for print; the same in both themes.
_RAMP = ((255, 255, 255), (189, 215, 235), (82, 148, 196), (8, 66, 111))


@dataclasses.dataclass(frozen=True)
class Bar:
    """A horizontal bar.

    Attributes:
      label: text to its left.
      value: its length, finite and at least 0.
      text: what stands at its end.
      style: a class of the page that gives its colour.
      strong: its label is set in bold.
    """

    label: str
    value: float
    text: str
    style: str
    strong: bool = False


def swatch(model: str) -> str:
    """The line and marker of a model, for a legend."""
    line = f'<line class="line {model}" x1="1" x2="31" y1="8" y2="8"/>'
    return _svg(32, 16, line + _mark(model, 16, 8), "swatch", hidden=True)


def dot(style: str) -> str:
    """The mark of ``forget`` or ``retain`` images in ``scatter``, for a legend."""
    mark = _shape("D", 8, 8, 5) if style == "forget" else _circle(8, 8, 3.5)
    return _svg(16, 16, f'<g class="mark {style}">{mark}</g>', "swatch", hidden=True)


def lines(
    ticks: Sequence[str], series: dict[str, Sequence[float | None]], top: float, unit: str = ""
) -> str:
    """Values of several models over the same ticks.

    Args:
      ticks: names below the horizontal axis, first to last.
      series: {model: one value a tick}; None and numbers that are not finite leave a gap.
      top: the upper end of the vertical axis, which begins at 0.
      unit: stands behind the numbers of the vertical axis.
    """
    left, right, above, below, height = 46, 16, 10, 30, 220
    across = _WIDE - left - right
    xs = [left + across * (i + 0.5) / len(ticks) for i in range(len(ticks))]

    def y(value: float) -> float:
        return height - below - (height - above - below) * min(max(value / top, 0), 1)

    parts = []
    for value in np.linspace(0, top, 5):
        parts.append(_line("grid", left, _WIDE - right, y(value), y(value)))
        parts.append(_text(left - 7, y(value) + 4, f"{value:g}{unit}", "tick end"))
    every = math.ceil(len(ticks) / 6)
    for x, tick in list(zip(xs, ticks, strict=True))[::every]:
        parts.append(_text(x, height - 10, _short(tick, 9), "tick middle"))
    for model, values in series.items():
        drawn = [
            None if v is None or not math.isfinite(v) else (x, y(v))
            for x, v in zip(xs, values, strict=True)
        ]
        parts += [f'<path class="line {model}" d="{_path(drawn)}"/>']
        for point, tick, value in zip(drawn, ticks, values, strict=True):
            if point:
                title = f"<title>{escape(f'{model}, {tick}: {value:.3g}{unit}')}</title>"
                parts.append(f"<g>{title}{_mark(model, *point)}</g>")
    return _svg(_WIDE, height, "".join(parts))


def heat_map(
    matrix: Sequence[Sequence[float]], ticks: Sequence[str], down: str, across: str
) -> str:
    """A matrix of similarities in [0, 1], its numbers in the cells.

    Args:
      matrix: [P, P].
      ticks: P names, of rows and columns.
      down: what the rows are of.
      across: what the columns are of.
    """
    side = 200
    left, above, size = 66, 4, side / len(ticks)
    height = above + side + 42
    parts = []
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            x, y, name = left + j * size, above + i * size, f"{ticks[i]} and {ticks[j]}"
            fill, ink = ramp(value)
            number = _text(
                x + size / 2, y + size / 2 + 4.5, f"{value:.2f}", "cell middle", f' fill="{ink}"'
            )
            parts.append(
                f"<g><title>{escape(f'{name}: {value:.3f}')}</title>"
                f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(size)}" height="{_n(size)}" '
                f'fill="{fill}"/>{number if size >= 30 else ""}</g>'
            )
    every = math.ceil(len(ticks) / 8)
    for i, tick in list(enumerate(ticks))[::every]:
        middle = (i + 0.5) * size
        parts.append(_text(left - 7, above + middle + 4, _short(tick, 8), "tick end"))
        parts.append(_text(left + middle, above + side + 16, _short(tick, 8), "tick middle"))
    parts.append(_text(left + side / 2, height - 5, across, "axis middle"))
    turned = f' transform="rotate(-90 12 {_n(above + side / 2)})"'
    parts.append(_text(12, above + side / 2, down, "axis middle", turned))
    return _svg(_NARROW, height, "".join(parts))


def ramp(value: float) -> tuple[str, str]:
    """The colours of a cell and of the number in it.

    Args:
      value: in [0, 1]; others are clipped, and NaN is 0.

    Returns:
      Two colours, the second black or white, whichever is read more easily.
    """
    at = min(max(value, 0.0), 1.0) * (len(_RAMP) - 1) if math.isfinite(value) else 0.0
    channels = [
        round(np.interp(at, range(len(_RAMP)), [colour[c] for colour in _RAMP])) for c in range(3)
    ]
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 3294.6 for c in channels]
    luminance = np.dot(linear, (0.2126, 0.7152, 0.0722))
    # Black and white have the same contrast (WCAG 2) where the luminance is 0.179.
    return f"#{bytes(channels).hex()}", "#000000" if luminance > 0.179 else "#ffffff"


def scatter(
    points: Sequence[Sequence[float]],
    labels: Sequence[int],
    forget: Sequence[bool],
    names: dict[int, str],
) -> str:
    """Images in a plane: forget images as diamonds, the others as dots.

    Args:
      points: float [n, 2], n ≥ 1.
      labels: the class of every image, [n].
      forget: whether it is of the forget set, [n].
      names: of the classes, by label.
    """
    xy, labels = _fitted(points, size=_NARROW, margin=16), np.asarray(labels)
    forget = np.asarray(forget, bool)
    marks, texts = [], []
    for hidden in (False, True):  # forget images last: they lie above
        style = "forget" if hidden else "retain"
        for label in np.unique(labels[forget == hidden]):
            mine = xy[(labels == label) & (forget == hidden)]
            shape = "".join(
                _points("D", x, y, 3.4) if hidden else f"M{_n(x)} {_n(y)}h0" for x, y in mine
            )
            name = names.get(int(label), str(label))
            title = f"<title>{escape(name)}</title>"
            marks.append(f'<path class="{style}" d="{shape}">{title}</path>')
            if len(names) <= 12:
                x, y = np.median(mine, axis=0)
                texts.append(_text(x, y + 4, _short(name, 12), f"halo middle {style}"))
    frame = f'<rect class="frame" width="{_NARROW}" height="{_NARROW}" rx="8"/>'
    drawn = f'{frame}<g class="cloud">{"".join(marks)}</g>{"".join(texts)}'
    return _svg(_NARROW, _NARROW, drawn)


def bars(rows: Sequence[Bar], top: float, reference: float | None = None) -> str:
    """Horizontal bars.

    Args:
      rows: from the top down, at least one.
      top: the value of a bar of full length, above 0.
      reference: where a line across all bars stands.
    """
    left = 14 + 7 * min(max(len(bar.label) for bar in rows), _LONGEST)
    across, each = _NARROW - left - 48, 24
    height = len(rows) * each + 4
    parts = []
    if reference is not None:
        x = left + across * reference / top
        parts.append(_line("reference", x, x, 0, height))
    for i, bar in enumerate(rows):
        y, length = 2 + i * each, across * min(bar.value / top, 1)
        strong = " strong" if bar.strong else ""
        parts.append(_text(left - 8, y + 16, _short(bar.label, _LONGEST), f"label end{strong}"))
        parts.append(
            f'<rect class="bar {bar.style}" x="{left}" y="{y + 4}" width="{_n(length)}" '
            f'height="{each - 8}"/>'
        )
        parts.append(_text(left + length + 6, y + 16, bar.text, f"value{strong}"))
    return _svg(_NARROW, height, "".join(parts))


def _fitted(points: Sequence[Sequence[float]], size: float, margin: float) -> np.ndarray:
    """Points moved and scaled, alike in both directions, into a square that grows downwards."""
    xy = np.asarray(points, np.float64).reshape(-1, 2)
    low, high = xy.min(axis=0), xy.max(axis=0)
    scale = (size - 2 * margin) / max(float((high - low).max()), 1e-12)
    return (xy - (low + high) / 2) * (scale, -scale) + size / 2


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    out, pen_down = [], False
    for point in points:
        if point:
            out.append(f"{'L' if pen_down else 'M'}{_n(point[0])} {_n(point[1])}")
        pen_down = point is not None
    return "".join(out)


def _mark(model: str, x: float, y: float) -> str:
    kind = _MARKERS[model]
    shape = _circle(x, y, 4.2) if kind == "o" else _shape(kind, x, y, 4.4)
    return f'<g class="mark {model}">{shape}</g>'


def _circle(x: float, y: float, radius: float) -> str:
    return f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"/>'


def _shape(kind: str, x: float, y: float, radius: float) -> str:
    return f'<path d="{_points(kind, x, y, radius)}"/>'


def _points(kind: str, x: float, y: float, radius: float) -> str:
    corners = [f"{_n(x + radius * a)} {_n(y + radius * b)}" for a, b in _SHAPES[kind]]
    return f"M{'L'.join(corners)}Z"


def _line(style: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{style}" x1="{_n(x1)}" x2="{_n(x2)}" y1="{_n(y1)}" y2="{_n(y2)}"/>'


def _text(x: float, y: float, text: str, style: str, more: str = "") -> str:
    return f'<text class="{style}" x="{_n(x)}" y="{_n(y)}"{more}>{escape(text)}</text>'


def _svg(
    width: int, height: float, body: str, style: str = "chart", *, hidden: bool = False
) -> str:
    hide = ' aria-hidden="true"' if hidden else ""
    return f'<svg class="{style}" viewBox="0 0 {width} {_n(height)}"{hide}>{body}</svg>'


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _n(value: float) -> str:
    """A coordinate: a tenth of a unit is less than can be seen."""
    return f"{value:.1f}".removesuffix(".0")
