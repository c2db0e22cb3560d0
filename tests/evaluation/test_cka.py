import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cka_loops import hsic0, hsic1, reference, streaming_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.spatial import distance

from ec_jax.evaluation import cka
from ec_jax.evaluation.cka import linear_cka

SHAPES = [((4,), (3,)), ((5, 2), (6,)), ((3, 2, 2), (3, 2, 2)), ((1,), (40,))]
_biased = jax.jit(linear_cka)
_unbiased = jax.jit(lambda x, y: linear_cka(x, y, unbiased=True))


def _rbf_kernel(x, fraction):
    square = distance.pdist(np.asarray(x, np.float64).reshape(len(x), -1), "sqeuclidean")
    off_diagonal = np.exp(-square / (2 * fraction * np.median(square)))
    return np.eye(len(x)) + distance.squareform(off_diagonal)


def _pair(seed, n, x_shape, y_shape, offset=0.0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, *x_shape)).astype(np.float32) + np.float32(offset)
    y = generator.normal(size=(n, *y_shape)).astype(np.float32)
    y = y + x.reshape(n, -1)[:, :1].reshape(n, *[1] * len(y_shape))
    return x, y.astype(np.float32)


@settings(deadline=None, max_examples=25)
@given(
    n=st.sampled_from([4, 5, 12]),
    shapes=st.sampled_from(SHAPES),
    offset=st.sampled_from([0.0, 5.0]),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_a_loop(n, shapes, offset, seed):
    x, y = _pair(seed, n, *shapes, offset)
    got = _biased(x, y)
    assert got.dtype == jnp.float32
    assert got.shape == ()
    assert float(got) == pytest.approx(reference(x, y, hsic0), abs=1e-5)
    assert float(_unbiased(x, y)) == pytest.approx(reference(x, y, hsic1), abs=1e-5, rel=1e-5)


@settings(deadline=None, max_examples=15)
@given(unbiased=st.booleans(), seed=st.integers(0, 2**31))
def test_invariances(unbiased, seed):
    f = _unbiased if unbiased else _biased
    x, y = _pair(seed, 12, (4,), (6,))
    want = float(f(x, y))
    generator = np.random.default_rng(seed)
    rotation = np.linalg.qr(generator.normal(size=(4, 4)))[0].astype(np.float32)
    order = generator.permutation(12)
    moves = [(x @ rotation, y), (x * np.float32(-1e12), y * np.float32(1e-12))]
    same = [f(*pair) for pair in (*moves, (x[order], y[order]), (x + np.float32(3), y))]
    np.testing.assert_allclose(same, want, atol=2e-5)
    assert float(f(y, x)) == pytest.approx(want, abs=1e-6)
    assert float(f(x, x)) == pytest.approx(1, abs=1e-6)


def test_the_cheaper_side_is_computed():
    x, y = _pair(0, 30, (4,), (5,))
    wide = [np.pad(a, ((0, 0), (0, 200))) for a in (x, y)]
    programs = [str(jax.make_jaxpr(linear_cka)(*pair)) for pair in ((x, y), wide)]
    assert ["f32[30,30]" in program for program in programs] == [False, True]
    assert float(_biased(x, y)) == pytest.approx(float(_biased(*wide)), abs=1e-6)


@pytest.mark.parametrize("n", [255, 257, 530])  # whole, halved, halved twice
@pytest.mark.parametrize("wide", [False, True])
def test_halves_are_the_whole_product(n, wide):
    x, y = _pair(n, 600, (n,), (n + 1,), offset=1.0)
    if wide:
        x, y = x.T, y[:, :n].T

    def kernel(a):
        a = np.asarray(a, np.float64)
        return a @ a.T

    want = reference(x, y, hsic0, kernel)
    assert float(_biased(x, y)) == pytest.approx(want, rel=1e-5)
    assert float(_biased(x, x)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e3, 1e30])
@pytest.mark.parametrize("unbiased", [False, True])
def test_constant_features_have_similarity_zero(value, unbiased):
    varied = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    constant = np.full((7, 5), value, np.float32)
    empty = np.zeros((7, 0), np.float32)
    for x, y in [(constant, varied), (varied, constant), (constant, constant), (empty, varied)]:
        assert float((_unbiased if unbiased else _biased)(x, y)) == 0.0


def test_nan_is_not_hidden():
    x, y = _pair(3, 6, (2,), (2,))
    x[0, 0] = np.nan
    assert np.isnan(_biased(x, y))
    assert np.isnan(_unbiased(y, x))


def test_bfloat16_is_computed_in_float32():
    x, y = _pair(4, 12, (5, 2), (6,))
    x = jnp.asarray(x, jnp.bfloat16)
    want = reference(x.astype(jnp.float32), y, hsic0)
    assert float(_biased(x, y)) == pytest.approx(want, abs=1e-5)


