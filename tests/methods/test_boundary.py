"""Boundary shrink and expand: the neighbour, the new label, and the output that goes."""

import jax
import numpy as np
import pytest
import tiny


@pytest.fixture(scope="module")
def shrink():
    made = tiny.method("boundary_shrink", epsilon=0.2)
    context, sets = tiny.context()
    return made, made.prepare(context), sets


def test_the_range_is_the_forget_sets_own(shrink):
    _, extras, sets = shrink
    pictures = sets["forget_train"][0]
    np.testing.assert_array_equal(extras["low"], pictures.min(axis=(0, 1, 2)))
    np.testing.assert_array_equal(extras["high"], pictures.max(axis=(0, 1, 2)))


@pytest.mark.parametrize("devices", [1, 2])
def test_the_target_is_the_other_class_at_the_neighbour(shrink, devices):
    made, extras, _ = shrink
    pictures = tiny.normalised(tiny.images(8, 4))
    labels = np.random.default_rng(0).integers(0, tiny.CLASSES, 8).astype(np.int32)
    batch = {"forget": {"image": pictures, "label": labels}}
    found = tiny.seen(made, batch, extras, devices)["forget"]
    np.testing.assert_array_equal(found["image"], pictures)  # what is trained on stays
    low, high = float(extras["low"][0]), float(extras["high"][0])

    @jax.jit
    def gradient(image, own):
        def loss(image):
            out = tiny.methods.forward(tiny.network(), tiny.backbone(), image[None])
            return -jax.nn.log_softmax(out.logits[tiny.LAST])[0, own]

        return jax.grad(loss)(image)

    for i, own in enumerate(labels):
        step = 0.2 * (high - low) * np.sign(gradient(pictures[i], own))
        logits = tiny.pooled(tiny.backbone(), np.clip(pictures[i] + step, low, high)[None])[1][0]
        best = next(c for c in np.argsort(-logits) if c != own)
        assert found["target"][i] == best
    assert found["target"].dtype == np.int32


@pytest.mark.parametrize("devices", [1, 2])
def test_shrink_is_the_cross_entropy_with_the_target(devices):
    outputs, batch = tiny.drawn_outputs(streams=("forget",))
    target = np.int32([0, 1, 1, 0])
    batch["forget"]["target"] = target
    loss, _ = tiny.value(tiny.method("boundary_shrink"), outputs, batch, devices=devices)
    expected = tiny.cross_entropy(outputs["forget"].logits[tiny.LAST], target)
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("devices", [1, 2])
def test_expand_is_the_cross_entropy_with_the_added_output(devices):
    outputs, batch = tiny.drawn_outputs(streams=("forget",))
    draw = np.random.default_rng(1)
    own = {"weight": np.float32(draw.normal(size=(3, 1))), "bias": np.float32([0.3])}
    made = tiny.method("boundary_expand")
    loss, _ = tiny.value(made, outputs, batch, params={"method": own}, devices=devices)
    out = outputs["forget"]
    added = out.embeddings[tiny.LAST].astype(np.float64) @ own["weight"] + 0.3
    logits = np.concatenate([out.logits[tiny.LAST], added], axis=1)
    assert loss == pytest.approx(tiny.cross_entropy(logits, [tiny.CLASSES] * 4), rel=1e-5)


def test_the_added_output_trains_and_the_backbone_keeps_its_shape():
    context, _ = tiny.context()
    made = tiny.method("boundary_expand")
    params, history = tiny.trained(made, "boundary_expand", context, steps=3)
    shapes = jax.tree.map(np.shape, params["backbone"])
    assert shapes == jax.tree.map(np.shape, tiny.backbone()["params"])
    start = made.parameters(context)
    assert (params["method"]["weight"] != start["weight"]).any()
    assert np.isfinite([h["loss"] for h in history]).all()


def test_shrink_trains():
    context, _ = tiny.context()
    _, history = tiny.trained(tiny.method("boundary_shrink"), "boundary_shrink", context)
    assert np.isfinite([h["loss"] for h in history]).all()
