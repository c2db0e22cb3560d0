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
    log_p = jax.nn.log_softmax(teacher, axis=-1)
    log_q = jax.nn.log_softmax(student_logits.astype(jnp.float32), axis=-1)
    terms = jnp.where(allowed, jnp.exp(log_p) * (log_p - log_q), 0.0)
    return jnp.sum(terms, axis=-1)
