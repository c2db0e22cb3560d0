"""Closeness against compute: all are drawn, and those that nothing beats are named."""

from ec_jax.report import costs

POINTS = {
    "cheap": (0.0, 0.4),  # a closed form: drawn at the left edge of a logarithmic axis
    "near": (50.0, 0.9),
    "both": (10.0, 0.8),
    "twin": (11.0, 0.801),  # whose name would lie on the other's
    "beaten": (20.0, 0.5),
}
KINDS = {"first": ["cheap", "near", "absent"], "second": ["both", "twin", "beaten"], "none": []}


def test_those_that_nothing_beats_are_named():
    assert set(costs.best(POINTS)) == {"cheap", "near", "both", "twin"}
    plot = costs.scatter(POINTS, KINDS)
    (axes,) = plot.figure.axes
    assert {text.get_text() for text in axes.texts} == {"cheap", "near", "twin"}


def test_every_method_is_drawn_and_said():
    plot = costs.scatter(POINTS, KINDS)
    (axes,) = plot.figure.axes
    drawn = [xy for line in axes.lines if line.get_ls() == "None" for xy in line.get_xydata()]
    assert len(drawn) == len(POINTS)
    assert min(x for x, _ in drawn) > 0
    assert [text.get_text() for text in plot.figure.legends[0].get_texts()] == ["first", "second"]
    assert all(f"{name}: " in plot.alt for name in POINTS)


def test_what_fails_is_drawn_hollow_and_not_named():
    plot = costs.scatter(POINTS, KINDS, failing={"near"})
    (axes,) = plot.figure.axes
    assert {text.get_text() for text in axes.texts} == {"cheap", "twin"}
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xydata()[0]) for line in hollow] == [[50.0, 0.9]]
    shown = [text.get_text() for text in plot.figure.legends[0].get_texts()]
    assert shown == ["first", "second", "does not forget, or damages"]


def test_equals_do_not_beat_each_other():
    assert costs.best({"a": (1.0, 0.5), "b": (1.0, 0.5)}) == ["a", "b"]
