"""Erase at the Core (EC): forgetting at every supervision point.

    L = Σ_l w_l · [ CE(c_l(z_l(x_r)), y_r) + λ · L_CU(z_l(x_f), …) ]

As a plug-in (``config.ec.plugin``) it is added to another method: L = L_method + β · L_EC.

Variants beyond the paper, all ours, each a field that is off by default:

    targeted   P(i) of L_CU holds the samples of ŷ_f alone        ec.targets = pseudo
    pseudo     + Σ_l w_l · μ · CE(c_l(z_l(x_f)), ŷ_f)             ec.pseudo = μ
    proxy      + Σ_l w_l · α · KL(softmax g(x_f) ‖ c_l(z_l(x_f)))  ec.proxy = α
    calibrated λ · γ_l in the place of λ, γ_l of ``_calibration``  ec.calibrated

ŷ_f is what f0, and g(x_f) what a proxy oracle, a network trained on D_r for a short time, takes x_f
for when the forgotten classes are left out: an oracle sends each of them to classes of its own.
Where samples are forgotten, ŷ_f is another class than their own, and g(x_f) may be any.
``ec_guided`` is the variant that is shipped.

Source: Lee, Kim, Kim, arXiv 2602.05375: the auxiliary modules, the contrastive forgetting
and the cross-entropy at every point, the weighting by layer. Which weights, λ and candidates
is our reading; docs/method.md tells the two apart.
Differs from the published code: we saw none; docs/method.md lists what it may do otherwise.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from ec_jax import parallel
from ec_jax.losses.classification import cross_entropy
from ec_jax.losses.contrastive import contrastive_forgetting_loss
from ec_jax.losses.distillation import masked_kl
from ec_jax.methods import Context, Forward, Method, _calibration, taken_for
from ec_jax.methods._weights import layer_weights

SEARCH = [
    {"unlearn.optimizer.learning_rate": 0.02, "ec.lambda": 1.0},
    {"unlearn.optimizer.learning_rate": 0.04, "ec.lambda": 1.0},
    {"unlearn.optimizer.learning_rate": 0.08, "ec.lambda": 1.0},
    {"unlearn.optimizer.learning_rate": 0.02, "ec.lambda": 3.0},
    {"unlearn.optimizer.learning_rate": 0.04, "ec.lambda": 3.0},
    {"unlearn.optimizer.learning_rate": 0.08, "ec.lambda": 3.0},
]


@dataclasses.dataclass(frozen=True)
class EC(Method):
    """The EC objective.

    Attributes:
      points: supervision points in use.
      weights: w_l of each.
      forget_weight: λ.
      temperature: τ.
      candidates: candidate set of the contrastive loss.
      last: the model's last point, whose logits are the teachers'.
      targeted: forget samples are drawn to their pseudo-class alone.
      pseudo: μ.
      proxy: α.
      calibrated: forgetting at a point fades as its similarity to the original nears the proxy's.
      gather: type in which the devices exchange their embeddings.
    """

    points: Sequence[str]
    weights: Sequence[float]
    forget_weight: float
    temperature: float
    candidates: str
    last: str = ""
    targeted: bool = False
    pseudo: float = 0.0
    proxy: float = 0.0
    calibrated: bool = False
    gather: str = "float32"
    uses_modules = True

    @property
    def needs(self) -> tuple[str, ...]:
        """The proxy oracle, where it teaches or sets the targets."""
        return ("proxy",) if self.proxy or self.calibrated else ()

    def prepare(self, context: Context) -> dict:
        """The teachers of the variants that are on, and the points' targets."""
        original = self.targeted or self.pseudo > 0 or self.calibrated
        teachers = {"original": original, "proxy": self.proxy > 0}
        found = {name: context.models[name] for name, used in teachers.items() if used}
        if self.calibrated:
            found["targets"] = _calibration.targets(context, self.points)
        return {"forgotten": context.forgotten, **found} if found else {}

    def spent(self, context, images):
        """A calibration's two models on every image; nothing else is handed any."""
        del context
        return {"forward": 2 * images}

    def view(self, step, forward: Forward):
        """Adds to the forget stream what the variants ask of the teachers.

        ``pseudo``, int32 [b]; ``proxy``, float32 [b, C]; ``original/POINT``, float32 [b, c], of
        every point in use.
        """
        part = step.batch["forget"]
        if "original" in step.extras:
            seen = forward(step.extras["original"], part["image"])
            logits = seen.logits[self.last]
            if self.calibrated:
                part = part | {f"original/{p}": seen.features[p] for p in self.points}
            pseudo = taken_for(logits, step.extras["forgotten"], part["label"])
            part = {**part, "pseudo": pseudo}
        if "proxy" in step.extras:
            seen = forward(step.extras["proxy"], part["image"])
            part = {**part, "proxy": seen.logits[self.last]}
        return {**step.batch, "forget": part}

    def loss(self, step):
        """The weighted sum over the points; metrics per point."""
        outputs, part = step.outputs, step.batch["forget"]
        labels = {name: step.batch[name]["label"] for name in ("retain", "forget")}
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
                    targets=part["pseudo"] if self.targeted else None,
                    axis_name=parallel.AXIS,
                    gather_dtype=self.gather,
                )
            )
            taught = self._taught(step, point)
            metrics |= {f"retain/{point}": retain, f"forget/{point}": forget}
            if self.calibrated:
                # No gradient flows through the gate.
                student = jax.lax.stop_gradient(outputs["forget"].features[point])
                similarity = _calibration.similarity(student, part[f"original/{point}"])
                gate = _calibration.gate(similarity, step.extras["targets"][point])
                metrics |= {f"cka/{point}": similarity, f"gate/{point}": gate}
                forget = gate * forget
            total += weight * (retain + self.forget_weight * forget + sum(taught.values()))
            metrics |= {f"{name}/{point}": value for name, value in taught.items()}
        return total, metrics

    def _taught(self, step, point: str) -> dict:
        """The weighted terms of the teachers at one point."""
        part, found = step.batch["forget"], {}
        logits = step.outputs["forget"].logits[point]
        if self.pseudo:
            values = cross_entropy(logits, part["pseudo"])
            found["pseudo"] = self.pseudo * parallel.global_mean(values)
        if self.proxy:
            # It never saw them: of forgotten samples its answer is an oracle's, their class too.
            values = masked_kl(part["proxy"], logits, ~step.extras["forgotten"])
            found["proxy"] = self.proxy * parallel.global_mean(values)
        return found


def build(config: Any, points: Sequence[str]) -> EC:
    """EC as ``config.ec`` describes it, for a model with these supervision points."""
    chosen = used_points(config, points)
    weights = layer_weights(config.ec.weights, len(chosen), config.ec.weights_sum)
    return from_config(config.ec, chosen, weights, points[-1])


def used_points(config: Any, points: Sequence[str]) -> Sequence[str]:
    """Those of the model's points that ``ec.points`` names."""
    if config.ec.points == "all":
        return points
    return tuple(p for p in points if p in config.ec.points.split(","))


def from_config(ec: Any, points: Sequence[str], weights: Sequence[float], last: str) -> EC:
    """EC at some points, of a model whose last is ``last``, as the group ``config.ec`` says."""
    return EC(
        points,
        [float(w) for w in weights],
        forget_weight=ec["lambda"],
        temperature=ec.temperature,
        candidates=ec.candidates,
        last=last,
        targeted=ec.targets == "pseudo",
        pseudo=ec.pseudo,
        proxy=ec.proxy,
        calibrated=ec.calibrated,
        gather=ec.gather,
    )
