"""The EC objective against loops, and its layer weights."""

import numpy as np
import pytest
import tiny
from command import changed

from configs import default
from ec_jax import methods
from ec_jax.methods.ec import layer_weights

POINTS = ("stage1", "stage2", "stage3", "stage4")


def build(**ec):
    c = default.get_config().unlock()
    c.ec.update(ec)
    return methods.build(c, POINTS)


def by_loops(outputs, batch, weights, lam, tau):
    """method.md's L with candidates `both`, in float64 loops."""
    y_r, y_f = (np.asarray(batch[k]["label"]) for k in ("retain", "forget"))
    labels, total = np.concatenate([y_f, y_r]), 0.0
    for point, weight in weights.items():
        ce = tiny.cross_entropies(outputs, batch, point)["retain"].mean()
        z = np.concatenate([tiny.features_of(outputs, n, point) for n in ("forget", "retain")])
        cu = tiny.contrastive(z, labels, range(len(y_f)), range(len(z)), tau, same=False)
        total += weight * (ce + lam * cu)
    return total


@pytest.mark.parametrize("devices", [1, 2])
def test_the_objective_is_the_weighted_sum_over_the_points(devices):
    outputs, batch = tiny.outputs_and_batch(points=POINTS)
    method = build(weights="1,2,3,4", weights_sum=5.0, temperature=0.3, **{"lambda": 0.7})
    weights = dict(zip(POINTS, np.array([1, 2, 3, 4]) * 0.5, strict=True))
    loss, _ = tiny.value(method, outputs, batch, devices)
    assert loss == pytest.approx(by_loops(outputs, batch, weights, 0.7, 0.3), rel=1e-5)


def test_only_the_chosen_points_count():
    outputs, batch = tiny.outputs_and_batch(points=POINTS)
    loss, metrics = tiny.value(build(points="stage4,stage2", temperature=0.5), outputs, batch)
    weights = {"stage2": 0.5, "stage4": 0.5}
    assert loss == pytest.approx(by_loops(outputs, batch, weights, 1.0, 0.5), rel=1e-5)
    assert set(metrics) == {f"{side}/stage{i}" for side in ("retain", "forget") for i in (2, 4)}


@pytest.mark.parametrize("devices", [1, 2])
def test_the_teachers_terms_stand_at_every_point(devices):
    outputs, batch = tiny.outputs_and_batch(points=POINTS)
    draw = np.random.default_rng(3)
    pseudo, proxy = np.int32([0, 2, 1, 2]), np.float32(draw.normal(size=(4, 5)))
    batch["forget"] |= {"pseudo": pseudo, "proxy": proxy}
    plain = build(weights="1,2,3,4", weights_sum=1.0)
    taught = build(weights="1,2,3,4", weights_sum=1.0, pseudo=0.5, proxy=0.3)
    extras = {"forgotten": np.array([False, False, False, True, True])}
    loss, metrics = tiny.value(taught, outputs, batch, devices, extras=extras)
    without, _ = tiny.value(plain, outputs, batch, devices)
    masked = np.exp(tiny.log_softmax(proxy[:, :3]))
    added = 0.0
    for point, weight in zip(POINTS, np.array([1, 2, 3, 4]) / 10, strict=True):
        own = tiny.log_softmax(outputs["forget"].logits[point])
        ce = -np.mean([row[y] for row, y in zip(own, pseudo, strict=True)])
        kl = np.mean((masked * (np.log(masked) - own[:, :3])).sum(axis=1))
        assert metrics[f"pseudo/{point}"] == pytest.approx(0.5 * ce, rel=1e-5)
        assert metrics[f"proxy/{point}"] == pytest.approx(0.3 * kl, rel=1e-5)
        added += weight * (0.5 * ce + 0.3 * kl)
    assert loss - without == pytest.approx(added, rel=1e-4)


def test_the_variants_name_what_they_need():
    assert build().needs == ()
    assert build(proxy=0.1).needs == ("proxy",)


