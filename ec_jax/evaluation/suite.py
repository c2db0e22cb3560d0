"""All metrics of all models: which there are, and which of them a config asks for."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ec_jax.errors import TrainingError
from ec_jax.evaluation import accuracy, cka, gap, knn, mia, misalignment, probe, rus, variance
from ec_jax.evaluation.features import Context, Features

# Made of features: `run(features, context)`.
DIRECT = {
    "accuracy": accuracy,
    "cka": cka,
    "knn": knn,
    "variance": variance,
    "probe": probe,
    "misalignment": misalignment,
    "mia": mia,
}
# Made of the numbers above: `derive(values, oracle, points)`.
DERIVED = {"rus": rus, "gap": gap}
REFERENCES = ("original", "oracle")


def chosen(spec: str) -> tuple[str, ...]:
    """The metrics that ``evaluation.metrics`` names, in the suite's order.

    >>> chosen("gap,accuracy")
    ('accuracy', 'gap')
    """
    names = (*DIRECT, *DERIVED)
    return names if spec == "all" else tuple(n for n in names if n in spec.split(","))


def evaluate(
    features: Mapping[str, Mapping[str, Features]], config: Any
) -> dict[str, dict[str, float]]:
    """The numbers of every model.

    Args:
      features: {model: {split: Features}}, of the same examples in the same order; ``original``
        and ``oracle``, where they are there, are what the others are compared with.
      config: of the run; ``config.evaluation`` is read.

    Returns:
      {model: {flat key: number}}.

    Raises:
      TrainingError: a number is not finite.
    """
    names = chosen(config.evaluation.metrics)
    references = {name: features[name] for name in REFERENCES if name in features}
    context = Context(config, references)
    models = {
        model: {
            key: value
            for name in names
            if name in DIRECT
            for key, value in DIRECT[name].run(splits, context).items()
        }
        for model, splits in features.items()
    }
    _refuse_nan(models)
    oracle, points = models.get("oracle", {}), _points(features)
    return {
        model: values | _derived(names, values, oracle, points) for model, values in models.items()
    }


def _derived(
    names: Sequence[str],
    values: Mapping[str, float],
    oracle: Mapping[str, float],
    points: Sequence[str],
) -> dict[str, float]:
    made = (DERIVED[name].derive(values, oracle, points) for name in names if name in DERIVED)
    return {key: value for found in made for key, value in found.items()}


def _points(features: Mapping[str, Mapping[str, Features]]) -> tuple[str, ...]:
    return tuple(next(iter(next(iter(features.values())).values())).points)


def _refuse_nan(models: Mapping[str, Mapping[str, float]]) -> None:
    for name, values in models.items():
        for key, value in values.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"evaluate: {key} of the {name} model is {value}: its parameters or features "
                    "are not finite; train it anew in another workdir, or give another checkpoint"
                )
