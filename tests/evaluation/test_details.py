"""What a report shows beside the numbers."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from ec_jax.evaluation import details as module
from ec_jax.evaluation.cka import linear_cka
from ec_jax.evaluation.details import details
from ec_jax.evaluation.features import Features

NAMES = ("cat", "dog", "emu")


def model(seed, forget=12, retain=30):
    """Features of width 6 and 4; logits by which class 2 is taken for class 0."""
    draw = np.random.default_rng(seed)
    splits = {}
    for split, count in (("forget_test", forget), ("retain_test", retain)):
        labels = np.full(count, 2) if split.startswith("forget") else np.arange(count) % 2
        points = {
            p: draw.normal(size=(count, d)).astype(np.float32) for p, d in (("s1", 6), ("s2", 4))
        }
        logits = np.eye(3, dtype=np.float32)[labels % 2]
        splits[split] = Features(points, logits, labels)
    return splits


@pytest.fixture(scope="module")
def features():
    return {"original": model(0), "oracle": model(1), "unlearned": model(2)}


def test_matrices_are_cka_of_all_pairs_of_stages(features):
    found = details(features, NAMES)["cka_matrix"]
    assert found.keys() == {"forget_test", "retain_test"}
    for split, pairs in found.items():
        assert pairs.keys() == {"unlearned/original", "unlearned/oracle", "oracle/original"}
        for pair, matrix in pairs.items():
            a, b = (features[name][split].points for name in pair.split("/"))
            want = [[float(linear_cka(x, y)) for y in b.values()] for x in a.values()]
            np.testing.assert_allclose(matrix, want, atol=1e-5)


def test_predictions_are_counted_by_class(features):
    found = details(features, NAMES)["predicted_as"]
    assert found["forget_test"] == {m: [12, 0, 0] for m in features}
    assert found["retain_test"] == {m: [15, 15, 0] for m in features}


def test_the_embedding_shows_the_same_images_of_all_models(features):
    found = details(features, NAMES)["embedding"]
    assert found["point"] == "s2"
    assert len(found["label"]) == 42
    assert found["forget"] == [label == 2 for label in found["label"]]
    assert {name: np.shape(xy) for name, xy in found["models"].items()} == dict.fromkeys(
        features, (42, 2)
    )


def test_pca_is_the_two_directions_of_most_variance():
    draw = np.random.default_rng(0)
    values = draw.normal(size=(50, 5)) * [9, 4, 1, 0.5, 0.1] + 3
    centred = values - values.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    got = module._pca(values)
    np.testing.assert_allclose(np.abs(got), np.abs(centred @ axes[:2].T), atol=1e-9)
    assert not module._pca(np.ones((5, 3))).any()
    assert module._pca(np.arange(5.0)[:, None]).shape == (5, 2)


@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is an extra")
def test_umap_is_taken_where_it_is_installed(features):
    assert details(features, NAMES)["embedding"]["method"] == "UMAP"


def test_at_most_so_many_images_are_shown_and_compared():
    big = {"original": model(0, 500, 900), "unlearned": model(1, 500, 900)}
    found = details(big, NAMES)
    assert sum(found["embedding"]["forget"]) == module.EMBEDDED[0]
    assert len(found["embedding"]["forget"]) == sum(module.EMBEDDED)


def test_no_oracle_an_empty_split_and_a_broken_model():
    models = {"original": model(0, forget=0), "unlearned": model(1, forget=0)}
    found = details(models, NAMES)
    assert found["cka_matrix"].keys() == found["predicted_as"].keys() == {"retain_test"}
    assert found["cka_matrix"]["retain_test"].keys() == {"unlearned/original"}
    models["unlearned"]["retain_test"].points["s1"][0, 0] = np.nan
    found = details(models, NAMES)
    assert found["predicted_as"]["retain_test"].keys() == {"original"}
    assert found["embedding"]["models"].keys() == {"original"}
    assert "NaN" not in json.dumps(found)
    one = {"original": model(0, forget=1, retain=1)}
    assert details(one, NAMES)["embedding"] == {}


def test_the_environment_names_versions_and_devices():
    found = module.environment()
    assert found["packages"]["jax"] == jax.__version__
    assert found["devices"] == f"{len(jax.devices())} x cpu"
