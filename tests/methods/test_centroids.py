"""DUCK and SCAR: what they prepare, against float64 NumPy, and their losses."""

import numpy as np
import pytest
import tiny

from ec_jax.methods.scar import shrunk

KNOWN = [True, True, True, False, False]  # classes that have retain images


def transformed(features):
    t = np.sqrt(np.maximum(features, 0) + 1e-6)
    return t / np.linalg.norm(t, axis=1, keepdims=True)


def test_the_centroids_are_the_class_means_of_the_originals_features():
    given = tiny.context(retain_count=33)
    extras, part = tiny.method("duck").prepare(given), tiny.whole(given, "retain")
    features, _ = tiny.pooled(tiny.backbone(), part["image"])
    assert extras["known"].tolist() == KNOWN
    for k in range(3):
        mean = features[part["label"] == k].mean(axis=0)
        np.testing.assert_allclose(extras["centroids"][k], mean, rtol=1e-4, atol=1e-5)
    assert np.isfinite(extras["centroids"]).all()


@pytest.mark.parametrize("devices", [1, 2])
def test_ducks_loss(devices):
    outputs, batch = tiny.outputs_and_batch()
    batch["forget"]["label"] = np.int32([1, 3, 3, 1])
    draw = np.random.default_rng(3)
    centroids = np.float32(draw.random((tiny.CLASSES, 3)))
    extras = {"centroids": centroids, "known": np.array(KNOWN)}
    made = tiny.method("duck", lambda_forget=0.5)
    loss, _ = tiny.value(made, outputs, batch, devices, extras=extras)
    values = []
    features = tiny.features_of(outputs, "forget")
    for x, y in zip(features, batch["forget"]["label"], strict=True):
        cosines = centroids @ x / np.linalg.norm(x) / np.linalg.norm(centroids, axis=1)
        values.append(min(1 - cosines[k] for k in range(3) if k != y))
    logits, labels = tiny.logits_of(outputs, "retain"), batch["retain"]["label"]
    kept = tiny.cross_entropy(logits / 2.0, labels).mean()
    assert loss == pytest.approx(0.5 * np.mean(values) + 1.4 * kept, rel=1e-5)


def test_the_distributions_are_those_of_the_transformed_features():
    given = tiny.context(retain_count=600)  # more than one batch
    extras, part = tiny.method("scar").prepare(given), tiny.whole(given, "retain")
    features, _ = tiny.pooled(tiny.backbone(), part["image"])
    labels = part["label"]
    assert extras["known"].tolist() == KNOWN
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
    outputs, batch = tiny.outputs_and_batch()
    batch["forget"]["label"] = np.int32([1, 3, 3, 1])
    draw = np.random.default_rng(3)
    roots = draw.normal(size=(tiny.CLASSES, 3, 3))
    precisions = np.float32(roots @ roots.transpose(0, 2, 1) + np.eye(3))
    means = np.float32(draw.random((tiny.CLASSES, 3)))
    batch = tiny.teachers(batch)
    extras = {"means": means, "precisions": precisions, "known": np.array(KNOWN)}
    loss, _ = tiny.value(tiny.method("scar"), outputs, batch, devices, extras=extras)
    values = []
    features = transformed(tiny.features_of(outputs, "forget"))
    for x, y in zip(features, batch["forget"]["label"], strict=True):
        squares = [(x - means[k]) @ precisions[k] @ (x - means[k]) for k in range(3) if k != y]
        values.append(np.sqrt(min(squares)))
    kept = tiny.kl(batch["retain"]["teacher"], tiny.logits_of(outputs, "retain")).mean()
    assert loss == pytest.approx(np.mean(values) + 5 * kept, rel=1e-4)


def test_the_teacher_is_the_original_on_the_retain_batch():
    made, given = tiny.method("scar"), tiny.context(retain_count=8)
    part = tiny.whole(given, "retain")
    found = tiny.viewed(made, {"retain": part}, made.prepare(given))["retain"]["teacher"]
    np.testing.assert_allclose(found, tiny.pooled(tiny.backbone(), part["image"])[1], atol=1e-4)


@pytest.mark.parametrize("name", ["duck", "scar"])
@pytest.mark.parametrize("forget", [(3,), ()])
def test_they_train(name, forget):
    tiny.check_finite(tiny.updates(name, tiny.context(forget))[1])
