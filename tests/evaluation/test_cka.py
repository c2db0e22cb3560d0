import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec_jax import rng
from ec_jax.evaluation import cka
from ec_jax.evaluation.cka import linear_cka
from ec_jax.evaluation.features import Context, Features

SHAPES = [((4,), (3,)), ((5, 2), (6,)), ((3, 2, 2), (3, 2, 2)), ((1,), (40,))]
_biased = jax.jit(linear_cka)
_unbiased = jax.jit(lambda x, y: linear_cka(x, y, unbiased=True))


def _kernel(x):
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    return np.array([[sum(p * q for p, q in zip(a, b, strict=True)) for b in x] for a in x])


def _hsic0(k, m):
    n = len(k)
    centre = np.eye(n) - np.ones((n, n)) / n
    return np.trace(centre @ k @ centre @ centre @ m @ centre)


def _hsic1(k, m):
    """Equation 3 of Nguyen et al. 2021, term by term."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    terms = (
        np.trace(k @ m)
        + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ k @ m @ one)
    )
    return terms / (n * (n - 3))


def _reference(x, y, hsic):
    k, m = _kernel(x), _kernel(y)
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def _pair(seed, n, x_shape, y_shape, offset=0.0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, *x_shape)).astype(np.float32) + np.float32(offset)
    y = generator.normal(size=(n, *y_shape)).astype(np.float32)
    y = y + x.reshape(n, -1)[:, :1].reshape(n, *[1] * len(y_shape))
    return x, y.astype(np.float32)


@settings(deadline=None, max_examples=25)
@given(
    n=st.sampled_from([5, 12]),
    shapes=st.sampled_from(SHAPES),
    offset=st.sampled_from([0.0, 5.0]),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_a_loop(n, shapes, offset, seed):
    x, y = _pair(seed, n, *shapes, offset)
    got = _biased(x, y)
    assert got.dtype == jnp.float32
    assert got.shape == ()
    assert float(got) == pytest.approx(_reference(x, y, _hsic0), abs=1e-5)
    assert float(_unbiased(x, y)) == pytest.approx(_reference(x, y, _hsic1), abs=1e-5, rel=1e-5)


@settings(deadline=None, max_examples=15)
@given(unbiased=st.booleans(), seed=st.integers(0, 2**31))
def test_invariances(unbiased, seed):
    f = _unbiased if unbiased else _biased
    x, y = _pair(seed, 12, (4,), (6,))
    want = float(f(x, y))
    generator = np.random.default_rng(seed)
    rotation = np.linalg.qr(generator.normal(size=(4, 4)))[0].astype(np.float32)
    order = generator.permutation(12)
    same = [
        f(x @ rotation, y),
        f(x * np.float32(-1e12), y * np.float32(1e-12)),
        f(x[order], y[order]),
        f(x + np.float32(3), y),
    ]
    np.testing.assert_allclose(same, want, atol=2e-5)
    assert float(f(y, x)) == pytest.approx(want, abs=1e-6)
    assert float(f(x, x)) == pytest.approx(1, abs=1e-6)


def test_both_sides_of_the_biased_form_are_equal():
    # 30 rows of 4 and 5 features take feature space; with columns of zeros, sample space.
    x, y = _pair(0, 30, (4,), (5,))
    assert _dots(x, y) == {(4, 4), (4, 5), (5, 5)}
    wide = np.pad(x, ((0, 0), (0, 200))), np.pad(y, ((0, 0), (0, 200)))
    assert _dots(*wide) == {(30, 30)}
    assert float(_biased(x, y)) == pytest.approx(float(_biased(*wide)), abs=1e-6)


def _dots(x, y):
    """Shapes of the matrices that the biased form multiplies out."""
    equations = jax.make_jaxpr(linear_cka)(x, y).jaxpr.eqns
    shapes = set()
    for equation in equations:
        inner = equation.params.get("jaxpr")
        for e in inner.jaxpr.eqns if inner is not None else [equation]:
            if e.primitive.name == "dot_general" and e.outvars[0].aval.ndim == 2:
                shapes.add(e.outvars[0].aval.shape)
    return shapes


@pytest.mark.parametrize("value", [0.0, 0.1, -1e3, 1e30])
@pytest.mark.parametrize("unbiased", [False, True])
def test_constant_features_have_similarity_zero(value, unbiased):
    varied = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    constant = np.full((7, 5), value, np.float32)
    for x, y in [(constant, varied), (varied, constant), (constant, constant)]:
        assert float((_unbiased if unbiased else _biased)(x, y)) == 0.0


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_rows(n):
    x = np.random.default_rng(1).normal(size=(n, 2)).astype(np.float32)
    got = float(_biased(x, x))
    assert got == (0.0 if n < 2 else pytest.approx(1.0))
    with pytest.raises(ValueError, match="at least 4"):
        linear_cka(x, x, unbiased=True)


def test_four_rows_are_enough():
    x, y = _pair(2, 4, (3,), (5,))
    assert float(_unbiased(x, y)) == pytest.approx(_reference(x, y, _hsic1), abs=1e-5)


def test_features_without_columns():
    x = np.zeros((5, 0), np.float32)
    assert float(linear_cka(x, np.eye(5, dtype=np.float32))) == 0.0


def test_different_numbers_of_rows_are_refused():
    with pytest.raises(ValueError, match="x has 4 rows, y has 5"):
        linear_cka(np.ones((4, 2)), np.ones((5, 2)))


def test_nan_is_not_hidden():
    x, y = _pair(3, 6, (2,), (2,))
    x[0, 0] = np.nan
    assert np.isnan(_biased(x, y))
    assert np.isnan(_unbiased(y, x))


def test_bfloat16_is_computed_in_float32():
    x, y = _pair(4, 12, (5, 2), (6,))
    x = jnp.asarray(x, jnp.bfloat16)
    got = _biased(x, y)
    assert got.dtype == jnp.float32
    assert float(got) == pytest.approx(_reference(x.astype(jnp.float32), y, _hsic0), abs=1e-5)


# The minibatch estimator.


def _stages(seed, n):
    generator = np.random.default_rng(seed)
    base = generator.normal(size=(n, 6)).astype(np.float32)
    xs = (base, base[:, :3] + 1, generator.normal(size=(n, 2, 2, 3)).astype(np.float32))
    ys = (base[:, 2:] * 2, generator.normal(size=(n, 4)).astype(np.float32) + base[:, :4])
    return xs, ys


def _streaming_reference(batches):
    """Means weighted by rows, then the division; batches of [(xs, ys)]."""
    rows = sum(len(xs[0]) for xs, _ in batches)
    num_x, num_y = len(batches[0][0]), len(batches[0][1])
    out = np.zeros((num_x, num_y))
    for i in range(num_x):
        for j in range(num_y):
            means = np.zeros(3)
            for xs, ys in batches:
                k, m, n = _kernel(xs[i]), _kernel(ys[j]), len(xs[0])
                values = [_hsic1(k, m), _hsic1(k, k), _hsic1(m, m)]
                means += n * np.array(values) / rows
            out[i, j] = means[0] / np.sqrt(means[1] * means[2])
    return out


def _stream(batches, masks=None):
    state = cka.init(len(batches[0][0]), len(batches[0][1]))
    for i, (xs, ys) in enumerate(batches):
        state = cka.update(state, xs, ys, None if masks is None else masks[i])
    return state


@pytest.mark.parametrize("sizes", [(12,), (12, 12, 12), (12, 5, 4)])
def test_streaming_agrees_with_a_loop(sizes):
    batches = [_stages(i, n) for i, n in enumerate(sizes)]
    got = cka.result(_stream(batches))
    assert got.shape == (3, 2)
    np.testing.assert_allclose(got, _streaming_reference(batches), atol=1e-5)


def test_one_batch_is_the_unbiased_estimate():
    xs, ys = _stages(0, 12)
    got = cka.result(_stream([(xs, ys)]))
    want = [[_unbiased(x, y) for y in ys] for x in xs]
    np.testing.assert_allclose(got, want, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(
    valid=st.lists(st.booleans(), min_size=12, max_size=12),
    filler=st.sampled_from([0.0, 1e6, np.nan, np.inf]),
    seed=st.integers(0, 2**31),
)
def test_masked_rows_are_as_if_they_were_not_there(valid, filler, seed):
    valid = np.array(valid)
    whole, part = _stages(seed, 12), _stages(seed + 1, 12)
    kept = tuple(tuple(a[valid] for a in group) for group in part)
    filled = tuple(
        tuple(np.where(valid.reshape(12, *[1] * (a.ndim - 1)), a, np.float32(filler)) for a in g)
        for g in part
    )
    got = cka.result(_stream([whole, filled], [np.ones(12, bool), valid]))
    batches = [whole, kept] if valid.sum() >= 4 else [whole]
    np.testing.assert_allclose(got, _streaming_reference(batches), atol=1e-5)


@pytest.mark.parametrize("n", [4, 7, 11])
def test_padded_and_unpadded_states_are_equal(n):
    xs, ys = _stages(5, n)
    padded = [
        tuple(np.pad(a, [(0, 12 - n)] + [(0, 0)] * (a.ndim - 1)) for a in g) for g in (xs, ys)
    ]
    got = cka.update(cka.init(3, 2), *padded, np.arange(12) < n)
    want = cka.update(cka.init(3, 2), xs, ys)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_batches_of_under_four_rows_contribute_nothing(n):
    state = _stream([_stages(0, n)])
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(state))
    assert (np.asarray(cka.result(state)) == 0).all()
    masked = cka.update(cka.init(3, 2), *_stages(0, 12), np.arange(12) < n)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(masked))


def test_streaming_constant_features_and_nan():
    xs, ys = _stages(0, 12)
    xs = (np.full((12, 3), 0.1, np.float32), xs[1], xs[2] * np.float32(np.nan))
    got = np.asarray(cka.result(_stream([(xs, ys)])))
    assert (got[0] == 0).all()
    assert np.isfinite(got[1]).all()
    assert np.isnan(got[2]).all()


def test_the_estimate_does_not_depend_on_the_batch_size_in_expectation():
    # The biased one does: of 8 rows in 40 dimensions it calls independent features alike.
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 4000, 40)).astype(np.float32)
    batches = [((x[i : i + 8],), (y[i : i + 8],)) for i in range(0, 4000, 8)]
    assert abs(float(cka.result(_stream(batches))[0, 0])) < 0.02
    assert float(_biased(x[:8], y[:8])) > 0.7


@settings(deadline=None, max_examples=100)
@given(n=st.integers(0, 2000), batch_size=st.integers(4, 600))
def test_slices_are_even_and_cover_everything(n, batch_size):
    slices = cka.minibatch_slices(n, batch_size)
    assert [i for s in slices for i in range(s.start, s.stop)] == list(range(n))
    sizes = [s.stop - s.start for s in slices]
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert n < 4 or min(sizes) >= 4
    if batch_size >= 7:
        assert len(slices) == -(-n // batch_size)
        assert not sizes or max(sizes) <= batch_size


# The metric.


def _context(references, batch_size=16):
    evaluation = types.SimpleNamespace(cka_batch_size=batch_size)
    return Context(types.SimpleNamespace(evaluation=evaluation), references)


def _features(seed, n, classes=3):
    # Ordered by class, as sets on disk often are.
    labels = np.arange(n, dtype=np.int32) * classes // max(n, 1)
    means = np.random.default_rng(0).normal(size=(classes, 5)) * 3
    generator = np.random.default_rng(seed + 1)
    values = (means[labels] + generator.normal(size=(n, 5))).astype(np.float32)
    maps = generator.normal(size=(n, 2, 2, 3)).astype(np.float32)
    points = {"stage1": maps, "stage2": values}
    return Features(points, np.zeros((n, classes), np.float32), labels)


def test_run_compares_every_point_with_every_reference():
    own = {"forget_test": _features(0, 40), "retain_test": _features(1, 20)}
    references = {
        "original": own,
        "oracle": {"forget_test": _features(2, 40), "retain_test": _features(3, 20)},
    }
    got = cka.run(own, _context(references))
    assert len(got) == 2 * 2 * 2 * 2
    assert all(type(v) is float for v in got.values())
    for split, part in own.items():
        for point, values in part.points.items():
            for key in (f"cka_to_original/{split}", f"cka_unbiased_to_original/{split}"):
                assert got[f"{key}/{point}"] == pytest.approx(1, abs=1e-5)
            other = references["oracle"][split].points[point]
            want = _reference(values, other, _hsic0)
            assert got[f"cka_to_oracle/{split}/{point}"] == pytest.approx(want, abs=1e-5)


def test_run_mixes_the_classes_in_the_minibatches():
    own, other = _features(0, 48), _features(2, 48)
    got = cka.run({"s": own}, _context({"oracle": {"s": other}}))
    whole = _reference(own.points["stage2"], other.points["stage2"], _hsic1)
    ordered = [
        ((own.points["stage2"][i : i + 16],), (other.points["stage2"][i : i + 16],))
        for i in (0, 16, 32)
    ]
    assert got["cka_unbiased_to_oracle/s/stage2"] == pytest.approx(whole, abs=0.05)
    assert _streaming_reference(ordered)[0, 0] < whole - 0.3


def test_run_pads_unequal_minibatches():
    own, other = _features(0, 32), _features(2, 32)
    got = cka.run({"s": own}, _context({"oracle": {"s": other}}, batch_size=12))
    order = rng.generator(0, "cka").permutation(32)
    batches = [
        ((own.points["stage2"][order[i:j]],), (other.points["stage2"][order[i:j]],))
        for i, j in ((0, 11), (11, 22), (22, 32))
    ]
    want = _streaming_reference(batches)[0, 0]
    assert got["cka_unbiased_to_oracle/s/stage2"] == pytest.approx(want, abs=1e-5)


def test_run_of_small_and_empty_splits():
    own = {"empty": _features(0, 0), "three": _features(0, 3)}
    got = cka.run(own, _context({"original": own}))
    assert sorted(got) == ["cka_to_original/three/stage1", "cka_to_original/three/stage2"]
    assert cka.run(own, _context({})) == {}


def test_run_refuses_references_of_other_examples():
    with pytest.raises(ValueError, match="the same inputs are needed"):
        cka.run({"s": _features(0, 8)}, _context({"oracle": {"s": _features(0, 9)}}))
