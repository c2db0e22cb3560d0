"""The plots: where the marks are, and the same drawing inside a page."""

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from runs import DIGITS, metrics, put

from ec_jax.report import comparison, inline, tradeoff
from ec_jax.report import runs as runs_lib

FORGET, RETAIN = "accuracy/forget_test", "accuracy/retain_test"


def compare(*sources):
    (found,) = comparison.compare([runs_lib.read(str(source)) for source in sources])
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Three runs of ec and one of another method that forgets too little and loses too much."""
    numbers = {FORGET: 20.0, RETAIN: 91.0, "gap/logit": 8.0, "gap/representation": 0.25}
    other = metrics(0, method="other_$x$", unlearned=numbers)
    return compare(*DIGITS, put(tmp_path_factory.mktemp("runs") / "other", other))


@pytest.fixture(scope="module")
def plots(two):
    return tradeoff.plots(two)


def marks(plot):
    """{title: (x, y)} of every mark."""
    found = {}
    for line in plot.figure.axes[0].lines:
        if (line.get_gid() or "").startswith("title: "):
            (x,), (y,) = line.get_data()
            found[line.get_gid().removeprefix("title: ")] = (x, y)
    return found


def test_every_run_is_a_mark_at_its_difference_to_its_own_oracle(plots):
    found = marks(plots["forgetting_retention"])
    places = {title.partition(":")[0]: place for title, place in found.items()}
    assert set(places) == {"oracle", "other_$x$, seed 0", *(f"ec, seed {s}" for s in range(3))}
    assert places["oracle"] == (0, 0)
    oracle = metrics(0)["models"]["oracle"]
    expected = 20.0 - oracle[FORGET], 91.0 - oracle[RETAIN]
    assert places["other_$x$, seed 0"] == pytest.approx(expected)


def test_gaps_are_taken_as_they_are(plots):
    found = marks(plots["gaps"])
    assert found["other_$x$, seed 0: 8, 0.25"] == (8.0, 0.25)
    assert found["oracle: 0, 0 by definition"] == (0, 0)


def test_an_original_far_off_is_an_arrow_and_one_nearby_a_mark(plots, tmp_path):
    far = plots["forgetting_retention"]
    runs = [metrics(seed)["models"] for seed in range(3)]
    x, y = (np.mean([m["original"][k] - m["oracle"][k] for m in runs]) for k in (FORGET, RETAIN))
    said = f"original: {x:.3g}, {y:.3g}".replace("-", "−")
    assert said in [t.get_text() for t in far.figure.axes[0].texts]
    near = tradeoff.plots(
        compare(put(tmp_path / "a", metrics(0, unlearned={FORGET: 60.0, RETAIN: 98.0})))
    )["forgetting_retention"]
    y = runs[0]["original"][RETAIN] - runs[0]["oracle"][RETAIN]
    assert f"original, seed 0: 100, {y:.3g}".replace("-", "−") in marks(near)
    assert not near.figure.axes[0].texts


def test_all_marks_lie_inside_the_axes(plots):
    for name in tradeoff.TRADE_OFFS:
        plot = plots[name]
        axes = plot.figure.axes[0]
        for x, y in marks(plot).values():
            assert axes.get_xlim()[0] < x < axes.get_xlim()[1]
            assert axes.get_ylim()[0] < y < axes.get_ylim()[1]


def test_methods_are_told_apart_by_colour_and_by_marker(plots):
    axes = plots["gaps"].figure.axes[0]
    looks = {
        line.get_gid().removeprefix("title: ").partition(",")[0]: (
            line.get_marker(),
            to_hex(line.get_color()),
        )
        for line in axes.lines
        if (line.get_gid() or "").startswith("title: ")
    }
    assert len({marker for marker, _ in looks.values()}) == 3
    assert len({colour for _, colour in looks.values()}) == 3


def test_the_curves_are_the_means_and_the_bands_one_deviation(plots):
    assert set(plots) == {*tradeoff.TRADE_OFFS, *tradeoff.STAGES}
    axes = plots["cka_to_original"].figure.axes[0]
    keys = [f"cka_to_original/forget_test/stage{i + 1}" for i in range(4)]
    values = np.array([[metrics(s)["models"]["oracle"][k] for k in keys] for s in range(3)])
    drawn = [line.get_ydata() for line in axes.lines]
    assert any(y == pytest.approx(values.mean(axis=0)) for y in drawn)
    assert len(drawn) == 3  # not the original: its similarity to itself
    low = values.mean(axis=0) - values.std(axis=0, ddof=1)
    edges = np.concatenate([band.get_paths()[0].vertices[:, 1] for band in axes.collections])
    assert all(np.isclose(edges, value, atol=1e-9).any() for value in low)
    assert len(axes.collections) == 2  # none for a single run


def test_what_was_not_measured_is_not_drawn(tmp_path):
    found = metrics()
    del found["models"]["oracle"]
    unlearned = found["models"]["unlearned"]
    for key in list(unlearned):
        if key.startswith(("gap/", "knn/", "cka_to_oracle/")):
            del unlearned[key]
    assert set(tradeoff.plots(compare(put(tmp_path / "a", found)))) == {"cka_to_original", "probe"}


@pytest.mark.parametrize("count", [1, 12])
def test_any_number_of_methods_and_any_name_fits(count, tmp_path):
    long = "_a method with a rather long name that goes on and on & <on> $\\frac{"
    sources = [
        put(tmp_path / str(i), metrics(0, method=f"{long}{i}"), method="ec") for i in range(count)
    ]
    for plot in tradeoff.plots(compare(*sources)).values():
        picture = Image.open(io.BytesIO(tradeoff.png(plot)))
        assert picture.width == 864
        axes = plot.figure.axes[0].get_window_extent()
        assert axes.height > 0.5 * 4.0 * plot.figure.dpi  # the legend does not eat it
        svg = inline.svg(plot.figure, "a", {})
        assert svg.count("&lt;on&gt;") >= count


# The drawing inside a page.


@pytest.fixture
def drawn(plots):
    return inline.svg(plots["gaps"].figure, "s1-gaps", {tradeoff.INK: "currentColor"})


def test_the_drawing_needs_no_style_and_follows_the_page(drawn):
    assert drawn.startswith("<svg ")
    root = ElementTree.fromstring(drawn)
    for element in root.iter():
        assert "style" not in element.attrib
        assert not element.tag.endswith(("}style", "}metadata"))
    assert tradeoff.INK not in drawn
    assert "currentColor" in drawn
    assert {"width", "height"}.isdisjoint(root.attrib)
    assert root.attrib["viewBox"].startswith("0 0 ")


def test_marks_show_what_they_are_under_the_pointer(drawn):
    titles = re.findall(r"<title>(.*?)</title>", drawn)
    assert len(titles) == 5
    assert "other_$x$, seed 0: 8, 0.25" in titles


def test_names_are_those_of_the_drawing_and_lead_somewhere(drawn):
    root = ElementTree.fromstring(drawn)
    names = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
    assert len(names) == len(set(names))
    assert all(name.startswith("s1-gaps-") for name in names)
    links = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', drawn)
    assert links
    assert {a or b for a, b in links} <= set(names)


def test_the_same_figure_gives_the_same_drawing(two, drawn):
    again = tradeoff.plots(two)["gaps"]
    assert inline.svg(again.figure, "s1-gaps", {tradeoff.INK: "currentColor"}) == drawn
