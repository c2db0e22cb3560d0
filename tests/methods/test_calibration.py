"""Calibrated EC: the similarity, the gate, the targets and what is gated, against loops."""

import jax
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from ec_jax import config as config_lib
from ec_jax import methods
from ec_jax.errors import InputError
from ec_jax.methods import _calibration

WIDTHS = {"stage1": 3, "stage2": 5, "stage3": 2}


def build(**ec):
    """EC on the tiny network's points, as these fields of ``config.ec`` say."""
    c = tiny.config("ec").unlock()
    c.ec.update({"weights": "uniform", "weights_sum": 3.0, **ec})
    return methods.build(c, tiny.POINTS)


def hsic(k, m):
    """HSIC₁, Nguyen et al. 2021, equation 3, by loops over pairs and triples in float64."""
    n = len(k)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    first = sum(k[i][j] * m[i][j] for i, j in pairs)
    sums = sum(k[i][j] for i, j in pairs) * sum(m[i][j] for i, j in pairs)
    chains = sum(k[i][j] * m[j][h] for i, j in pairs for h in range(n) if h != j)
    return (first + sums / ((n - 1) * (n - 2)) - 2 * chains / (n - 2)) / (n * (n - 3))


def cka(x, y):
    """Unbiased linear CKA, float64."""
    k, m = ([[float(np.dot(a, b)) for b in z] for a in z] for z in map(np.float64, (x, y)))
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def drawn(seed=4, count=tiny.COUNTS["forget"], mixed=0.4):
    """{point: (the student's features, the original's)} of a forget batch."""
    draw = np.random.default_rng(seed)
    pairs = {}
    for point, width in WIDTHS.items():
        original = np.float32(draw.normal(1.0, size=(count, width)))
        noise = np.float32(draw.normal(size=(count, width)))
        pairs[point] = (original + np.float32(mixed) * noise, original)
    return pairs


def calibrated_batch(pairs):
    """Outputs and a batch whose forget features are these pairs."""
    outputs, batch = tiny.outputs_and_batch(points=tiny.POINTS)
    features = {p: student for p, (student, _) in pairs.items()}
    outputs["forget"] = outputs["forget"].replace(features=features)
    batch["forget"] |= {f"original/{p}": original for p, (_, original) in pairs.items()}
    return outputs, batch


@settings(deadline=None, max_examples=30)
@given(st.floats(-0.5, 1.0), st.floats(-1.0, 1.0))
def test_the_gate_is_the_share_of_the_way_that_is_left(target, found):
    gate = float(_calibration.gate(np.float32(found), np.float32(target)))
    assert 0 <= gate <= 1
    if 1 - target > 1e-3:
        way = (np.float32(found) - np.float32(target)) / (1.0 - np.float32(target))
        assert gate == pytest.approx(min(max(float(way), 0.0), 1.0), abs=1e-6)


def test_the_gate_stays_closed_where_the_proxy_is_like_the_original():
    assert float(_calibration.gate(np.float32(1.0), np.float32(1.0))) == 0
    assert float(_calibration.gate(np.float32(0.9), np.float32(1.0))) == 0


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_the_gate_of_the_whole_batch_stands_before_the_contrast_alone(devices):
    pairs = drawn()
    outputs, batch = calibrated_batch(pairs)
    batch["forget"] |= {"pseudo": np.int32([0, 2, 1, 2]), "proxy": np.zeros((4, 5), np.float32)}
    similar = {p: cka(*pair) for p, pair in pairs.items()}
    way = dict(zip(tiny.POINTS, (0.5, 2.0, 0.8), strict=True))  # the second is past its target
    targets = {p: np.float32(1 - (1 - s) / way[p]) for p, s in similar.items()}
    extras = {"forgotten": np.isin(np.arange(5), tiny.FORGET), "targets": targets}
    others = {"pseudo": 0.5, "proxy": 0.3, "lambda": 0.7}
    loss, metrics = tiny.value(
        build(calibrated=True, **others), outputs, batch, devices, extras=extras
    )
    plain, told = tiny.value(build(**others), outputs, batch, extras=extras)
    taken = 0.0
    for point in tiny.POINTS:
        open_ = min(max((similar[point] - targets[point]) / (1 - targets[point]), 0.0), 1.0)
        assert metrics[f"cka/{point}"] == pytest.approx(similar[point], abs=1e-5)
        assert metrics[f"gate/{point}"] == pytest.approx(open_, abs=1e-4)
        taken += (1 - open_) * 0.7 * told[f"forget/{point}"]
        for term in ("retain", "forget", "pseudo", "proxy"):  # told as they are without a gate
            assert metrics[f"{term}/{point}"] == pytest.approx(told[f"{term}/{point}"], rel=1e-5)
    assert metrics["gate/stage2"] == 0
    assert 0 < metrics["gate/stage1"] < 1
    assert plain - loss == pytest.approx(taken, rel=1e-3)


