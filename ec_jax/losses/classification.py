"""Cross-entropy over class labels."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of each example with its label.

    CE_i = −log softmax(logits_i)[labels_i]

    Args:
      logits: [n, C], any float dtype; computed in float32.
      labels: integer [n], in [0, C).

    Returns:
      float32 [n], in nats; not averaged.

    Source: any textbook, e.g. Goodfellow et al. 2016, Deep Learning, section 6.2.2.3.

    >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).round(4).tolist()
    [1.386...]
    """
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]
