import types

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from ec_jax import parallel
from ec_jax.evaluation import knn
from ec_jax.evaluation.features import Context, Features
from ec_jax.evaluation.knn import knn_predict


def _reference(queries, bank, labels, k, num_classes):
    out = []
    for query in queries.astype(np.float64):
        cosines = []
        for row in bank.astype(np.float64):
            lengths = np.sqrt((query**2).sum() * (row**2).sum())
            cosines.append(query @ row / lengths if lengths else 0.0)
        votes = [0] * num_classes
        for index in sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]:
            votes[labels[index]] += 1
        out.append(votes.index(max(votes)))
    return np.array(out, np.int32)


@settings(deadline=None, max_examples=25)
@given(
    shape=st.sampled_from([(1, 1, 2), (5, 9, 3), (30, 40, 7)]),
    k=st.sampled_from([1, 5]),
    num_classes=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_a_loop_and_scikit_learn(shape, k, num_classes, seed):
    generator = np.random.default_rng(seed)
    q, b, d = shape
    k = min(k, b)
    queries = generator.normal(size=(q, d)).astype(np.float32)
    bank = generator.normal(size=(b, d)).astype(np.float32)
    labels = generator.integers(num_classes, size=b)
    got = knn_predict(queries, bank, labels, k, num_classes)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, _reference(queries, bank, labels, k, num_classes))
    peer = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(bank, labels)
    np.testing.assert_array_equal(got, peer.predict(queries))


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 600])
def test_any_number_of_queries(count):
    generator = np.random.default_rng(count)
    bank = generator.normal(size=(50, 4)).astype(np.float32)
    labels = generator.integers(3, size=50)
    queries = generator.normal(size=(count, 4)).astype(np.float32)
    got = knn_predict(queries, bank, labels, 5, 3)
    assert got.shape == (count,)
    assert got.dtype == np.int32
    if count:
        peer = KNeighborsClassifier(5, metric="cosine", algorithm="brute").fit(bank, labels)
        np.testing.assert_array_equal(got, peer.predict(queries))


def test_ties_of_votes_go_to_the_smallest_label():
    bank = np.eye(4, dtype=np.float32)
    got = knn_predict(np.ones((1, 4), np.float32), bank, np.array([3, 2, 3, 2]), 4, 5)
    assert got.tolist() == [2]


def test_ties_of_nearness_go_to_the_first():
    bank = np.ones((4, 2), np.float32)
    assert knn_predict(bank[:1], bank, np.array([3, 1, 0, 0]), 1, 4).tolist() == [3]


def test_lengths_do_not_matter_and_zero_vectors_are_allowed():
    bank = np.array([[1e-5, 0], [0, 1e5], [0, 0]], np.float32)
    queries = np.array([[1e6, 1], [0, 1e-6], [0, 0], [-1, -1]], np.float32)
    assert knn_predict(queries, bank, np.array([0, 1, 2]), 1, 3).tolist() == [0, 1, 0, 2]


def test_bfloat16_features():
    bank = jnp.asarray(np.eye(3), jnp.bfloat16)
    got = knn_predict(np.asarray(bank), np.asarray(bank), np.arange(3), 1, 3)
    assert got.tolist() == [0, 1, 2]


@pytest.mark.parametrize("k", [0, 4, -1])
def test_impossible_numbers_of_neighbours_are_refused(k):
    with pytest.raises(ValueError, match=f"k = {k}"):
        knn_predict(np.eye(3), np.eye(3), np.arange(3), k, 3)


def _context(neighbors):
    evaluation = types.SimpleNamespace(neighbors=neighbors)
    return Context(types.SimpleNamespace(evaluation=evaluation), {})


def _split(values, labels):
    values = np.asarray(values, np.float32)
    # Logits that always tell, so that what is taken of features shows.
    return Features({"map": values}, np.eye(3, dtype=np.float32)[labels], np.asarray(labels))


def _splits():
    axes = np.eye(3, dtype=np.float32)
    return {
        "forget_train": _split(axes[[2]], [2]),
        "retain_train": _split(axes[[0, 1]], [0, 1]),
        "forget_test": _split(axes[[2, 2, 0, 2]], [2, 2, 2, 2]),
        "retain_test": _split(axes[[0, 1]], [0, 1]),
    }


def test_run_scores_the_test_splits_against_both_training_splits():
    got = knn.run(_splits(), _context(1))
    assert got == {
        "knn/forget_test/map": 75.0,
        "knn/forget_test/logits": 100.0,
        "knn/retain_test/map": 100.0,
        "knn/retain_test/logits": 100.0,
    }
    assert all(type(v) is float for v in got.values())


def test_run_averages_maps_over_space():
    splits = {}
    for name, part in _splits().items():
        n = len(part.labels)
        # Only the spatial mean says what the class is.
        maps = np.stack([np.full((n, 2, 3), 7.0), np.full((n, 2, 3), -7.0)], axis=1)
        maps = maps + 2 * part.points["map"][:, None, None]
        splits[name] = _split(maps, part.labels)
    assert knn.run(splits, _context(1)) == knn.run(_splits(), _context(1))


def test_classes_forgotten_before_are_in_the_bank_and_asked_for():
    splits = _splits()
    splits["earlier_train"] = splits.pop("forget_train")
    splits["earlier_test"] = splits.pop("forget_test")
    got = knn.run(splits, _context(1))
    assert got["knn/earlier_test/map"] == 75.0
    assert got["knn/retain_test/map"] == 100.0
    del splits["earlier_train"]
    assert knn.run(splits, _context(1))["knn/earlier_test/map"] == 0.0


def test_run_without_some_splits():
    splits = _splits()
    del splits["forget_test"]
    expected = {"knn/retain_test/map": 100.0, "knn/retain_test/logits": 100.0}
    assert knn.run(splits, _context(1)) == expected
    splits["forget_test"] = _split(np.zeros((0, 3)), np.zeros(0, np.int32))
    assert knn.run(splits, _context(1)) == expected
    assert knn.run({"retain_test": splits["retain_test"]}, _context(1)) == {}


def test_features_of_nan_have_no_neighbours():
    splits = _splits()
    splits["forget_test"].points["map"][0, 0] = np.nan
    got = knn.run(splits, _context(1))
    assert np.isnan(got["knn/forget_test/map"])
    assert got["knn/retain_test/map"] == 100.0


@settings(deadline=None, max_examples=15)
@given(
    devices=st.sampled_from([2, 3, 8]),
    count=st.sampled_from([3, 7, 40]),
    k=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_a_bank_on_several_devices_gives_the_same(devices, count, k, seed):
    generator = np.random.default_rng(seed)
    # Few directions: many bank vectors are equally near, and their order decides.
    bank = generator.integers(-1, 2, size=(count, 2)).astype(np.float32)
    queries, labels = generator.normal(size=(5, 2)), generator.integers(0, 4, size=count)
    want = knn_predict(queries, bank, labels, k, 4)
    got = knn_predict(queries, bank, labels, k, 4, parallel.make_mesh(devices))
    np.testing.assert_array_equal(got, want)