@pytest.mark.parametrize("devices", [1, 2])
def test_as_a_plug_in_the_gate_stands_before_ecs_contrast_and_not_the_hosts_loss(devices):
    pairs = drawn()
    outputs, batch = calibrated_batch(pairs)
    c = tiny.config("random_label").unlock()
    c.ec.update({"plugin": True, "weight": 0.25, "weights": "uniform", "weights_sum": 3.0})
    closed = {p: np.float32(1.0) for p in tiny.POINTS}
    extras = {"host": {"classes": np.arange(5)}, "ec": {"targets": closed}}
    losses = {}
    for calibrated in (True, False):
        c.ec.calibrated = calibrated
        made = methods.build(c, tiny.POINTS)
        losses[calibrated], metrics = tiny.value(made, outputs, batch, devices, extras=extras)
        assert made.needs == (("proxy",) if calibrated else ())
        assert ("ec/gate/stage1" in metrics) == calibrated
    contrast = sum(metrics[f"ec/forget/{p}"] for p in tiny.POINTS[:-1])
    assert losses[False] - losses[True] == pytest.approx(0.25 * contrast, rel=1e-4)


def spatial_means(tree, pictures):
    """{point: float64 [n, c]} by the network's raw activations."""
    variables = {collection: {"backbone": part} for collection, part in tree.items()}
    activations, _ = tiny.network().activations(variables, pictures)
    return {p: np.float64(a).mean(axis=(1, 2)) for p, a in activations.items()}


@pytest.mark.parametrize("passes", [4, 256])
def test_targets_are_the_similarity_of_original_and_proxy_on_the_forget_set(monkeypatch, passes):
    monkeypatch.setattr(_calibration, "_BATCH", passes)
    context = tiny.two_models()
    images = tiny.whole(context, "forget")["image"]
    found = build(calibrated=True).prepare(context)["targets"]
    one, other = (spatial_means(context.models[n], images) for n in ("original", "proxy"))
    assert set(found) == set(tiny.POINTS)
    for point in tiny.POINTS:
        assert float(found[point]) == pytest.approx(cka(one[point], other[point]), abs=1e-4)


def test_of_many_images_the_first_are_compared(monkeypatch):
    monkeypatch.setattr(_calibration, "MOST", 5)
    context = tiny.two_models()
    images = tiny.whole(context, "forget")["image"][:5]
    found = _calibration.targets(context, tiny.POINTS[:1])
    one, other = (spatial_means(context.models[n], images) for n in ("original", "proxy"))
    assert float(found["stage1"]) == pytest.approx(cka(one["stage1"], other["stage1"]), abs=1e-4)


def test_three_forget_images_are_refused():
    with pytest.raises(InputError, match=r"ec\.calibrated = True: 3 forget images"):
        build(calibrated=True).prepare(tiny.two_models(forget_count=3))


def test_a_batch_that_has_no_unbiased_estimate_is_refused():
    c = tiny.config("ec").unlock()
    c.data.forget_batch_size = 3
    config_lib.validate(c)
    c.ec.calibrated = True
    with pytest.raises(
        InputError, match=r"data\.forget_batch_size = 3: ec\.calibrated .*at least 4"
    ):
        config_lib.validate(c)


def test_the_gate_needs_the_proxy_and_hands_only_targets_on():
    made = build(calibrated=True)
    assert made.needs == ("proxy",)
    assert set(made.prepare(tiny.two_models())) == {"forgotten", "original", "targets"}
    assert build().prepare(tiny.context()) == {}


@pytest.mark.parametrize("devices", [1, 2])
def test_the_view_holds_the_originals_features(devices):
    context, made = tiny.two_models(), build(calibrated=True)
    part = tiny.whole(context, "forget")
    found = tiny.viewed(made, {"forget": part}, made.prepare(context), devices)["forget"]
    for point, expected in spatial_means(context.original, part["image"]).items():
        np.testing.assert_allclose(found[f"original/{point}"], expected, atol=1e-5)


@pytest.mark.slow
def test_a_student_that_is_still_the_original_forgets_in_full_alike_on_any_devices():
    """By real updates: the gates start at 1, and devices do not change them."""
    runs = {d: tiny.updates("ec", tiny.two_models(), d, 3, calibrated=True) for d in (1, 2)}
    (one, history), (two, twice) = runs[1], runs[2]
    tiny.check_finite(history)
    for point in tiny.POINTS:
        assert history[0][f"gate/{point}"] == pytest.approx(1, abs=1e-4)
        # Not at every step: four images may happen to look alike to both.
        assert min(metrics[f"gate/{point}"] for metrics in history[1:]) < 1
    for a, b in zip(history, twice, strict=True):
        for name, value in a.items():
            assert b[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one.params, two.params)
