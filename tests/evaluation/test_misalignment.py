import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid

from ec_jax.evaluation import accuracy, misalignment, probe
from ec_jax.evaluation.features import Context
from ec_jax.evaluation.misalignment import nearest_mean_predict

ALONE = Context(None, {})


@settings(deadline=None, max_examples=25)
@given(
    shape=st.sampled_from([(1, 6, 2), (30, 40, 7), (200, 90, 3)]),
    offset=st.sampled_from([0.0, 1e6]),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_a_loop_and_scikit_learn(shape, offset, seed):
    q, b, d = shape
    generator = np.random.default_rng(seed)
    queries, bank = generator.normal(size=(q, d)) + offset, generator.normal(size=(b, d)) + offset
    labels = np.concatenate([[1, 3], generator.choice([0, 1, 3], size=b - 2)])  # 2, 4 are absent
    got = nearest_mean_predict(queries, bank, labels, 5)
    assert got.dtype == np.int32
    means = {c: bank[labels == c].mean(axis=0) for c in np.unique(labels)}
    loop = [min(means, key=lambda c: np.linalg.norm(x - means[c])) for x in queries]
    np.testing.assert_array_equal(got, loop)
    # Its distances are differences of squares: with an offset, near ties are decided by rounding.
    distances = np.sort([np.linalg.norm(queries - m, axis=1) for m in means.values()], axis=0)
    clear = distances[1] - distances[0] > (1e-2 if offset else 1e-9)
    peer = NearestCentroid().fit(bank, labels).predict(queries)
    np.testing.assert_array_equal(got[clear], peer[clear])


def test_ties_go_to_the_smallest_class():
    bank = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 5.0]])
    assert nearest_mean_predict(np.zeros((1, 2)), bank, np.array([2, 1, 0]), 3).tolist() == [1]


def test_no_queries_and_no_bank():
    assert nearest_mean_predict(np.zeros((0, 2)), np.ones((1, 2)), np.array([1]), 3).shape == (0,)
    with pytest.raises(ValueError, match="at least one"):
        nearest_mean_predict(np.zeros((1, 2)), np.zeros((0, 2)), np.zeros(0, np.int32), 3)


_FORGOTTEN = 2


def _split(labels, seed, gone=False):
    """Stage 2 holds the class, stage 1 does not, the logits do unless it is ``gone``."""
    generator = np.random.default_rng(seed)
    labels = np.asarray(labels, np.int32)
    logits = np.eye(4, dtype=np.float32)[labels]
    if gone:
        logits[:, _FORGOTTEN] = -1.0
    held = 5 * np.eye(4, 6)[labels] + 0.1 * generator.normal(size=(len(labels), 6))
    noise = generator.normal(size=(len(labels), 3))
    points = {"stage1": noise.astype(np.float32), "stage2": held.astype(np.float32)}
    return probe.Features(points, logits, labels)


def _splits(gone):
    kept = np.arange(90) % 3
    kept = np.where(kept == _FORGOTTEN, 3, kept)
    return {
        "forget_train": _split([_FORGOTTEN] * 30, 0, gone),
        "retain_train": _split(kept, 1, gone),
        "forget_test": _split([_FORGOTTEN] * 20, 2, gone),
        "retain_test": _split(kept[:40], 3, gone),
    }


def measured(splits):
    """The numbers that a suite of accuracy, probe and misalignment gives."""
    each = (m.run(splits, ALONE) for m in (accuracy, probe, misalignment))
    values = {k: v for found in each for k, v in found.items()}
    values |= misalignment.derive(values, {}, ("stage1", list(splits["forget_test"].points)[-1]))
    return {k: v for k, v in values.items() if k.startswith("misalignment/")}


def test_a_change_of_the_head_alone_shows():
    got = measured(_splits(gone=True))
    assert got == {
        "misalignment/nearest_mean_forget_test": 100.0,
        "misalignment/nearest_mean_retain_test": 100.0,
        "misalignment/head_to_mean": 100.0,
        "misalignment/head_to_probe": 100.0,
    }
    assert all(type(v) is float for v in got.values())


def test_a_head_that_says_what_the_features_hold():
    got = measured(_splits(gone=False))
    assert got["misalignment/head_to_mean"] == got["misalignment/head_to_probe"] == 0.0


def test_features_that_do_not_hold_the_class():
    splits = {}
    for name, part in _splits(gone=False).items():
        points = dict(reversed(part.points.items()))  # the last point is now noise
        splits[name] = dataclasses.replace(part, points=points)
    got = measured(splits)
    assert got["misalignment/head_to_mean"] < -30.0
    assert got["misalignment/head_to_probe"] < -30.0


def test_differences_are_left_out_where_an_input_was_not_measured():
    values = {"misalignment/nearest_mean_forget_test": 60.0, "probe/forget_test/stage1": 1.0}
    assert misalignment.derive(values, {}, ("stage1", "stage2")) == {}
    values |= {"accuracy/forget_test": 10.0, "probe/forget_test/stage2": 80.0}
    assert misalignment.derive(values, {}, ("stage1", "stage2")) == {
        "misalignment/head_to_mean": 50.0,
        "misalignment/head_to_probe": 70.0,
    }


def test_maps_are_averaged_over_space():
    splits = _splits(gone=True)
    expected = measured(splits)
    for part in splits.values():
        flat = part.points["stage2"][:, None, None]
        part.points["stage2"] = np.concatenate([flat + 9, flat - 9], axis=2)
    assert measured(splits) == pytest.approx(expected)


def test_a_class_without_training_examples_has_no_mean():
    splits = _splits(gone=False)
    del splits["forget_train"]
    got = measured(splits)
    assert got["misalignment/nearest_mean_forget_test"] == 0.0
    assert got["misalignment/head_to_mean"] == got["misalignment/head_to_probe"] == -100.0


@pytest.mark.parametrize("labels", [None, []])
def test_without_forget_test(labels):
    splits = _splits(gone=True)
    del splits["forget_test"]
    if labels is not None:
        splits["forget_test"] = _split(labels, 0)
    got = misalignment.run(splits, ALONE)
    assert got == {"misalignment/nearest_mean_retain_test": 100.0}


def test_without_training_or_test_examples():
    splits = _splits(gone=True)
    assert misalignment.run({"forget_test": splits["forget_test"]}, None) == {}
    assert misalignment.run({"forget_train": splits["forget_train"]}, None) == {}
    empty = {**splits, "forget_train": _split([], 0), "retain_train": _split([], 0)}
    assert misalignment.run(empty, None) == {}


def test_values_that_are_not_finite():
    splits = _splits(gone=True)
    splits["forget_test"].logits[0, 0] = np.nan
    got = measured(splits)
    assert got["misalignment/nearest_mean_forget_test"] == 100.0
    assert np.isnan(got["misalignment/head_to_mean"])
    assert np.isnan(got["misalignment/head_to_probe"])
    splits["retain_train"].points["stage2"][0, 0] = np.nan
    assert np.isnan(list(measured(splits).values())).all()
