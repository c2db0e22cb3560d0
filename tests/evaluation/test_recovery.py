import dataclasses
import math
import types

import command
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh
from sklearn.linear_model import LogisticRegression

from ec_jax import parallel
from ec_jax.data import augment, sources, splits
from ec_jax.evaluation import accuracy, recovery
from ec_jax.evaluation.features import Context, Features, Subject, extract
from ec_jax.losses.classification import cross_entropy
from ec_jax.models.network import Network, build
from ec_jax.models.resnet import replace_sown

FORGOTTEN = 3


@pytest.fixture(autouse=True)
def _strict_types():
    """Not here: optax and Flax, which train the networks, mix types on purpose."""


def _context(subject=None, fraction=0.02, images=32, steps=20):
    evaluation = types.SimpleNamespace(
        recovery_fraction=fraction, recovery_images=images, recovery_steps=steps
    )
    return Context(types.SimpleNamespace(evaluation=evaluation), {}, subject)


# The head.


def _planted(held=True, seed=0, counts=(300, 200), classes=5, d=12):
    """Four splits of features that hold the class, or nothing; the last class is forgotten."""
    draw = np.random.default_rng(seed)
    centres = 6.0 * draw.normal(size=(classes, d)) * held
    found = {}
    for part, count in zip(("train", "test"), counts, strict=True):
        labels = draw.permutation(np.arange(count) % classes)
        values = (centres[labels] + draw.normal(size=(count, d))).astype(np.float32)
        gone = labels == classes - 1
        for side, rows in (("forget", gone), ("retain", ~gone)):
            points = {"stage1": values[rows] * 0, "stage2": values[rows]}
            logits = np.zeros((rows.sum(), classes), np.float32)
            found[f"{side}_{part}"] = Features(points, logits, labels[rows].astype(np.int32))
    return found


def _cut(part, count):
    points = {point: values[:count] for point, values in part.points.items()}
    return Features(points, part.logits[:count], part.labels[:count])


def test_the_head_tells_what_the_last_features_hold():
    held = recovery.run(_planted(), _context())
    assert set(held) == {"recovery/head/forget_test", "recovery/head/retain_test"}
    assert min(held.values()) >= 95
    assert all(type(value) is float for value in held.values())
    nothing = recovery.run(_planted(held=False), _context(fraction=0.2))
    assert max(nothing.values()) <= 40  # chance is 20 %


@pytest.mark.parametrize("fraction", [0.02, 0.5])
def test_the_head_is_that_of_scikit_learn(fraction):
    features = _planted(seed=1)
    for part in features.values():  # overlapping classes, or every head would do
        part.points["stage2"] += np.random.default_rng(len(part.labels)).normal(
            0, 8, part.points["stage2"].shape
        )
    few = [recovery._few(features[s], fraction, s) for s in ("forget_train", "retain_train")]
    values, labels = (np.concatenate(part) for part in zip(*few, strict=True))
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    # Its own default strength, C = 1, is the standard normal prior.
    peer = LogisticRegression(tol=1e-9, max_iter=10_000).fit((values - mean) / deviation, labels)
    got = recovery.run(features, _context(fraction=fraction))
    for split in ("forget_test", "retain_test"):
        queries = (features[split].points["stage2"] - mean) / deviation
        expected = 100 * peer.score(queries, features[split].labels)
        assert got[f"recovery/head/{split}"] == pytest.approx(expected)
        assert 30 < expected < 95


@pytest.mark.parametrize(("fraction", "counts"), [(0.02, [1, 1, 1, 2]), (0.5, [1, 2, 20, 50])])
def test_a_share_of_every_class_and_at_least_one(fraction, counts):
    labels = np.repeat([0, 1, 4, 7], [1, 4, 40, 100])
    values = np.arange(len(labels), dtype=np.float32)[:, None]
    part = Features({"stage1": values}, np.zeros((len(labels), 8), np.float32), labels)
    chosen, named = recovery._few(part, fraction, "retain_train")
    assert np.bincount(named)[[0, 1, 4, 7]].tolist() == counts
    rows = chosen[:, 0].astype(int)
    assert len(set(rows)) == len(rows)
    np.testing.assert_array_equal(labels[rows], named)
    np.testing.assert_array_equal(chosen, recovery._few(part, fraction, "retain_train")[0])
    if fraction == 0.5:  # at random, not the first ones
        assert rows[named == 7].max() > 45 + 60


