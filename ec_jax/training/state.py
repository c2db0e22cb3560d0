"""What training carries from step to step."""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from ec_jax.models.network import Network, Variables


@flax.struct.dataclass
class TrainState:
    """State of one training; all of it is checkpointed.

    Attributes:
      step: int32 scalar, updates done.
      params: {"backbone", "modules"}, float32.
      batch_stats: the same parts, float32.
      opt_state: optax state over the trained parts of ``params``.
      spread: {stream: {point: float32 scalar}}: variance of the embeddings of each stream's
        images at its first step, against which a collapse is measured; 0 before it.
    """

    step: jax.Array
    params: Variables
    batch_stats: Variables
    opt_state: Any
    spread: dict[str, dict[str, jax.Array]]


def create(
    network: Network,
    variables: Variables,
    optimizer: optax.GradientTransformation,
    trained: Sequence[str],
    streams: Sequence[str],
) -> TrainState:
    """A state at step 0.

    Args:
      network: what is trained.
      variables: its variables.
      optimizer: an optax transformation over the trained parts.
      trained: parts of ``params`` that the optimizer moves.
      streams: names of the streams that a batch consists of.
    """
    params = variables["params"]
    points = network.points if network.modules is not None else network.points[-1:]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init({part: params[part] for part in trained}),
        spread={s: {p: jnp.zeros((), jnp.float32) for p in points} for s in streams},
    )