# The minibatch estimator.


def _stages(seed, n):
    generator = np.random.default_rng(seed)
    base = generator.normal(size=(n, 6)).astype(np.float32)
    xs = (base, base[:, :3] + 1, generator.normal(size=(n, 2, 2, 3)).astype(np.float32))
    ys = (base[:, 2:] * 2, generator.normal(size=(n, 4)).astype(np.float32) + base[:, :4])
    return xs, ys


def _stream(batches, masks=None):
    state = cka.init(*map(len, batches[0]))
    for batch, mask in zip(batches, masks or [None] * len(batches), strict=True):
        state = cka.update(state, *batch, mask)
    return state


@pytest.mark.parametrize("sizes", [(12,), (12, 12, 12), (12, 5, 4)])
def test_streaming_agrees_with_a_loop(sizes):
    batches = [_stages(i, n) for i, n in enumerate(sizes)]
    got = cka.result(_stream(batches))
    np.testing.assert_allclose(got, streaming_reference(batches), atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(
    valid=st.lists(st.booleans(), min_size=12, max_size=12),
    filler=st.sampled_from([0.0, 1e6, np.nan, np.inf]),
    seed=st.integers(0, 2**31),
)
def test_masked_rows_are_as_if_they_were_not_there(valid, filler, seed):
    valid = np.array(valid)
    whole, part = _stages(seed, 12), _stages(seed + 1, 12)
    kept = jax.tree.map(lambda a: a[valid], part)
    filled = jax.tree.map(lambda a: a.copy(), part)
    for a in jax.tree.leaves(filled):
        a[~valid] = filler
    got = cka.result(_stream([whole, filled], [np.ones(12, bool), valid]))
    batches = [whole, kept] if valid.sum() >= 4 else [whole]
    np.testing.assert_allclose(got, streaming_reference(batches), atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_batches_of_under_four_rows_contribute_nothing(n):
    masked = cka.update(cka.init(3, 2), *_stages(0, 12), np.arange(12) < n)
    for state in (_stream([_stages(0, n)]), masked):
        assert not any(np.any(leaf) for leaf in jax.tree.leaves((state, cka.result(state))))


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
    assert batch_size < 7 or len(slices) == -(-n // batch_size)
    assert batch_size < 7 or max(sizes, default=0) <= batch_size


@pytest.mark.parametrize("factors", [(1e8, 1e8), (1e-10, 1e-10), (1e-25, 1.0), (1e-3, 1e12)])
def test_streaming_holds_at_any_scale(factors):
    moved = []
    for i, factor in enumerate(factors):
        xs, ys = _stages(i, 12)
        moved.append((tuple(x * np.float32(factor) for x in xs), ys))
    for order in (moved, moved[::-1]):
        got = cka.result(_stream(order))
        np.testing.assert_allclose(got, streaming_reference(order), atol=1e-5)


def test_the_state_is_as_large_after_many_rows_as_before_any():
    for n in (12, 4000):
        state = jax.eval_shape(cka.update, cka.init(3, 2), *_stages(0, n))
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, cka.init(3, 2))


# Gaussian kernels, matrices, batches in order, and rows on several devices.


@pytest.mark.parametrize("n", [4, 20])
@pytest.mark.parametrize("fraction", [0.05, 0.5, 1.0, 4.0, 1e4])
def test_rbf_agrees_with_a_loop(n, fraction):
    x, y = _pair(n, n, (3, 2), (5,), offset=5.0)
    for unbiased, hsic in ((False, hsic0), (True, hsic1)):
        got = cka.rbf_cka(x, y, fraction=fraction, unbiased=unbiased)
        want = reference(x, y, hsic, functools.partial(_rbf_kernel, fraction=fraction))
        assert float(got) == pytest.approx(want, abs=1e-5)
        moved = cka.rbf_cka(y * 1e12 + 3, x[..., ::-1] * -1e-12, fraction=fraction)
        assert unbiased or float(moved) == pytest.approx(float(got), abs=1e-4)


def test_rbf_of_equal_rows_wide_bandwidths_and_bad_fractions():
    x, y = _pair(0, 12, (3,), (3,))
    groups = np.repeat(np.eye(2, dtype=np.float32), [9, 3], axis=0)  # median distance 0
    equal = reference(groups, x, hsic0, lambda a: 1.0 * (a[:, None] == a[None]).all(-1))
    assert float(cka.rbf_cka(groups, x, fraction=1e-30)) == pytest.approx(equal, abs=1e-5)
    wide = cka.rbf_cka(x, y, fraction=1e8) - _biased(x, y)
    assert abs(float(wide)) < 1e-5
    for fraction in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="positive number"):
            cka.rbf_cka(x, y, fraction=fraction)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("width", [0, 200])  # feature space, sample space
def test_matrix_is_every_pair(unbiased, width):
    xs, ys = _stages(0, 30)
    xs = (*xs, np.pad(xs[0], ((0, 0), (0, width))), np.ones((30, 2), np.float32))
    got = cka.cka_matrix(xs, ys, unbiased=unbiased)
    hsic = hsic1 if unbiased else hsic0
    want = [[reference(x, y, hsic) for y in ys] for x in xs[:-1]] + [[0.0, 0.0]]
    np.testing.assert_allclose(got, want, atol=1e-5)
    pairs = [[linear_cka(x, y, unbiased=unbiased) for y in ys] for x in xs]
    np.testing.assert_allclose(got, pairs, atol=1e-6)
    assert cka.cka_matrix((), ys).shape == (0, 2)


def test_other_rows_and_too_few_are_refused():
    x = np.ones((5, 2), np.float32)
    matrix = functools.partial(cka.cka_matrix, unbiased=True)
    for f in (linear_cka, cka.rbf_cka, cka.uuef_cka, lambda a, b: matrix((a, a), (a, b))):
        with pytest.raises(ValueError, match="5 rows, y has 4"):
            f(x, x[:4])
    for f in (linear_cka, cka.rbf_cka, lambda a, b, unbiased: matrix((a,), (b,))):
        with pytest.raises(ValueError, match="at least 4"):
            f(x[:3], x[:3], unbiased=True)
    with pytest.raises(ValueError, match="at least one row"):
        cka.uuef_cka(x, x, 0)


_EXTREME = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None, max_examples=40)
@given(
    pair=st.tuples(*[arrays.arrays(np.float32, (5, 2), elements=_EXTREME)] * 2),
    n=st.sampled_from([0, 1, 2, 3, 4, 5]),
    fraction=st.sampled_from([1e-30, 1.0, 1e30]),
)
def test_finite_features_never_give_nan(pair, n, fraction):
    x, y = (a[:n] for a in pair)
    values = [_biased(x, y), cka.rbf_cka(x, y, fraction=fraction), cka.uuef_cka(x, y, 2) / 100]
    if n >= 4:
        values += [_unbiased(x, y), cka.rbf_cka(x, y, fraction=fraction, unbiased=True)]
    if n:
        values.append(cka.result(_stream([((x,), (y,)), ((y,), (x,))]))[0, 0])
    assert all(abs(float(v)) <= 1 + 1e-5 for v in values)
    assert n > 1 or not any(map(float, values))


