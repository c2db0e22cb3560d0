"""Drawings: what stands where, against numbers worked out by hand."""

import re

import markup
import numpy as np
import pytest

from ec_jax.report import charts


def drawing(text):
    (svg,) = markup.parse(text).all("svg")
    return svg


def places(path):
    """[[(x, y), …], …]: the pieces of a path's data."""
    pieces = [piece for piece in re.split("M", path) if piece]
    return [[tuple(map(float, p.split())) for p in piece.split("L")] for piece in pieces]


def test_a_line_goes_through_its_values_and_breaks_where_one_is_missing():
    values = [0.0, 0.5, None, float("nan"), 1.0, 0.25]
    svg = drawing(charts.lines(list("abcdef"), {"oracle": values}, top=1))
    (line,) = svg.all("path", class_="line")
    left, right = places(line.attributes["d"])
    assert len(left) == len(right) == 2
    (x0, bottom), (x1, half), (x4, top), (x5, quarter) = *left, *right
    assert half == pytest.approx((bottom + top) / 2, abs=0.1)
    assert quarter == pytest.approx(bottom - (bottom - top) / 4, abs=0.1)
    assert x5 - x4 == pytest.approx(x1 - x0, abs=0.11)
    assert x4 - x0 == pytest.approx(4 * (x1 - x0), abs=0.3)
    titles = [title.text for title in svg.all("title")]
    assert titles == ["oracle, a: 0", "oracle, b: 0.5", "oracle, e: 1", "oracle, f: 0.25"]


def test_values_beyond_the_axis_stay_on_it():
    svg = drawing(charts.lines(list("ab"), {"oracle": [-0.2, 1.4]}, top=1))
    ((_, low), (_, high)) = places(svg.all("path", class_="line")[0].attributes["d"])[0]
    grid = [float(line.attributes["y1"]) for line in svg.all("line", class_="grid")]
    assert (low, high) == (max(grid), min(grid))


def test_every_model_has_a_marker_of_its_own():
    shapes = set()
    for model in ("original", "oracle", "unlearned"):
        (mark,) = drawing(charts.swatch(model)).all("g", class_="mark")
        (shape,) = mark.children
        shapes.add((shape.tag, re.sub(r"[\d.]+", "", shape.attributes.get("d", ""))))
    assert len(shapes) == 3


def test_many_ticks_are_thinned_out():
    svg = drawing(charts.lines([f"stage{i}" for i in range(40)], {"oracle": [0.5] * 40}, top=1))
    assert 3 <= len(svg.all("text", class_="middle")) <= 6


def contrast(a, b):
    """WCAG 2.2, from its definition."""

    def luminance(colour):
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return linear @ (0.2126, 0.7152, 0.0722)

    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def test_every_number_of_a_heat_map_can_be_read():
    assert min(contrast(*charts.ramp(v)) for v in np.linspace(-0.1, 1.1, 241)) >= 4.5


def test_more_similar_is_darker():
    fills = [charts.ramp(v)[0] for v in np.linspace(0, 1, 21)]
    assert (np.diff([contrast(fill, "#000000") for fill in fills]) < 0).all()
    assert charts.ramp(float("nan")) == charts.ramp(0.0)


def test_a_heat_map_has_rows_downwards():
    matrix = [[0.1, 0.2], [0.3, 0.4]]
    svg = drawing(charts.heat_map(matrix, ["s1", "s2"], "unlearned", "oracle"))
    found = {}
    for cell in svg.all("g"):
        (title,), (rect,), (number,) = (cell.all(tag) for tag in ("title", "rect", "text"))
        x, y = (float(rect.attributes[k]) for k in "xy")
        found[y, x] = (title.text, number.text)
    assert [found[key] for key in sorted(found)] == [
        ("s1 and s1: 0.100", "0.10"),
        ("s1 and s2: 0.200", "0.20"),
        ("s2 and s1: 0.300", "0.30"),
        ("s2 and s2: 0.400", "0.40"),
    ]
    assert [t.text for t in svg.all("text", class_="axis")] == ["oracle", "unlearned"]


def test_a_large_heat_map_has_no_numbers_in_its_cells():
    ticks = [f"s{i}" for i in range(20)]
    svg = drawing(charts.heat_map(np.eye(20), ticks, "a", "b"))
    assert not svg.all("text", class_="cell")
    assert len(svg.all("rect")) == 400


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_points_fill_the_frame_without_being_stretched(scale):
    points = scale * np.array([[0, 0], [4, 0], [4, 1], [0, 1]])
    svg = drawing(charts.scatter(points, [0, 0, 0, 0], [False] * 4, {0: "cat"}))
    (path,) = svg.all("path")
    xy = np.array(re.findall(r"M([\d.]+) ([\d.]+)h0", path.attributes["d"]), float)
    width, height = np.ptp(xy, axis=0)
    assert width == pytest.approx(4 * height, rel=0.01)
    assert width == pytest.approx(270 - 2 * 16)
    assert (xy[0, 1] > xy[2, 1]).all()  # up is up


def test_forget_images_are_drawn_above_the_others_under_their_own_name():
    labels, forget = [1, 0, 1, 0], [True, False, True, False]
    svg = drawing(charts.scatter(np.eye(4)[:, :2], labels, forget, {0: "a<b", 1: "cat"}))
    groups = [(p.attributes["class"], p.all("title")[0].text) for p in svg.all("path")]
    assert groups == [("retain", "a<b"), ("forget", "cat")]
    assert [t.text for t in svg.all("text")] == ["a<b", "cat"]


def test_a_single_point_stands_in_the_middle():
    svg = drawing(charts.scatter([[7.0, 7.0]], [0], [False], {}))
    assert svg.all("path")[0].attributes["d"] == "M135 135h0"


def test_bars_are_as_long_as_their_values():
    rows = [charts.Bar(name, v, f"{v}", "oracle") for name, v in (("a", 25), ("b", 100), ("c", 0))]
    svg = drawing(charts.bars(rows, top=100, reference=50))
    widths = [float(bar.attributes["width"]) for bar in svg.all("rect")]
    assert widths[1] == pytest.approx(4 * widths[0], abs=0.3)
    assert widths[2] == 0
    (line,) = svg.all("line", class_="reference")
    start = float(svg.all("rect")[0].attributes["x"])
    assert float(line.attributes["x1"]) == pytest.approx(start + widths[1] / 2, abs=0.1)
