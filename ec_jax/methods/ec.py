"""Erase at the Core (EC): forgetting at every supervision point.

    L = Σ_l w_l · [ CE(c_l(z_l(x_r)), y_r) + λ · L_CU(z_l(x_f), …) ]

As a plug-in (``config.ec.plugin``) it is added to another method: L = L_method + β · L_EC.

Source: Lee, Kim, Kim, arXiv 2602.05375: the auxiliary modules, the contrastive forgetting
and the cross-entropy at every point, the weighting by layer. Which weights, λ and candidates
is our reading; docs/method.md tells the two apart.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.losses.contrastive import contrastive_forgetting_loss
from ec_jax.methods import Context, Forward, Method


def layer_weights(kind: str, count: int, total: float = 1.0) -> np.ndarray:
    """Weights w_l of ``count`` points, first to last, with the sum ``total``.

    Args:
      kind: ``uniform``, ``linear`` (rising with depth: 1, 2, 3, …), ``geometric`` (1, 2, 4, …, as
        the widths do), ``reversed`` (linear, falling), or one number a point,
        separated by commas.
      count: how many points.
      total: what the weights sum to.

    Returns:
      float32 [count].

    Raises:
      ValueError: as many numbers as points are needed, none negative and not all zero.

    >>> layer_weights("linear", 4, 10.0).tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    ramp = np.arange(1.0, count + 1)
    named = {
        "uniform": np.ones(count),
        "linear": ramp,
        "geometric": 2.0 ** (ramp - 1),
        "reversed": ramp[::-1],
    }
    weights = named[kind] if kind in named else np.array([float(w) for w in kind.split(",")])
    if len(weights) != count or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        raise ValueError(f"{kind!r}: {count} weights are needed, none negative, not all zero")
    return (weights * (total / weights.sum())).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class EC(Method):
    """The EC objective.

    Attributes:
      points: supervision points in use.
      weights: w_l of each.
      forget_weight: λ.
      temperature: τ.
      candidates: candidate set of the contrastive loss.
    """

    points: Sequence[str]
    weights: Sequence[float]
    forget_weight: float
    temperature: float
    candidates: str
    uses_modules = True

    def loss(self, step):
        """The weighted sum over the points; metrics per point."""
        outputs = step.outputs
        labels = {name: part["label"] for name, part in step.batch.items()}
        total, metrics = 0.0, {}
        for point, weight in zip(self.points, self.weights, strict=True):
            retain = parallel.global_mean(
                cross_entropy(outputs["retain"].logits[point], labels["retain"])
            )
            forget = parallel.global_mean(
                *contrastive_forgetting_loss(
                    outputs["forget"].embeddings[point],
                    labels["forget"],
                    outputs["retain"].embeddings[point],
                    labels["retain"],
                    temperature=self.temperature,
                    candidates=self.candidates,
                    axis_name=parallel.AXIS,
                )
            )
            total += weight * (retain + self.forget_weight * forget)
            metrics |= {f"retain/{point}": retain, f"forget/{point}": forget}
        return total, metrics


@dataclasses.dataclass(frozen=True)
class Plugged(Method):
    """Another method with EC's terms on top: L = L_method + β · L_EC.

    Attributes:
      host: the method; its ``view`` sees the forget and the retain batch, whatever it reads.
      ec: EC at the points that it shares with the host.
      weight: β.
    """

    host: Method
    ec: EC
    weight: float
    uses_modules = True

    @property
    def needs(self) -> tuple[str, ...]:
        """What the host needs."""
        return self.host.needs

    def prepare(self, context: Context) -> Any:
        """What the host prepares."""
        return self.host.prepare(context)

    def parameters(self, context: Context) -> Any:
        """The host's own."""
        return self.host.parameters(context)

    def view(self, step, forward: Forward):
        """The batch as the host wants it."""
        return self.host.view(step, forward)

    def limit(self, updates, extras):
        """What the host allows."""
        return self.host.limit(updates, extras)

    def loss(self, step):
        """The host's loss and EC's; metrics of both."""
        host, host_metrics = self.host.loss(step)
        added, metrics = self.ec.loss(step)
        named = {f"ec/{name}": value for name, value in metrics.items()}
        return host + self.weight * added, {**host_metrics, **named}


def plugged(host: Method, config: Any, points: Sequence[str]) -> Plugged:
    """EC as ``config.ec`` describes it, added to a method."""
    chosen = _points(config, points)
    weights = layer_weights(config.ec.weights, len(chosen), config.ec.weights_sum)
    if not config.ec.include_head:
        pairs = [(p, w) for p, w in zip(chosen, weights, strict=True) if p != points[-1]]
        chosen, weights = zip(*pairs, strict=True)
    return Plugged(host, _ec(config.ec, chosen, weights), config.ec.weight)


def build(config: Any, points: Sequence[str]) -> EC:
    """EC as ``config.ec`` describes it, for a model with these supervision points."""
    chosen = _points(config, points)
    weights = layer_weights(config.ec.weights, len(chosen), config.ec.weights_sum)
    return _ec(config.ec, chosen, weights)


def _points(config: Any, points: Sequence[str]) -> Sequence[str]:
    if config.ec.points == "all":
        return points
    return tuple(p for p in points if p in config.ec.points.split(","))


def _ec(ec: Any, points: Sequence[str], weights: Sequence[float]) -> EC:
    numbers = [float(w) for w in weights]
    return EC(points, numbers, ec["lambda"], ec.temperature, ec.candidates)
