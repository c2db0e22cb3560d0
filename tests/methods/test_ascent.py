"""Gradient ascent and one-point contraction: values, the ceiling, and what is read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(("weight", "ceiling"), [(1.0, 10.0), (0.5, 2.0), (2.0, 0.0)])
def test_the_forget_images_go_up_to_the_ceiling(weight, ceiling, devices):
    outputs, batch = tiny.outputs_and_batch(scale=4.0)
    method = tiny.method("gradient_ascent", retain_weight=weight, ceiling=ceiling)
    loss, metrics = tiny.value(method, outputs, batch, devices)
    expected = tiny.cross_entropies(outputs, batch)
    up = np.minimum(expected["forget"], ceiling or np.inf)
    if ceiling == 2:
        assert 0 < (expected["forget"] > ceiling).sum() < len(up)
    assert loss == pytest.approx(weight * expected["retain"].mean() - up.mean(), rel=1e-5)
    assert metrics["forget"] == pytest.approx(expected["forget"].mean(), rel=1e-5)


def test_plain_ascent_reads_no_retain_image():
    method = tiny.method("gradient_ascent", retain_weight=0.0, ceiling=0.0)
    assert method.streams == ("forget",)
    outputs, batch = tiny.outputs_and_batch(("forget",))
    loss, metrics = tiny.value(method, outputs, batch)
    assert loss == pytest.approx(-tiny.cross_entropies(outputs, batch)["forget"].mean(), rel=1e-5)
    assert set(metrics) == {"forget"}


def test_an_image_above_the_ceiling_pushes_no_further():
    outputs, batch = tiny.outputs_and_batch(("forget",), scale=4.0)
    method = tiny.method("gradient_ascent", retain_weight=0.0, ceiling=2.0)

    def loss(logits):
        changed = outputs["forget"].replace(logits={tiny.LAST: logits})
        return tiny.value_inside(method, {"forget": changed}, batch)

    above = tiny.cross_entropies(outputs, batch)["forget"] > 2
    for scale in (1.0, 1e4, 2e37):
        logits = scale * outputs["forget"].logits[tiny.LAST]
        gradient = np.asarray(jax.grad(loss)(logits))
        assert np.isfinite(gradient).all()
        assert (gradient[above] == 0).all()
    assert np.abs(np.asarray(jax.grad(loss)(outputs["forget"].logits[tiny.LAST])))[~above].all()


@pytest.mark.parametrize("devices", [1, 2])
def test_one_point_contraction_presses_the_logits_to_the_origin(devices):
    outputs, batch = tiny.outputs_and_batch()
    loss, metrics = tiny.value(tiny.method("opc", weight=0.3), outputs, batch, devices)
    square = np.mean([sum(float(v) ** 2 for v in row) for row in tiny.logits_of(outputs, "forget")])
    assert metrics["square"] == pytest.approx(square, rel=1e-5)
    assert loss == pytest.approx(
        tiny.cross_entropies(outputs, batch)["retain"].mean() + 0.3 * square, rel=1e-5
    )


def test_forget_images_at_the_origin_pass_no_gradient():
    outputs, batch = tiny.outputs_and_batch()
    method = tiny.method("opc")

    def loss(logits):
        changed = {**outputs, "forget": outputs["forget"].replace(logits={tiny.LAST: logits})}
        return tiny.value_inside(method, changed, batch)

    gradient = jax.grad(loss)(jnp.zeros((4, tiny.CLASSES)))
    assert (np.asarray(gradient) == 0).all()