def test_classes_of_one_image_have_a_head():
    features = _planted()
    for split in ("forget_train", "retain_train"):
        _, first = np.unique(features[split].labels, return_index=True)
        part = features[split]
        points = {point: values[first] for point, values in part.points.items()}
        features[split] = Features(points, part.logits[first], part.labels[first])
    assert min(recovery.run(features, _context()).values()) >= 95


def test_the_head_averages_maps_over_space():
    features = _planted()
    expected = recovery.run(features, _context())
    for part in features.values():
        flat = part.points["stage2"][:, None, None]
        part.points["stage2"] = np.concatenate([2 * flat, 0 * flat], axis=2)
    assert recovery.run(features, _context()) == pytest.approx(expected)


def test_the_head_without_some_splits():
    full = recovery.run(_planted(), _context())
    features = _planted()
    features["forget_test"] = _cut(features["forget_test"], 0)
    kept = {"recovery/head/retain_test": full["recovery/head/retain_test"]}
    assert recovery.run(features, _context()) == kept
    del features["forget_test"]
    assert recovery.run(features, _context()) == kept
    features = _planted()
    del features["forget_train"]
    assert recovery.run(features, _context())["recovery/head/forget_test"] == 0
    features["retain_train"] = _cut(features["retain_train"], 0)
    assert recovery.run(features, _context()) == {}
    del features["retain_train"]
    assert recovery.run(features, _context()) == {}


def test_features_that_are_not_finite_have_no_head():
    features = _planted()
    features["forget_test"].points["stage2"][0, 0] = np.nan
    got = recovery.run(features, _context())
    assert math.isnan(got["recovery/head/forget_test"])
    assert got["recovery/head/retain_test"] >= 95
    features["retain_train"].points["stage2"][:] = np.inf
    assert all(math.isnan(value) for value in recovery.run(features, _context()).values())


# Numbers made of others.


def test_excess_over_the_oracle():
    values = {"recovery/head/forget_test": 90.0, "recovery/area": 20.0, "accuracy/forget_test": 1.0}
    oracle = {"recovery/head/forget_test": 60.0, "recovery/area": 25.0}
    expected = {"recovery/head_excess": 30.0, "recovery/area_excess": -5.0}
    assert recovery.derive(values, {"oracle": oracle, "original": values}, []) == expected
    assert recovery.derive(values, {"original": values}, []) == {}
    del oracle["recovery/area"]  # of an audit without the model itself
    assert recovery.derive(values, {"oracle": oracle}, []) == {"recovery/head_excess": 30.0}


@given(st.integers(1, 5000))
def test_the_steps_grow_from_none_to_the_last(last):
    shown = recovery.steps_shown(last)
    assert shown[0] == 0
    assert shown[-1] == last
    assert shown == sorted(set(shown))
    assert set(shown[1:-1]) == {
        k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if k < last
    }


@given(st.lists(st.floats(0, 100), min_size=2, max_size=8))
def test_area_is_a_mean(values):
    steps = recovery.steps_shown(50)[: len(values)]
    values = values[: len(steps)]
    got = recovery.area(steps, values)
    assert min(values) - 1e-9 <= got <= max(values) + 1e-9
    fine = np.linspace(0, np.log1p(steps[-1]), 20_001)
    curve = np.interp(fine, np.log1p(steps), values)
    assert got == pytest.approx(curve.mean(), abs=0.02)


# Relearning.


class _Linear(nn.Module):
    """A head on the pixels."""

    points = ("stage1",)

    @nn.compact
    def __call__(self, x, train, after=None):
        flat = x.reshape(len(x), -1)
        self.sow("intermediates", "stage1", x, reduce_fn=replace_sown)
        self.sow("intermediates", "pooled", flat, reduce_fn=replace_sown)
        return nn.Dense(3, name="head")(flat)


