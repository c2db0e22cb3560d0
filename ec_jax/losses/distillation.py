"""Distillation: the divergence of a student's prediction from a teacher's."""

import jax
import jax.numpy as jnp


def masked_kl(
    teacher_logits: jax.Array, student_logits: jax.Array, allowed: jax.Array
) -> jax.Array:
    """KL divergence of each student from its teacher, whose prediction leaves classes out.

    KL_i = Σ_{c allowed} p_ic · (log p_ic − log q_ic), p_i = softmax of the teacher's logits over
    the allowed classes alone, q_i = softmax of the student's over all classes.

    Args:
      teacher_logits: [n, C], any float dtype; computed in float32.
      student_logits: [n, C].
      allowed: bool [C] or [n, C], at least one true a row: the classes among which the teacher
        chooses.

    Returns:
      float32 [n], in nats, >= 0; not averaged.

    Source: Hinton et al. 2015, arXiv 1503.02531, at temperature 1; leaving the forgotten classes
    out of the teacher's prediction: e.g. Jeon et al. 2024, arXiv 2405.17878.

    >>> teacher, student = jnp.array([[9.0, 0.0, 0.0]]), jnp.array([[-20.0, 1.0, 1.0]])
    >>> masked_kl(teacher, student, jnp.array([False, True, True])).round(4).tolist()
    [0.0]
    """
    teacher = teacher_logits.astype(jnp.float32)
    # Not −inf: 0 · −inf would make both the value and its gradient NaN.
    allowed = jnp.broadcast_to(jnp.atleast_2d(allowed), teacher.shape)
    teacher = jnp.where(allowed, teacher, jnp.finfo(jnp.float32).min)
    log_p = _log_softmax(teacher)
    log_q = _log_softmax(student_logits.astype(jnp.float32))
    terms = jnp.where(allowed, jnp.exp(log_p) * (log_p - log_q), 0.0)
    return jnp.sum(terms, axis=-1)


def _log_softmax(logits: jax.Array) -> jax.Array:
    # Logits further apart than float32 reaches give −inf, and a class of no probability would
    # count 0 · inf.
    return jnp.maximum(jax.nn.log_softmax(logits, axis=-1), jnp.finfo(jnp.float32).min / 2)


def kl_divergence(
    teacher_logits: jax.Array,
    student_logits: jax.Array,
    temperature: float = 1.0,
    allowed: jax.Array | None = None,
) -> jax.Array:
    """KL divergence of each student from its teacher at a temperature.

    KL_i = T² · Σ_c p_ic · (log p_ic − log q_ic), p_i and q_i the softmax of the teacher's and the
    student's logits divided by T. T² keeps the gradient's size whatever the temperature.

    Args:
      teacher_logits: [n, C], any float dtype; computed in float32.
      student_logits: [n, C].
      temperature: T > 0.
      allowed: bool [C] or [n, C], as ``masked_kl`` takes it. None: all classes.

    Returns:
      float32 [n], in nats times T², >= 0; not averaged.

    Source: Hinton et al. 2015, arXiv 1503.02531, section 2.

    >>> teacher, student = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 0.0]])
    >>> kl_divergence(teacher, student, 2.0).round(3).tolist()
    [0.444...]
    """
    teacher = teacher_logits.astype(jnp.float32) / temperature
    student = student_logits.astype(jnp.float32) / temperature
    allowed = jnp.ones(teacher.shape[-1], bool) if allowed is None else allowed
    return temperature**2 * masked_kl(teacher, student, allowed)
