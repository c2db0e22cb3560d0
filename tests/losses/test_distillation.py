"""The masked divergence against a loop, and where it could go wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec_jax.losses.distillation import masked_kl


def by_loops(teacher, student, allowed):
    values = []
    for t, s in zip(teacher.astype(np.float64), student.astype(np.float64), strict=True):
        inside = [c for c in range(len(t)) if allowed[c]]
        top = max(t[c] for c in inside)
        p = {c: np.exp(t[c] - top) for c in inside}
        total = sum(p.values())
        log_q = s - s.max() - np.log(np.exp(s - s.max()).sum())
        terms = [p[c] / total * (np.log(p[c] / total) - log_q[c]) for c in inside if p[c]]
        values.append(sum(terms))
    return np.array(values)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 10_000), st.floats(0.1, 30))
def test_agrees_with_a_loop(n, classes, seed, scale):
    draw = np.random.default_rng(seed)
    teacher, student = (scale * draw.normal(size=(2, n, classes))).astype(np.float32)
    allowed = draw.random(classes) < 0.5
    allowed[draw.integers(classes)] = True
    found = masked_kl(jnp.asarray(teacher), jnp.asarray(student), jnp.asarray(allowed))
    np.testing.assert_allclose(found, by_loops(teacher, student, allowed), rtol=1e-4, atol=1e-5)


def test_is_zero_for_the_masked_teacher_itself_and_positive_otherwise():
    teacher = jnp.array([[5.0, 1.0, 2.0]])
    allowed = jnp.array([False, True, True])
    itself = jnp.where(allowed[None], teacher, -jnp.inf).clip(-1e9)
    assert float(masked_kl(teacher, itself, allowed)[0]) == pytest.approx(0, abs=1e-6)
    assert float(masked_kl(teacher, teacher, allowed)[0]) > 1


def test_gradients_are_finite_and_push_the_masked_class_down():
    allowed = jnp.array([False, True, True])
    for scale in (1.0, 1e4):
        teacher = scale * jnp.array([[3.0, -1.0, 0.5]])
        grad = jax.grad(lambda s, t=teacher: masked_kl(t, s, allowed).sum())(teacher)
        assert np.isfinite(grad).all()
        assert float(grad[0, 0]) > 0


def test_bfloat16_logits_are_taken_in_float32():
    logits = jnp.ones((2, 3), jnp.bfloat16)
    assert masked_kl(logits, logits, jnp.ones(3, bool)).dtype == jnp.float32
