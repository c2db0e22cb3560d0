"""All metrics of all models: which there are, and which of them a config asks for."""

import math
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType
from typing import Any

from jax.sharding import Mesh

from ec_jax.errors import TrainingError
from ec_jax.evaluation import (
    accuracy,
    agreement,
    gap,
    idi,
    knn,
    mia,
    misalignment,
    probe,
    recovery,
    rus,
    similarity,
    variance,
)
from ec_jax.evaluation.features import Context, Features, Subject

# A metric is made of features by `run(features, context)`, or of the numbers before it and of
# the references' by `derive(values, references, points)`, or first the one and then the other.
METRICS = {
    "accuracy": accuracy,
    "agreement": agreement,
    "cka": similarity,
    "knn": knn,
    "variance": variance,
    "probe": probe,
    "misalignment": misalignment,
    "mia": mia,
    "recovery": recovery,
    "idi": idi,
    "rus": rus,
    "gap": gap,
}
REFERENCES = ("original", "oracle")
_LONG = ("probe", "mia", "recovery", "idi")  # which train something
_OF_TWO = ("cka", "agreement")  # numbers of a model and a reference


def chosen(spec: str) -> tuple[str, ...]:
    """The metrics that ``evaluation.metrics`` names, in the suite's order.

    >>> chosen("gap,accuracy")
    ('accuracy', 'gap')
    """
    return tuple(METRICS) if spec == "all" else tuple(n for n in METRICS if n in spec.split(","))


def evaluate(
    features: Mapping[str, Mapping[str, Features]],
    config: Any,
    subjects: Mapping[str, Subject] | None = None,
    may_break: Collection[str] = (),
    known: Mapping[str, Mapping[str, float]] | None = None,
    told: bool = False,
    mesh: Mesh | None = None,
) -> dict[str, dict[str, float]]:
    """The numbers of every model.

    Args:
      features: {model: {split: Features}}, of the same examples in the same order; ``original``
        and ``oracle``, where they are there, are what the others are compared with.
      config: of the run; ``config.evaluation`` is read.
      subjects: {model: the model itself}; without one, metrics that need it are left out.
      may_break: models whose numbers need not be finite.
      known: {model: its numbers}, of models that were measured before, against the same references.
      told: a line is printed before each of the metrics that may take minutes.
      mesh: of the devices over which large metrics are cut; None: one device.

    Returns:
      {model: {flat key: number}}.

    Raises:
      TrainingError: a number of another model is not finite.
    """
    metrics = [METRICS[name] for name in chosen(config.evaluation.metrics)]
    references = {name: features[name] for name in REFERENCES if name in features}
    models = {}
    for model, splits in features.items():
        if model in (known or {}):
            models[model] = dict(known[model])
            continue
        context = Context(config, references, (subjects or {}).get(model), mesh)
        models[model] = {}
        for name in chosen(config.evaluation.metrics):
            if name in _LONG and told:
                print(f"evaluate: {name} of {model}", flush=True)
            if hasattr(METRICS[name], "run"):
                models[model] |= METRICS[name].run(splits, context)
    refuse_nan(models, may_break)
    known = {name: models[name] for name in references}
    points = _points(features)
    return {
        model: values | _derived(metrics, values, known, points) for model, values in models.items()
    }


def _derived(
    metrics: Sequence[ModuleType],
    values: Mapping[str, float],
    references: Mapping[str, Mapping[str, float]],
    points: Sequence[str],
) -> dict[str, float]:
    made = (m.derive(values, references, points) for m in metrics if hasattr(m, "derive"))
    return {key: value for found in made for key, value in found.items()}


def _points(features: Mapping[str, Mapping[str, Features]]) -> tuple[str, ...]:
    return tuple(next(iter(next(iter(features.values())).values())).points)


def refuse_nan(models: Mapping[str, Mapping[str, float]], may_break: Collection[str] = ()) -> None:
    """Raises TrainingError for a number that is not finite, of a model not in ``may_break``."""
    found = [
        (name, key, value)
        for name, values in models.items()
        if name not in may_break
        for key, value in values.items()
        if not math.isfinite(value)
    ]
    # A model's own numbers first: similarities to it are not finite either.
    for name, key, value in sorted(found, key=lambda item: item[1].startswith(_OF_TWO))[:1]:
        raise TrainingError(
            f"evaluate: {key} of the {name} model is {value}: its parameters or features "
            "are not finite; train it anew in another workdir, or give another checkpoint"
        )
