"""Methods that read the retain set alone: fine-tuning, retraining, L1, collapse and align."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ec_jax.errors import InputError
from ec_jax.training.plan import plan

RETAIN = ("retain",)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("name", ["finetune", "retrain"])
def test_the_loss_is_cross_entropy_on_the_retain_batch(name, devices):
    outputs, batch = tiny.outputs_and_batch(RETAIN)
    loss, metrics = tiny.value(tiny.method(name), outputs, batch, devices)
    expected = tiny.cross_entropies(outputs, batch)["retain"]
    assert loss == pytest.approx(expected.mean(), rel=1e-5)
    assert metrics["retain"] == loss


@pytest.mark.parametrize("name", ["finetune", "retrain", "l1_sparse", "cola"])
def test_no_forget_image_is_read(name):
    assert tiny.method(name).streams == RETAIN


def test_retraining_takes_the_share_of_the_oracles_updates():
    assert tiny.method("retrain").fresh == 1
    assert tiny.method("retrain", share=0.25).fresh == 0.25
    assert tiny.method("retrain", share=0.0).fresh == 0
    assert tiny.method("finetune").fresh is None
    assert tiny.method("retrain", images=640).images == 640
    assert tiny.method("retrain").images == 0


def test_a_draw_is_named_and_the_first_is_the_stages_own():
    splits = {f"{part}_train": np.arange(8) for part in ("retain", "forget")}

    def streams(**settings):
        c = tiny.config("retrain", **settings)
        made = plan("unlearn", c, splits, tiny.POINTS, tiny.method("retrain", **settings))
        return made.draw, made.initial

    assert streams() == ("unlearn", "unlearn")
    assert streams(draw=2) == ("unlearn/draw2", "unlearn/draw2")
    assert streams(initial="original") == ("unlearn", "original")
    assert streams(draw=2, initial="original") == ("unlearn/draw2", "original")


@pytest.mark.parametrize(
    ("field", "bad"),
    [("share", -0.1), ("share", 1.1), ("initial", "oracle"), ("draw", -1), ("draw", 0.5)],
)
def test_settings_of_retraining_that_cannot_be_are_refused(field, bad):
    with pytest.raises(InputError, match=rf"retrain\.{field}"):
        tiny.config("retrain", **{field: bad})


@pytest.mark.parametrize(("progress", "pressure"), [(0.0, 1.0), (0.75, 0.25)])
def test_the_l1_norm_loses_its_weight_with_the_steps(progress, pressure):
    outputs, batch = tiny.outputs_and_batch(RETAIN)
    params = {
        "backbone": {"a": jnp.array([[1.0, -2.0]]), "b": {"c": jnp.array([-0.5, 0.0])}},
        "modules": {"a": jnp.array([100.0])},  # dropped at the end: no weight of the model's
    }
    method = tiny.method("l1_sparse", alpha=0.3)
    loss, metrics = tiny.value(method, outputs, batch, params=params, progress=progress)
    retain = tiny.cross_entropies(outputs, batch)["retain"].mean()
    assert loss == pytest.approx(retain + 0.3 * pressure * 3.5, rel=1e-5)
    assert metrics["l1"] == pytest.approx(3.5)


@pytest.mark.parametrize("devices", [1, 2])
def test_collapse_comes_first_and_align_follows(devices):
    outputs, batch = tiny.outputs_and_batch(RETAIN)
    labels = np.asarray(batch["retain"]["label"])
    method = tiny.method("cola", collapse_share=0.5, temperature=0.4)
    features = tiny.features_of(outputs, "retain")
    expected = tiny.contrastive(features, labels, range(8), range(8), 0.4, same=True)
    before, _ = tiny.value(method, outputs, batch, devices, progress=0.49)
    assert before == pytest.approx(expected, rel=1e-5)
    after, _ = tiny.value(method, outputs, batch, devices, progress=0.5)
    retain = tiny.cross_entropies(outputs, batch)["retain"].mean()
    assert after == pytest.approx(retain, rel=1e-5)


def test_a_batch_of_which_no_two_images_share_a_class_collapses_nothing():
    outputs, batch = tiny.outputs_and_batch(RETAIN)
    batch = {"retain": {"label": jnp.arange(8, dtype=jnp.int32)}}
    loss, _ = tiny.value(tiny.method("cola", collapse_share=1.0), outputs, batch)
    assert loss == 0


@pytest.mark.parametrize("name", ["finetune", "l1_sparse", "cola"])
def test_a_forget_batch_that_another_term_reads_changes_nothing(name):
    outputs, batch = tiny.outputs_and_batch()
    method, params = tiny.method(name), {"backbone": {"a": jnp.ones(2)}}
    with_it, _ = tiny.value(method, outputs, batch, params=params)
    alone = [{"retain": part["retain"]} for part in (outputs, batch)]
    assert tiny.value(method, *alone, params=params)[0] == with_it
