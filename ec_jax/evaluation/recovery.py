"""Recovery: how soon a model gets back what it forgot, by its head alone and as a whole."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ec_jax import rng
from ec_jax.evaluation import probe
from ec_jax.evaluation.features import Context, Features, Subject, extract
from ec_jax.losses.classification import cross_entropy
from ec_jax.models.network import Network, Variables

LEARNING_RATE = 1e-3  # Adam's usual one: a step moves every parameter by at most about this much
LARGEST = 1000  # test images of a split that the curve looks at: a standard error under 1.6 points
_BATCH = 100  # images a forward pass; the last one is filled up, so that one shape is compiled
_RELEARNED = ("forget_train", "forget_test")

# Adam, because models differ in the scale of their features and losses: the size of its steps
# does not depend on that of the gradients.
_OPTIMIZER = optax.adam(LEARNING_RATE)


def run(features: Mapping[str, Features], context: Context) -> dict[str, float]:
    """What a new head on few images, and a few steps of training, bring back.

    ``recovery/head/SPLIT``, of both test splits: accuracy of a new linear head, trained on the
    last point's frozen features of ``evaluation.recovery_fraction`` of the images of every class
    of both training splits, at least one a class. It is multinomial logistic regression with the
    penalty of a standard normal prior on every weight, on features standardised by these images
    alone. So few images cannot choose a strength, and a fixed one treats all models alike.

    ``recovery/steps/K``, K = 0, 1, 2, 5, 10, 20, 50, … and ``evaluation.recovery_steps``:
    accuracy on ``forget_test`` after K steps of training the whole network, its own head
    included, from its own parameters; BatchNorm keeps its statistics. Each step sees the same
    ``evaluation.recovery_images`` of ``forget_train``, evenly of its classes (that little is all
    that is given away), and as many of ``retain_train``, drawn anew (these were never to be
    forgotten, so there is no lack of them):

        L = φ · mean CE(forget images) + (1 − φ) · mean CE(retain images)

    with φ the forget set's share of all training images, as in training on all of them. Otherwise
    taking every image for a forgotten one would pay: without retain images any network soon does
    so, and with φ = 1/2 one with random parameters does within three steps, and "recovers". Adam,
    learning rate 1e-3.

    ``recovery/area``: that curve's mean over log(1 + K), by the trapezoidal rule.
    ``recovery/retain_after``: accuracy on ``retain_test`` after the last step. Where it is far
    below the accuracy before, the curve shows a ruined network.

    A head that was pushed far away from a class takes its time to come back, whatever the layers
    below still know: read the curve and ``recovery/head`` together.

    Images are drawn once and for all, the same for every model of a run and for every seed; of a
    test split at most 1,000 count for the curve and what follows it.

    Args:
      features: {split: Features} of the measured model; maps are averaged over space first.
      context: ``config.evaluation`` and ``subject`` are used; without a subject there is only the
        head. The subject is left as it is.

    Returns:
      {key: percent in [0, 100]}. An image whose logits are not finite counts as wrong, so that
      training that diverges ends at 0, ``recovery/retain_after`` too. The head on features that
      are not finite is NaN. Splits without examples are left out; the curve needs
      ``forget_train`` and ``forget_test``; without ``retain_train`` φ = 1.

    Source: arXiv 2405.17878 (the head, 2 % of the data); the curve is ours.
    """
    settings = context.config.evaluation
    result = _head(features, settings.recovery_fraction)
    present = [split for split, part in features.items() if len(part.labels)]
    if context.subject is None or not set(_RELEARNED) <= set(present):
        return result
    labels = {split: features[split].labels for split in present}
    return result | _curve(context.subject, labels, settings)


def derive(
    values: Mapping[str, float],
    references: Mapping[str, Mapping[str, float]],
    points: Sequence[str],
) -> dict[str, float]:
    """``recovery/head_excess`` and ``recovery/area_excess``: the model's number minus the oracle's.

    The oracle, which never saw the forget set, learns it too: only what lies above it was kept.

    Args:
      values: the flat keys of the measured model.
      references: {"oracle": its flat keys}; without it nothing is derived.
      points: not used.

    Returns:
      {key: points in [−100, 100]}, of ``recovery/head/forget_test`` and of ``recovery/area``;
      one whose inputs are missing is left out.

    >>> oracle = {"recovery/area": 40.0}
    >>> derive({"recovery/area": 70.0}, {"oracle": oracle}, [])
    {'recovery/area_excess': 30.0}
    """
    del points
    oracle = references.get("oracle", {})
    excesses = {"head": "recovery/head/forget_test", "area": "recovery/area"}
    return {
        f"recovery/{name}_excess": values[key] - oracle[key]
        for name, key in excesses.items()
        if key in values and key in oracle
    }


def steps_shown(last: int) -> list[int]:
    """0, then 1, 2 and 5 times the powers of ten below ``last``, then ``last``.

    >>> steps_shown(30), steps_shown(1)
    ([0, 1, 2, 5, 10, 20, 30], [0, 1])
    """
    powers = range(len(str(last)))
    return [0, *(m * 10**p for p in powers for m in (1, 2, 5) if m * 10**p < last), last]


def area(steps: Sequence[int], values: Sequence[float]) -> float:
    """Mean of a curve over log(1 + K), by the trapezoidal rule.

    A(v) = ∫ v d log(1 + K) / log(1 + K_last): the first steps count most.

    Args:
      steps: K, ascending, from 0 to at least 1.
      values: as many, at those steps.

    Returns:
      A number between the smallest and the largest of the values.

    >>> area([0, 1, 3], [0.0, 100.0, 100.0])
    75.0
    """
    places = np.log1p(np.asarray(steps, np.float64))
    return float(np.trapezoid(values, places) / places[-1])


def _head(features: Mapping[str, Features], fraction: float) -> dict[str, float]:
    splits = [s for s in probe.TESTS if s in features and len(features[s].labels)]
    parts = [_few(features[s], fraction, s) for s in probe.TRAINING if s in features]
    labels = np.concatenate([part for _, part in parts]) if parts else np.zeros(0)
    if not splits or not len(labels):
        return {}
    training = np.concatenate([values for values, _ in parts])
    result = {f"recovery/head/{split}": float("nan") for split in splits}
    if not np.isfinite(training).all():
        return result
    moments = probe.scaling(training)
    classes = features[splits[0]].logits.shape[-1]
    # fit_probes averages the losses: there a standard normal prior has the strength 1 / n.
    strength = np.full((1, 1), 1 / len(labels))
    head = probe.fit_probes(probe.standardised(training, moments)[None], labels, classes, strength)
    weights, bias = np.asarray(head.weights)[0, 0], np.asarray(head.bias)[0, 0]
    for split in splits:
        queries = _last(features[split])
        if np.isfinite(queries).all():
            predicted = (probe.standardised(queries, moments) @ weights + bias).argmax(axis=1)
            result[f"recovery/head/{split}"] = _percent(predicted == features[split].labels)
    return result


def _few(part: Features, fraction: float, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The last point's features, and the labels, of a random ``fraction`` of every class."""
    draw = rng.generator(0, "recovery", "head", split)
    chosen = np.zeros(len(part.labels), bool)
    for label in np.unique(part.labels):
        members = draw.permutation(np.flatnonzero(part.labels == label))
        chosen[members[: max(1, round(fraction * len(members)))]] = True
    return _last(part)[chosen], part.labels[chosen]


