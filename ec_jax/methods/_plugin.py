"""EC as a plug-in: its terms on top of another method's loss."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ec_jax.errors import InputError
from ec_jax.methods import Context, Forward, Method, Step, ec
from ec_jax.methods._weights import layer_weights


@dataclasses.dataclass(frozen=True)
class Plugged(Method):
    """Another method with EC's terms on top: L = L_method + β · L_EC.

    Attributes:
      host: the method; its ``view`` sees the forget and the retain batch, whatever it reads.
      ec: EC at the points that it shares with the host.
      weight: β.
    """

    host: Method
    ec: ec.EC
    weight: float
    uses_modules = True

    def check(self, labels):
        """What the host refuses."""
        self.host.check(labels)

    @property
    def needs(self) -> tuple[str, ...]:
        """What either needs."""
        return tuple({*self.host.needs, *self.ec.needs})

    def spent(self, context: Context, images: int) -> dict[str, int] | None:
        """What the host says, as of its own of what ``ec.calibrated`` was handed."""
        return self.host.spent(context, images)

    def prepare(self, context: Context) -> Any:
        """What both prepare."""
        return {"host": self.host.prepare(context), "ec": self.ec.prepare(context)}

    def parameters(self, context: Context) -> Any:
        """The host's own."""
        return self.host.parameters(context)

    def view(self, step, forward: Forward):
        """The batch as the host wants it, with what EC adds."""
        batch = self.host.view(_of(step, "host"), forward)
        return self.ec.view(_of(step, "ec").replace(batch=batch), forward)

    def limit(self, updates, extras):
        """What the host allows."""
        return self.host.limit(updates, extras["host"])

    def loss(self, step):
        """The host's loss and EC's; metrics of both."""
        host, host_metrics = self.host.loss(_of(step, "host"))
        added, metrics = self.ec.loss(_of(step, "ec"))
        named = {f"ec/{name}": value for name, value in metrics.items()}
        return host + self.weight * added, {**host_metrics, **named}


def _of(step: Step, part: str) -> Step:
    return step.replace(extras=step.extras[part])


def plugged(host: Method, config: Any, points: Sequence[str]) -> Plugged:
    """EC as ``config.ec`` describes it, added to a method.

    The last point is left to the method unless ``ec.include_head`` is set; the others keep their
    weights, which then sum to less than ``ec.weights_sum``.

    Raises:
      InputError: the last point is the only one, or the only one with a weight.
    """
    chosen = ec.used_points(config, points)
    weights = layer_weights(config.ec.weights, len(chosen), config.ec.weights_sum)
    if not config.ec.include_head:
        pairs = [(p, w) for p, w in zip(chosen, weights, strict=True) if p != points[-1]]
        if not pairs:
            remedy = "EC leaves the last point to the method; add points, or ec.include_head=true"
            raise InputError("ec.points", config.ec.points, remedy)
        chosen, weights = zip(*pairs, strict=True)
        if not any(weights):
            remedy = "weighs the last point alone, which EC leaves to the method; weigh another "
            remedy += "point, too, or use ec.include_head=true"
            raise InputError("ec.weights", config.ec.weights, remedy)
    return Plugged(host, ec.from_config(config.ec, chosen, weights, points[-1]), config.ec.weight)