@pytest.mark.parametrize("devices", [1, 2])
def test_with_targets_an_image_is_drawn_to_its_pseudo_class_alone(devices):
    outputs, batch = tiny.outputs_and_batch(points=POINTS)
    pseudo = np.int32([0, 2, 1, 2])
    batch["forget"]["pseudo"] = pseudo
    targeted = build(targets="pseudo", temperature=0.3)
    _, metrics = tiny.value(targeted, outputs, batch, devices)
    labels = np.concatenate([np.asarray(batch[n]["label"]) for n in ("forget", "retain")])
    for point in POINTS:
        z = np.concatenate([tiny.features_of(outputs, n, point) for n in ("forget", "retain")])
        z = np.float64(z / np.linalg.norm(z, axis=1, keepdims=True))
        values = []
        for i, target in enumerate(pseudo):
            rest = [a for a in range(len(z)) if a != i]
            total = sum(np.exp(z[i] @ z[a] / 0.3) for a in rest)
            drawn = [np.log(np.exp(z[i] @ z[p] / 0.3) / total) for p in rest if labels[p] == target]
            values += [-np.mean(drawn)] if drawn else []
        assert metrics[f"forget/{point}"] == pytest.approx(np.mean(values), rel=1e-5)


@pytest.mark.parametrize("forget", [tiny.FORGET, ()], ids=["classes", "samples"])
def test_the_originals_next_guess_and_the_proxys_logits_are_in_the_view(forget):
    given = tiny.two_models(forget)
    c = changed(tiny.config("ec"), ec__pseudo=0.5, ec__proxy=0.3)
    made = methods.build(c, tiny.POINTS)
    part = tiny.whole(given, "forget")
    found = tiny.viewed(made, {"forget": part}, made.prepare(given))["forget"]
    original, proxy = (
        tiny.pooled(given.models[name], part["image"])[1] for name in ("original", "proxy")
    )
    for row, label, pseudo in zip(original, part["label"], found["pseudo"], strict=True):
        out = set(forget) or {int(label)}
        assert pseudo == max((k for k in range(tiny.CLASSES) if k not in out), key=lambda k: row[k])
    np.testing.assert_allclose(found["proxy"], proxy, atol=1e-4)


def test_a_plug_in_is_the_hosts_loss_and_weighted_terms_below_the_head():
    outputs, batch = tiny.outputs_and_batch(points=POINTS)
    c = default.get_config().unlock()
    c.method, c.ec.plugin, c.ec.weight = "finetune", True, 0.25
    c.ec.weights, c.ec.weights_sum, c.ec.temperature = "1,2,3,4", 10.0, 0.3

    def loss():
        extras = {"host": {}, "ec": {}}
        return tiny.value(methods.build(c, POINTS), outputs, batch, extras=extras)[0]

    host = tiny.cross_entropies(outputs, batch, "stage4")["retain"].mean()
    below = {"stage1": 1.0, "stage2": 2.0, "stage3": 3.0}
    expected = host + 0.25 * by_loops(outputs, batch, below, 1.0, 0.3)
    assert loss() == pytest.approx(expected, rel=1e-5)
    c.ec.include_head = True
    expected = host + 0.25 * by_loops(outputs, batch, {**below, "stage4": 4.0}, 1.0, 0.3)
    assert loss() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("uniform", [1, 1, 1, 1]),
        ("linear", [0.4, 0.8, 1.2, 1.6]),
        ("geometric", [4 / 15, 8 / 15, 16 / 15, 32 / 15]),
        ("reversed", [1.6, 1.2, 0.8, 0.4]),
        ("late", [0, 0, 2, 2]),
        ("0,0,1,3", [0, 0, 1, 3]),
    ],
)
def test_layer_weights(kind, expected):
    np.testing.assert_allclose(layer_weights(kind, 4, 4.0), expected, rtol=1e-6)


def test_of_an_odd_number_of_points_the_middle_one_is_late():
    assert layer_weights("late", 3, 2.0).tolist() == [0, 1, 1]
    assert layer_weights("late", 1).tolist() == [1]


@pytest.mark.parametrize("kind", ["1,2", "0,0,0,0", "1,1,1,-1", "1,1,1,nan", "1,1,1,inf"])
def test_impossible_weights_are_refused(kind):
    with pytest.raises(ValueError, match="4 weights"):
        layer_weights(kind, 4)