def _adam(kernel, bias, inputs, labels, weights, steps):
    """(kernel, bias) after 0, 1, … steps of Adam on weighted softmax regression."""
    parameters = [np.float64(kernel), np.float64(bias)]
    first, second = ([np.zeros_like(p) for p in parameters] for _ in range(2))
    found = [tuple(parameters)]
    for step in range(1, steps + 1):
        powers = np.exp(inputs @ parameters[0] + parameters[1])
        errors = powers / powers.sum(axis=1, keepdims=True) - np.eye(3)[labels]
        errors = weights[:, None] * errors
        for i, slope in enumerate((inputs.T @ errors, errors.sum(axis=0))):
            first[i] = 0.9 * first[i] + 0.1 * slope
            second[i] = 0.999 * second[i] + 0.001 * slope**2
            move = first[i] / (1 - 0.9**step) / (np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8)
            parameters[i] = parameters[i] - 1e-3 * move
        found.append(tuple(parameters))
    return found


def test_relearning_is_adam_on_the_loss_of_ordinary_training():
    draw = np.random.default_rng(0)
    sizes = {"forget_train": 6, "retain_train": 3, "forget_test": 300, "retain_test": 130}
    labels = {s: np.full(n, 2) if "forget" in s else np.arange(n) % 2 for s, n in sizes.items()}
    labels = {split: part.astype(np.int32) for split, part in labels.items()}
    images = {s: draw.integers(256, size=(n, 2, 2, 1), dtype=np.uint8) for s, n in sizes.items()}
    images["forget_train"][:] = images["forget_train"][:1]  # so that the draw does not matter
    mean, std = np.float32([0.5]), np.float32([0.25])
    inputs = {s: (v.reshape(len(v), 4) / 255.0 - 0.5) / 0.25 for s, v in images.items()}
    network = Network(_Linear())
    variables = network.init(jax.random.key(0), (2, 2, 1))
    # The forgotten class lies so low that some of its images come back within these steps.
    head = variables["params"]["backbone"]["head"]
    head["kernel"], head["bias"] = 0.02 * head["kernel"], jnp.array([0.0, 0.0, -0.03])
    features = {
        s: Features({"stage1": images[s]}, np.zeros((n, 3), np.float32), labels[s])
        for s, n in sizes.items()
    }
    subject = Subject(network, variables, images, mean, std)
    got = recovery.run(features, _context(subject, images=3, steps=40))
    # Three forget images a step count as much as all six, as in training on all nine images.
    training = [np.concatenate([d["forget_train"], d["retain_train"]]) for d in (inputs, labels)]
    weights = np.full(9, 1 / 9)
    path = _adam(head["kernel"], head["bias"], *training, weights, 40)

    def expected(step, split):
        scores = inputs[split] @ path[step][0] + path[step][1]
        return 100 * np.mean(scores.argmax(axis=1) == labels[split])

    steps = {int(k.rpartition("/")[2]): v for k, v in got.items() if "steps/" in k}
    assert list(steps) == [0, 1, 2, 5, 10, 20, 40]
    for step, value in steps.items():
        assert value == pytest.approx(expected(step, "forget_test"))
    assert steps[0] < steps[10] < steps[40]
    assert got["recovery/retain_after"] == pytest.approx(expected(40, "retain_test"))
    assert got["recovery/area"] == recovery.area(list(steps), list(steps.values()))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 70))
def test_forget_images_are_drawn_evenly_of_their_classes(labels, size):
    labels = np.array(labels)
    rows = recovery._evenly(labels, size)
    assert len(set(rows)) == len(rows) == min(size, len(labels))
    there, drawn = np.bincount(labels, minlength=5), np.bincount(labels[rows], minlength=5)
    for i in range(5):
        assert drawn[i] == there[i] or drawn[i] >= drawn.max() - 1


NETWORK = command.model(depth=8, width=8)


@pytest.fixture(scope="module")
def digits():
    data = sources.load("digits", data_dir="", manual_dir="", subset=0, seed=0)
    rows = splits.split(data, (FORGOTTEN,))
    pairs = {split: data.images_and_labels(split, part) for split, part in rows.items()}
    mean, std = augment.moments(data.train_images)
    images, labels = ({split: pair[i] for split, pair in pairs.items()} for i in (0, 1))
    return images, labels, mean, std


