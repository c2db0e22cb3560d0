"""Boundary shrink and expand: the neighbour, the new label, and the output that goes."""

import jax
import numpy as np
import pytest
import tiny


@pytest.fixture(scope="module")
def shrink():
    made, given = tiny.method("boundary_shrink", epsilon=0.2), tiny.context()
    return made, made.prepare(given), given


def test_the_range_is_the_forget_sets_own(shrink):
    _, extras, given = shrink
    pictures = tiny.whole(given, "forget")["image"]
    np.testing.assert_array_equal(extras["low"], pictures.min(axis=(0, 1, 2)))
    np.testing.assert_array_equal(extras["high"], pictures.max(axis=(0, 1, 2)))


@pytest.mark.parametrize("devices", [1, 2])
def test_the_target_is_the_class_that_stays_at_the_neighbour(shrink, devices):
    made, extras, _ = shrink
    part = tiny.normalized(tiny.images(8, range(tiny.CLASSES), seed=4))
    pictures, labels = part["image"], part["label"]
    found = tiny.viewed(made, {"forget": part}, extras, devices)["forget"]
    np.testing.assert_array_equal(found["image"], pictures)  # what is trained on stays
    low, high = float(extras["low"][0]), float(extras["high"][0])

    @jax.jit
    def gradient(image, own):
        def loss(image):
            return -tiny.log_likelihood(tiny.backbone(), image[None], own[None])[0]

        return jax.grad(loss)(image)

    for i, own in enumerate(labels):
        step = 0.2 * (high - low) * np.sign(gradient(pictures[i], own))
        logits = tiny.pooled(tiny.backbone(), np.clip(pictures[i] + step, low, high)[None])[1][0]
        best = next(c for c in np.argsort(-logits) if c not in tiny.FORGET)
        assert found["target"][i] == best
    assert found["target"].dtype == np.int32


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_shrink_is_the_cross_entropy_with_the_target(devices, weight):
    made = tiny.method("boundary_shrink", retain_weight=weight)
    assert made.streams == (("retain", "forget") if weight else ("forget",))
    outputs, batch = tiny.outputs_and_batch(made.streams)
    target = np.int32([0, 1, 1, 0])
    batch["forget"]["target"] = target
    loss, metrics = tiny.value(made, outputs, batch, devices)
    expected = tiny.cross_entropy(tiny.logits_of(outputs, "forget"), target).mean()
    if weight:
        retain = tiny.cross_entropies(outputs, batch)["retain"].mean()
        assert metrics["retain"] == pytest.approx(retain, rel=1e-5)
        expected += weight * retain
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_expand_is_the_cross_entropy_with_the_added_output(devices, weight):
    made = tiny.method("boundary_expand", retain_weight=weight)
    outputs, batch = tiny.outputs_and_batch(made.streams)
    draw = np.random.default_rng(1)
    own = {"weight": np.float32(draw.normal(size=(3, 1))), "bias": np.float32([0.3])}
    loss, _ = tiny.value(made, outputs, batch, devices, params={"method": own})

    def widened(stream, labels):
        added = tiny.features_of(outputs, stream) @ own["weight"] + 0.3
        logits = np.concatenate([tiny.logits_of(outputs, stream), added], axis=1)
        return tiny.cross_entropy(logits, labels).mean()

    expected = widened("forget", [tiny.CLASSES] * 4)
    if weight:
        expected += weight * widened("retain", batch["retain"]["label"])
    assert loss == pytest.approx(expected, rel=1e-5)


def test_the_added_output_trains_and_the_backbone_keeps_its_shape():
    state, history = tiny.updates("boundary_expand", steps=3)
    shapes = jax.tree.map(np.shape, state.params["backbone"])
    assert shapes == jax.tree.map(np.shape, tiny.backbone()["params"])
    start = tiny.method("boundary_expand").parameters(tiny.context())
    assert (state.params["method"]["weight"] != start["weight"]).any()
    tiny.check_finite(history)


def test_shrink_trains():
    tiny.check_finite(tiny.updates("boundary_shrink")[1])