def _last(part: Features) -> np.ndarray:
    return probe.pooled(list(part.points.values())[-1])


def _percent(hits: np.ndarray) -> float:
    return 100.0 * float(np.mean(hits))


def _curve(subject: Subject, labels: Mapping[str, np.ndarray], settings: Any) -> dict[str, float]:
    pool = _evenly(labels["forget_train"], settings.recovery_images)
    # On one device, whatever the model was trained on: the batches are too small to be shared.
    variables = jax.device_put(jax.device_get(subject.variables))
    state = _start(variables["params"])
    curve = {}
    for step in range(settings.recovery_steps + 1):
        if step:
            batch = _batch(subject, labels, pool, step)
            variables, state = _step(subject.network, variables, state, *batch)
        if step in steps_shown(settings.recovery_steps):
            curve[step] = _accuracy(subject, variables, labels, "forget_test")
    result = {f"recovery/steps/{step}": value for step, value in curve.items()}
    result["recovery/area"] = area(list(curve), list(curve.values()))
    if "retain_test" in labels:
        result["recovery/retain_after"] = _accuracy(subject, variables, labels, "retain_test")
    return result


def _evenly(labels: np.ndarray, size: int) -> np.ndarray:
    """Rows of ``size`` random examples, or of all there are, the classes taking turns."""
    order = rng.generator(0, "recovery", "forget_train").permutation(len(labels))
    turns = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = labels[order] == label
        turns[members] = np.arange(members.sum())
    return order[np.argsort(turns, kind="stable")][:size]


def _batch(
    subject: Subject, labels: Mapping[str, np.ndarray], pool: np.ndarray, step: int
) -> tuple[jax.Array, np.ndarray, np.ndarray]:
    """Normalised images [b, h, w, c], labels [b], and weights [b] that sum to one."""
    rows = {"forget_train": pool}
    if "retain_train" in labels:
        count = len(labels["retain_train"])
        draw = rng.generator(0, "recovery", "retain_train", step)
        rows["retain_train"] = draw.choice(count, min(len(pool), count), replace=False)
    total = sum(len(labels[split]) for split in rows)
    images = np.concatenate([subject.images[split][part] for split, part in rows.items()])
    shares = [np.full(len(r), len(labels[s]) / total / len(r)) for s, r in rows.items()]
    return (
        subject.normalized(images),
        np.concatenate([labels[split][part] for split, part in rows.items()]),
        np.float32(np.concatenate(shares)),
    )


_start = jax.jit(_OPTIMIZER.init)


# Networks are equal where they describe the same: all models of a run share one compilation.
# Nothing is donated, since the first variables may be the subject's own.
@functools.partial(jax.jit, static_argnames="network")
def _step(
    network: Network,
    variables: Variables,
    state: Any,
    images: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
) -> tuple[Variables, Any]:
    def loss(params):
        outputs, _ = network.apply(
            {**variables, "params": params}, images, train_backbone=False, train_modules=False
        )
        return jnp.sum(weights * cross_entropy(outputs.logits[network.points[-1]], labels))

    params = variables["params"]
    updates, state = _OPTIMIZER.update(jax.grad(loss)(params), state, params)
    return {**variables, "params": optax.apply_updates(params, updates)}, state


def _accuracy(
    subject: Subject, variables: Variables, labels: Mapping[str, np.ndarray], split: str
) -> float:
    labels, images = labels[split], subject.images[split]
    if len(labels) > LARGEST:
        draw = rng.generator(0, "recovery", split)
        rows = draw.choice(len(labels), LARGEST, replace=False)
        labels, images = labels[rows], images[rows]

    def forward(batch):
        return {}, _logits(subject.network, variables, subject.normalized(batch)), {}

    logits = extract({"it": forward}, images, labels, _BATCH)["it"].logits
    return _percent(np.isfinite(logits).all(axis=1) & (logits.argmax(axis=1) == labels))


@functools.partial(jax.jit, static_argnames="network")
def _logits(network: Network, variables: Variables, images: jax.Array) -> jax.Array:
    return network.activations(variables, images)[1]