def test_equally_distant_examples_have_no_unbiased_similarity():
    x, y = np.eye(300, dtype=np.float32) * 7 + 0.3, _pair(0, 300, (3,), (3,))[0]
    assert float(linear_cka(x, y, unbiased=True)) == 0.0
    assert float(cka.rbf_cka(x, x, unbiased=True)) == 0.0
    for n in (2, 3, 300):
        assert float(_biased(x[:n], x[:n])) == pytest.approx(1.0)


@pytest.mark.parametrize("n", [0, 1, 5, 8, 13])
def test_uuef_is_the_plain_mean_over_batches_in_order(n):
    x, y = (a[:n] for a in _pair(n, 13, (3,), (5,)))
    batches = [slice(i, i + 4) for i in range(0, n, 4)]
    values = [reference(x[b], y[b], hsic0) if len(x[b]) > 1 else 0.0 for b in batches]
    want = 100 * np.mean(values) if n else 0.0
    assert float(cka.uuef_cka(x, y, batch_size=4)) == pytest.approx(want, abs=1e-3)


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_sharded_rows_give_the_value_of_the_whole(devices, offset):
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = {"in_specs": jax.P("data"), "out_specs": jax.P()}
    program = functools.partial(cka.sharded_linear_cka, axis_name="data")
    f = jax.jit(jax.shard_map(lambda x, y, m: program(x, y, mask=m), mesh=mesh, **specs))
    x, y = _pair(0, 32, (2, 3), (4,), offset)
    x += np.arange(32, dtype=np.float32).reshape(32, 1, 1)  # devices differ in their means
    for mask in (np.ones(32, bool), np.arange(32) < 9, np.arange(32) >= 30, np.zeros(32, bool)):
        got = f(np.where(mask[:, None, None], x, np.nan), y * np.float32(1e20), mask)
        want = reference(x[mask], y[mask], hsic0) if mask.any() else 0.0
        assert float(got) == pytest.approx(want, abs=1e-5)
    assert float(f(np.full_like(x, 0.1), y, np.ones(32, bool))) == 0.0
