"""DUCK and SCAR: what they prepare, against float64 NumPy, and their losses."""

import numpy as np
import pytest
import tiny

from ec_jax.methods.scar import shrunk


def transformed(features):
    t = np.sqrt(np.maximum(features, 0) + 1e-6)
    return t / np.linalg.norm(t, axis=1, keepdims=True)


def test_the_centroids_are_the_class_means_of_the_originals_features():
    context, sets = tiny.context(retain_count=33)
    extras = tiny.method("duck").prepare(context)
    features, _ = tiny.pooled(tiny.backbone(), sets["retain_train"][0])
    assert extras["known"].tolist() == [True, True, True, False]
    for k in range(3):
        mean = features[sets["retain_train"][1] == k].mean(axis=0)
        np.testing.assert_allclose(extras["centroids"][k], mean, rtol=1e-4, atol=1e-5)
    assert np.isfinite(extras["centroids"]).all()


@pytest.mark.parametrize("devices", [1, 2])
def test_ducks_loss(devices):
    outputs, batch = tiny.drawn_outputs(forget=(1, 3))
    draw = np.random.default_rng(3)
    centroids = np.float32(draw.random((tiny.CLASSES, 3)))
    extras = {"centroids": centroids, "known": np.array([True, True, True, False])}
    made = tiny.method("duck", lambda_forget=0.5)
    loss, _ = tiny.value(made, outputs, batch, extras, devices=devices)
    values = []
    for x, y in zip(
        outputs["forget"].embeddings[tiny.LAST].astype(np.float64),
        batch["forget"]["label"],
        strict=True,
    ):
        cosines = centroids @ x / np.linalg.norm(x) / np.linalg.norm(centroids, axis=1)
        values.append(min(1 - cosines[k] for k in range(3) if k != y))
    kept = tiny.cross_entropy(outputs["retain"].logits[tiny.LAST] / 2.0, batch["retain"]["label"])
    assert loss == pytest.approx(0.5 * np.mean(values) + 1.4 * kept, rel=1e-5)


def test_the_distributions_are_those_of_the_transformed_features():
    context, sets = tiny.context(retain_count=600)  # more than one batch
    extras = tiny.method("scar").prepare(context)
    features, _ = tiny.pooled(tiny.backbone(), sets["retain_train"][0])
    labels = sets["retain_train"][1]
    assert extras["known"].tolist() == [True, True, True, False]
    for k in range(3):
        t = transformed(features)[labels == k]
        np.testing.assert_allclose(extras["means"][k], t.mean(axis=0), atol=1e-5)
        covariance = np.cov(t.T, bias=True)
        size = len(covariance)
        off = covariance[~np.eye(size, dtype=bool)]
        wanted = covariance + 3 * np.where(
            np.eye(size, dtype=bool), np.diag(covariance).mean(), off.mean()
        )
        wanted += 1e-8 * np.eye(size)
        wanted /= np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
        product = np.float64(extras["precisions"][k]) @ wanted
        np.testing.assert_allclose(product, np.eye(size), atol=1e-2)
    assert np.isfinite(extras["precisions"]).all()


def test_a_class_of_one_image_or_none_has_an_invertible_covariance():
    np.testing.assert_allclose(shrunk(np.zeros((3, 3)), 3.0), np.eye(3))
    rank_one = np.outer([1.0, -2.0, 1.0], [1.0, -2.0, 1.0])
    assert np.linalg.eigvalsh(shrunk(rank_one, 3.0)).min() > 0
    np.testing.assert_allclose(np.diag(shrunk(rank_one, 3.0)), 1)


@pytest.mark.parametrize("devices", [1, 2])
def test_scars_loss(devices):
    outputs, batch = tiny.drawn_outputs(forget=(1, 3))
    draw = np.random.default_rng(3)
    roots = draw.normal(size=(tiny.CLASSES, 3, 3))
    precisions = np.float32(roots @ roots.transpose(0, 2, 1) + np.eye(3))
    means = np.float32(draw.random((tiny.CLASSES, 3)))
    known = np.array([True, True, True, False])
    teacher = np.float32(draw.normal(size=(8, tiny.CLASSES)))
    batch["retain"]["teacher"] = teacher
    extras = {"means": means, "precisions": precisions, "known": known}
    loss, _ = tiny.value(tiny.method("scar"), outputs, batch, extras, devices=devices)
    values = []
    for x, y in zip(
        transformed(outputs["forget"].embeddings[tiny.LAST].astype(np.float64)),
        batch["forget"]["label"],
        strict=True,
    ):
        squares = [(x - means[k]) @ precisions[k] @ (x - means[k]) for k in range(3) if k != y]
        values.append(np.sqrt(min(squares)))
    log_p = tiny.log_softmax(teacher)
    log_q = tiny.log_softmax(outputs["retain"].logits[tiny.LAST])
    kept = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()
    assert loss == pytest.approx(np.mean(values) + 5 * kept, rel=1e-4)


def test_the_teacher_is_the_original_on_the_retain_batch():
    made, (context, sets) = tiny.method("scar"), tiny.context(retain_count=8)
    pictures, labels = sets["retain_train"]
    batch = {"retain": {"image": pictures, "label": labels}}
    found = tiny.seen(made, batch, made.prepare(context))["retain"]
    np.testing.assert_allclose(
        found["teacher"], tiny.pooled(tiny.backbone(), pictures)[1], atol=1e-4
    )


@pytest.mark.parametrize("name", ["duck", "scar"])
@pytest.mark.parametrize("forget", [(3,), ()])
def test_they_train(name, forget):
    _, history = tiny.trained(tiny.method(name), name, tiny.context(forget)[0])
    assert np.isfinite([h["loss"] for h in history]).all()
    assert np.isfinite([h["grad_norm"] for h in history]).all()
