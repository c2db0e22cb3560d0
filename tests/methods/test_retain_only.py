"""Methods that read the retain set alone: fine-tuning, retraining, L1, collapse and align."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

RETAIN = ("retain",)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("name", ["finetune", "retrain"])
def test_the_loss_is_cross_entropy_on_the_retain_batch(name, devices):
    outputs, batch = tiny.outputs_and_batch(RETAIN)
    loss, metrics = tiny.value(tiny.method_of(name), outputs, batch, devices)
    expected = tiny.cross_entropy(tiny.logits_of(outputs, "retain"), batch["retain"]["label"])
    assert loss == pytest.approx(expected.mean(), rel=1e-5)
    assert metrics["retain"] == loss


@pytest.mark.parametrize("name", ["finetune", "retrain", "l1_sparse", "cola"])
def test_no_forget_image_is_read(name):
    assert tiny.method_of(name).streams == RETAIN


def test_retraining_takes_the_share_of_the_oracles_updates():
    assert tiny.method_of("retrain").fresh == 1
    assert tiny.method_of("retrain", share=0.25).fresh == 0.25
    assert tiny.method_of("finetune").fresh == 0


@pytest.mark.parametrize(("progress", "pressure"), [(0.0, 1.0), (0.75, 0.25)])
def test_the_l1_norm_loses_its_weight_with_the_steps(progress, pressure):
    outputs, batch = tiny.outputs_and_batch(RETAIN)
    params = {
        "backbone": {"a": jnp.array([[1.0, -2.0]]), "b": {"c": jnp.array([-0.5, 0.0])}},
        "modules": {"a": jnp.array([100.0])},  # dropped at the end: no weight of the model's
    }
    method = tiny.method_of("l1_sparse", alpha=0.3)
    loss, metrics = tiny.value(method, outputs, batch, params=params, progress=progress)
    retain = tiny.cross_entropy(tiny.logits_of(outputs, "retain"), batch["retain"]["label"]).mean()
    assert loss == pytest.approx(retain + 0.3 * pressure * 3.5, rel=1e-5)
    assert metrics["l1"] == pytest.approx(3.5)


def by_loops(features, labels, temperature):
    """SupCon's mean over the anchors with positives, in float64."""
    z = np.asarray(features, np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    values = []
    for i, label in enumerate(labels):
        rest = [a for a in range(len(z)) if a != i]
        total = sum(np.exp(z[i] @ z[a] / temperature) for a in rest)
        own = [np.exp(z[i] @ z[p] / temperature) / total for p in rest if labels[p] == label]
        if own:
            values.append(-np.mean(np.log(own)))
    return np.mean(values)


@pytest.mark.parametrize("devices", [1, 2])
def test_collapse_comes_first_and_align_follows(devices):
    outputs, batch = tiny.outputs_and_batch(RETAIN)
    labels = np.asarray(batch["retain"]["label"])
    method = tiny.method_of("cola", collapse_share=0.5, temperature=0.4)
    expected = by_loops(outputs["retain"].embeddings[tiny.LAST], labels, 0.4)
    before, _ = tiny.value(method, outputs, batch, devices, progress=0.49)
    assert before == pytest.approx(expected, rel=1e-5)
    after, _ = tiny.value(method, outputs, batch, devices, progress=0.5)
    retain = tiny.cross_entropy(tiny.logits_of(outputs, "retain"), labels).mean()
    assert after == pytest.approx(retain, rel=1e-5)


def test_a_batch_of_which_no_two_images_share_a_class_collapses_nothing():
    outputs, batch = tiny.outputs_and_batch(RETAIN)
    batch = {"retain": {"label": jnp.arange(8, dtype=jnp.int32)}}
    loss, _ = tiny.value(tiny.method_of("cola", collapse_share=1.0), outputs, batch)
    assert loss == 0


@pytest.mark.parametrize("name", ["finetune", "l1_sparse", "cola"])
def test_a_forget_batch_that_another_term_reads_changes_nothing(name):
    outputs, batch = tiny.outputs_and_batch()
    method, params = tiny.method_of(name), {"backbone": {"a": jnp.ones(2)}}
    with_it, _ = tiny.value(method, outputs, batch, params=params)
    alone = [{"retain": part["retain"]} for part in (outputs, batch)]
    assert tiny.value(method, *alone, params=params)[0] == with_it
