"""The masked divergence against a loop, and where it could go wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec_jax.losses.distillation import kl_divergence, masked_kl


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


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_a_temperature_agrees_with_pytorch(temperature):
    import torch
    from torch.nn import functional

    draw = np.random.default_rng(0)
    teacher, student = (3 * draw.normal(size=(2, 6, 5))).astype(np.float32)
    t, s = (torch.tensor(a, dtype=torch.float64) / temperature for a in (teacher, student))
    s.requires_grad_()
    terms = functional.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="none").sum(-1)
    want = temperature**2 * terms
    want.sum().backward()

    def total(student):
        return kl_divergence(jnp.asarray(teacher), student, temperature).sum()

    found = kl_divergence(jnp.asarray(teacher), jnp.asarray(student), temperature)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, want.detach(), rtol=1e-4, atol=1e-6)
    gradient = jax.grad(total)(jnp.asarray(student))
    # Of the logits, which are divided by the temperature before PyTorch sees them.
    np.testing.assert_allclose(gradient, s.grad / temperature, rtol=1e-4, atol=1e-6)


def test_logits_further_apart_than_float32_reaches_give_no_nan():
    far = jnp.array([[3e38, -3e38, 0.0], [0.0, 1.0, -1.0]])
    for teacher, student in ((far, far), (far, -far), (far, 0.0 * far), (0.0 * far, far)):
        for allowed in ([True, True, True], [False, True, True]):
            value, gradient = jax.value_and_grad(
                lambda s, t=teacher, a=allowed: masked_kl(t, s, jnp.array(a)).sum()
            )(student)
            assert not np.isnan(value)
            assert np.isfinite(gradient).all()