def _trained(digits, parts, seed, steps=150):
    """A ResNet trained on some splits for a second."""
    images, labels, mean, std = digits
    network, optimizer = build(NETWORK, 10), optax.adam(3e-3)
    x = np.concatenate([images[part] for part in parts])
    x = jnp.asarray(augment.normalize(x, mean, std))
    y = jnp.concatenate([labels[part] for part in parts])

    @jax.jit
    def step(variables, state, rows):
        def loss(params):
            outputs, stats = network.apply(
                {**variables, "params": params}, x[rows], train_backbone=True, train_modules=False
            )
            return cross_entropy(outputs.logits["stage3"], y[rows]).mean(), stats

        grads, stats = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = optimizer.update(grads, state)
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, "batch_stats": stats}, state

    variables = network.init(jax.random.key(seed), (8, 8, 1))
    state, draw = optimizer.init(variables["params"]), np.random.default_rng(seed)
    for _ in range(steps):
        variables, state = step(variables, state, draw.integers(len(y), size=64))
    return variables


@pytest.fixture(scope="module")
def models(digits):
    original = _trained(digits, ("forget_train", "retain_train"), 0)
    headless, pushed = (jax.tree.map(lambda leaf: leaf, original) for _ in range(2))
    head = original["params"]["backbone"]["head"]
    headless["params"]["backbone"]["head"] = jax.tree.map(jnp.zeros_like, head)
    pushed["params"]["backbone"]["head"] = {
        "kernel": head["kernel"].at[:, FORGOTTEN].set(0.0),
        "bias": head["bias"].at[FORGOTTEN].set(-3.0),
    }
    return {
        "original": original,
        "headless": headless,
        "pushed": pushed,
        "oracle": _trained(digits, ("retain_train",), 1),
        "fresh": build(NETWORK, 10).init(jax.random.key(2), (8, 8, 1)),
    }


_activations = jax.jit(Network.activations, static_argnums=0)


def _measured(digits, variables):
    """(features, subject) of a model; the network is built anew, as for every model of a run."""
    images, labels, mean, std = digits
    subject = Subject(build(NETWORK, 10), variables, images, mean, std)

    def forward(batch):
        points, logits = _activations(subject.network, variables, subject.normalized(batch))
        return {point: values.mean((1, 2)) for point, values in points.items()}, logits, {}

    forwards = {"it": forward}
    return {s: extract(forwards, images[s], labels[s], 400)["it"] for s in images}, subject


@pytest.fixture(scope="module")
def found(digits, models):
    recovery._step.clear_cache()
    recovery._logits.clear_cache()
    result = {}
    for name, variables in models.items():
        features, subject = _measured(digits, variables)
        result[name] = recovery.run(features, _context(subject))
        # Not a digit of the accuracy is lost on the way from the features to the subject.
        told = accuracy.run(features, _context())["accuracy/forget_test"]
        assert result[name]["recovery/steps/0"] == told
    return result


def test_a_network_that_lost_its_head_alone_relearns_first(found):
    area = {name: values["recovery/area"] for name, values in found.items()}
    assert area["original"] >= 90
    assert area["headless"] >= 70
    assert area["oracle"] <= 40
    assert area["fresh"] <= 40
    assert found["headless"]["recovery/steps/0"] <= 20
    assert found["headless"]["recovery/steps/2"] >= 80
    assert found["oracle"]["recovery/steps/0"] == 0
    assert found["oracle"]["recovery/steps/2"] <= 20
    # Taking everything for the forgotten class would be no recovery.
    assert found["fresh"]["recovery/steps/5"] <= 40


def test_a_head_pushed_away_from_a_class_hides_it_from_the_curve_alone(found):
    pushed, original = found["pushed"], found["original"]
    assert pushed["recovery/steps/5"] <= 20
    assert pushed["recovery/steps/20"] >= 80
    assert pushed["recovery/head/forget_test"] == original["recovery/head/forget_test"]


def test_relearning_keeps_the_rest(found):
    for name in ("original", "headless", "pushed", "oracle"):
        assert found[name]["recovery/retain_after"] >= 80


def test_the_head_brings_back_what_the_features_hold(found):
    heads = {name: values["recovery/head/forget_test"] for name, values in found.items()}
    assert heads["headless"] == heads["original"] >= 90
    assert heads["fresh"] < heads["original"] - 20


