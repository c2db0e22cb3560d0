import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec_jax.evaluation import variance
from ec_jax.evaluation.features import Context, Features


def _run(values):
    labels = np.zeros(len(values), np.int32)
    part = Features({"stage1": values}, np.zeros((len(values), 2), np.float32), labels)
    return variance.run({"forget_test": part}, Context(None, {}))


def _reference(values):
    columns = values.reshape(len(values), -1).astype(np.float64).T
    total = 0.0
    for column in columns:
        mean = sum(column) / len(column)
        total += sum((v - mean) ** 2 for v in column) / len(column)
    return total / len(columns)


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(1, 8),
    trailing=st.sampled_from([(1,), (5,), (2, 3, 4)]),
    offset=st.sampled_from([0.0, 1e3]),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_a_loop(n, trailing, offset, seed):
    values = np.random.default_rng(seed).normal(size=(n, *trailing)) + offset
    values = values.astype(np.float32)
    got = _run(values)["variance/forget_test/stage1"]
    assert type(got) is float
    assert got == pytest.approx(_reference(values), rel=1e-9, abs=1e-12)


def test_more_rows_than_are_held_at_a_time():
    values = np.random.default_rng(0).normal(size=(3000, 2)).astype(np.float32)
    want = values.astype(np.float64).var(axis=0).mean()
    assert _run(values)["variance/forget_test/stage1"] == pytest.approx(want)


def test_constant_features_have_none_and_nan_shows():
    assert _run(np.full((7, 3), 0.1, np.float32)) == {"variance/forget_test/stage1": 0.0}
    nan = np.full((2, 2), np.nan, np.float32)
    assert np.isnan(_run(nan)["variance/forget_test/stage1"])


def test_empty_split_is_left_out():
    assert _run(np.zeros((0, 3), np.float32)) == {}
