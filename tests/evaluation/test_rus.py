import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec_jax.evaluation import rus

POINTS = ("stage1", "stage2")
fraction = st.floats(0, 1)


def _values(reference, forget, retain, point="stage2"):
    return {
        f"cka_to_{reference}/forget_test/{point}": forget,
        f"cka_to_{reference}/retain_test/{point}": retain,
    }


def test_by_hand():
    values = _values("original", 0.25, 0.5) | _values("oracle", 0.2, 0.3)
    got = rus.derive(values, {}, POINTS)
    assert got == pytest.approx({"rus/to_original": 2 * 0.75 * 0.5 / 1.25, "rus/to_oracle": 0.24})
    assert all(type(v) is float for v in got.values())


def test_only_the_last_point_counts():
    values = _values("original", 0.25, 0.5)
    more = values | _values("original", 0.9, 0.9, "stage1")
    assert rus.derive(more, {}, POINTS) == rus.derive(values, {}, POINTS)
    assert rus.derive(values, {}, ("stage2", "stage1")) == {}


def test_the_models_with_known_scores():
    original = _values("original", 1.0, 1.0) | _values("oracle", 0.5, 1.0)
    assert rus.derive(original, {}, POINTS)["rus/to_original"] == 0.0
    oracle = _values("original", 0.5, 1.0) | _values("oracle", 1.0, 1.0)
    assert rus.derive(oracle, {}, POINTS)["rus/to_oracle"] == 1.0


def test_rounding_beyond_the_range_is_clipped():
    assert rus.derive(_values("oracle", 1.0000002, 1.0000002), {}, POINTS) == {"rus/to_oracle": 1.0}
    assert rus.derive(_values("oracle", -1e-9, -1e-9), {}, POINTS) == {"rus/to_oracle": 0.0}


@pytest.mark.parametrize("reference", ["original", "oracle"])
def test_keys_without_inputs_are_left_out(reference):
    values = _values("original", 0.2, 0.3) | _values("oracle", 0.2, 0.3)
    del values[f"cka_to_{reference}/retain_test/stage2"]
    other = {"original": "oracle", "oracle": "original"}[reference]
    assert list(rus.derive(values, {}, POINTS)) == [f"rus/to_{other}"]
    assert rus.derive({}, {}, POINTS) == {}


def test_nan_stays_nan():
    for pair in ((math.nan, 0.5), (0.5, math.nan), (math.nan, 0.0), (1.0, math.nan)):
        got = rus.derive(_values("original", *pair) | _values("oracle", *pair), {}, POINTS)
        assert all(map(math.isnan, got.values()))
        assert len(got) == 2


@given(fraction, fraction)
def test_harmonic_mean_lies_between_and_is_symmetric(a, b):
    got = rus.harmonic_mean(a, b)
    assert got == pytest.approx(rus.harmonic_mean(b, a), rel=1e-12, abs=1e-300)
    least, most = min(a, b), min(2 * min(a, b), max(a, b))
    # Subnormal numbers have no bound of their relative errors.
    assert least * (1 - 1e-12) - 1e-300 <= got <= most * (1 + 1e-12) + 1e-300


@given(fraction, fraction, fraction, fraction)
def test_scores_are_fractions_and_need_both_sides(a, b, c, d):
    got = rus.derive(_values("original", a, b) | _values("oracle", c, d), {}, POINTS)
    assert all(0 <= v <= 1 for v in got.values())
    assert got["rus/to_original"] <= 2 * min(1 - a, b) + 1e-12
    assert got["rus/to_oracle"] <= 2 * min(c, d) + 1e-12