def test_all_models_share_one_compilation(found):
    assert recovery._step._cache_size() == 1
    assert recovery._logits._cache_size() == 1


def test_the_model_stays_as_it_is_and_may_lie_on_many_devices(digits, models, found):
    before = jax.device_get(models["pushed"])
    spread = parallel.replicate(models["pushed"], Mesh(np.array(jax.devices()), (parallel.AXIS,)))
    features, subject = _measured(digits, spread)
    again = recovery.run(features, _context(subject))
    # The same numbers at every call, wherever the parameters lie.
    assert {k: v for k, v in again.items() if "head" not in k} == {
        k: v for k, v in found["pushed"].items() if "head" not in k
    }
    for variables in (spread, models["pushed"]):
        jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(variables))
    assert recovery._step._cache_size() == 1


def test_one_step(digits, models, found):
    features, subject = _measured(digits, models["headless"])
    got = recovery.run(features, _context(subject, steps=1))
    assert [k for k in got if "steps" in k] == ["recovery/steps/0", "recovery/steps/1"]
    first, last = got["recovery/steps/0"], got["recovery/steps/1"]
    assert (first, last) == tuple(found["headless"][f"recovery/steps/{k}"] for k in (0, 1))
    assert got["recovery/area"] == pytest.approx((first + last) / 2)


def test_relearning_without_some_splits(digits, models):
    features, subject = _measured(digits, models["pushed"])
    head_only = recovery.run(features, _context())
    for split in ("forget_train", "forget_test"):
        for part in ({}, {split: _cut(features[split], 0)}):
            rest = {s: p for s, p in features.items() if s != split} | part
            got = recovery.run(rest, _context(subject))
            assert got.keys() == {k for k in head_only if not k.endswith(split)}
    # Without anything to keep, all is forgotten for the forget set.
    forget = {s: part for s, part in features.items() if "forget" in s}
    got = recovery.run(forget, _context(subject, steps=20))
    assert got["recovery/steps/20"] == 100
    assert "recovery/retain_after" not in got
    without = {s: part for s, part in features.items() if s != "retain_train"}
    got = recovery.run(without, _context(subject, steps=20))
    assert got["recovery/steps/20"] == 100
    assert got["recovery/retain_after"] < 80


def test_few_images_of_each_kind(digits, models):
    features, subject = _measured(digits, models["headless"])
    one = {split: _cut(part, 1) for split, part in features.items()}
    images = {split: part[:1] for split, part in subject.images.items()}
    subject = dataclasses.replace(subject, images=images)
    got = recovery.run(one, _context(subject, images=5, steps=2))
    assert 0 <= got.pop("recovery/area") <= 100
    assert set(got.values()) <= {0.0, 100.0}
    assert got["recovery/steps/2"] == 100


def test_of_large_test_splits_a_random_part_counts(digits, models, monkeypatch):
    features, subject = _measured(digits, models["oracle"])
    monkeypatch.setattr(recovery, "LARGEST", 10)
    got = recovery.run(features, _context(subject, steps=1))["recovery/retain_after"]
    assert got in {100 * i / 10 for i in range(11)}
    monkeypatch.setattr(recovery, "LARGEST", 200)
    part = recovery.run(features, _context(subject, steps=1))["recovery/retain_after"]
    monkeypatch.setattr(recovery, "LARGEST", 1000)
    whole = recovery.run(features, _context(subject, steps=1))["recovery/retain_after"]
    assert part == pytest.approx(whole, abs=5)


def test_training_that_diverges_ends_at_zero(digits, models):
    ruined = jax.tree.map(lambda leaf: leaf, models["original"])
    head = ruined["params"]["backbone"]["head"]
    ruined["params"]["backbone"]["head"] = {**head, "kernel": jnp.full_like(head["kernel"], 3e38)}
    features, subject = _measured(digits, ruined)
    got = recovery.run(features, _context(subject, steps=2))
    assert got.pop("recovery/head/forget_test") >= 90  # its features are whole
    assert got.pop("recovery/head/retain_test") >= 80
    assert got.pop("recovery/retain_after") == 0
    assert set(got.values()) == {0.0}
