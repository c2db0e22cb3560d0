import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec_jax.losses.classification import cross_entropy


def _reference(logits, labels):
    out = []
    for row, label in zip(np.asarray(logits, np.float64), labels, strict=True):
        top = max(row)
        out.append(np.log(sum(np.exp(v - top) for v in row)) + top - row[label])
    return np.array(out)


@settings(deadline=None, max_examples=25)
@given(
    shape=st.sampled_from([(1, 1), (1, 3), (5, 2), (7, 10)]),
    scale=st.sampled_from([0.1, 1.0, 100.0]),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_a_loop(shape, scale, seed):
    generator = np.random.default_rng(seed)
    logits = (generator.normal(size=shape) * scale).astype(np.float32)
    labels = generator.integers(shape[1], size=shape[0])
    got = jax.jit(cross_entropy)(logits, labels)
    assert got.dtype == jnp.float32
    assert got.shape == shape[:1]
    np.testing.assert_allclose(got, _reference(logits, labels), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_computed_in_float32(dtype):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(6, 100)), dtype)
    labels = np.arange(6)
    got = cross_entropy(logits, labels)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, _reference(logits.astype(jnp.float32), labels), rtol=1e-5)


def test_large_logits_stay_finite_with_their_gradient():
    logits = jnp.array([[3e38, 0.0], [0.0, -3e38]])
    value, grad = jax.value_and_grad(lambda z: cross_entropy(z, jnp.array([0, 0])).sum())(logits)
    assert value == 0.0
    assert np.isfinite(grad).all()


def test_gradient_is_softmax_minus_one_hot():
    logits = jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 5.0]])
    labels = jnp.array([2, 0])
    grad = jax.grad(lambda z: cross_entropy(z, labels).sum())(logits)
    np.testing.assert_allclose(grad, jax.nn.softmax(logits) - np.eye(3)[labels], atol=1e-6)


def test_no_example():
    assert cross_entropy(jnp.zeros((0, 3)), jnp.zeros(0, jnp.int32)).shape == (0,)
