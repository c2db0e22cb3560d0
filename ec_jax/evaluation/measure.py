"""Models measured: one pass over the images, then every metric and what a report shows."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ec_jax import parallel, processes
from ec_jax.data import augment
from ec_jax.evaluation import details, suite, transfer
from ec_jax.evaluation.features import Features, Forward, Subject, extract
from ec_jax.evaluation.streamed import StreamedCKA
from ec_jax.models.modules import spatial_mean
from ec_jax.models.network import Variables
from ec_jax.scenario import Scenario


def measure(
    scenario: Scenario,
    models: Mapping[str, Variables],
    may_break: Collection[str] = (),
    known: Mapping[str, Mapping[str, float]] | None = None,
    seen: Mapping[str, Mapping[str, Features]] | None = None,
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Everything that is known of the models.

    Args:
      scenario: on what they are measured.
      models: {"original", "unlearned" and, where there is one, "oracle": the backbone's
        {"params", "batch_stats"}}.
      may_break: models whose numbers need not be finite.
      known: {model: its numbers}, of models that were measured before, against the same references.
      seen: {model: its ``features``}, of models that have been run over the images before.

    Returns:
      {model: {flat key: number}}, and the details of ``ec_jax.evaluation.details``.

    Raises:
      TrainingError: a number of another model is not finite.
    """
    taken, streamed = _features(scenario, models, seen or {})
    unknown = {name: tree for name, tree in models.items() if name not in (known or {})}
    given = subjects(scenario, models)
    numbers = suite.evaluate(
        taken, scenario.config, given, may_break, known, told=True, mesh=scenario.mesh
    )
    for name, values in (*streamed.items(), *_transferred(scenario, unknown).items()):
        numbers[name] |= values
    suite.refuse_nan(numbers, may_break)
    return numbers, details.details(taken, scenario.class_names)


def features(scenario: Scenario, models: Mapping[str, Variables]) -> dict[str, dict[str, Features]]:
    """{model: {split: Features}}, for ``measure``; {} where it needs whole activations."""
    return {} if compares_maps(scenario) else _features(scenario, models, {})[0]


def _features(
    scenario: Scenario,
    models: Mapping[str, Variables],
    seen: Mapping[str, Mapping[str, Features]],
) -> tuple[dict[str, dict[str, Features]], dict[str, dict[str, float]]]:
    """{model: {split: Features}}, and what was computed of whole activations on the way."""
    forwards = _forwards(scenario, {n: tree for n, tree in models.items() if n not in seen})
    found = {name: dict(seen.get(name, {})) for name in models}
    streamed: dict[str, dict[str, float]] = {name: {} for name in models}
    for split, rows in scenario.measured.items():
        images, labels = scenario.data.images_and_labels(split, rows)
        watch = None
        if compares_maps(scenario):
            watch = StreamedCKA(models, suite.REFERENCES, scenario.mesh)
        batch, title = batch_size(scenario), f"evaluate: {split}"
        parts = extract(forwards, images, labels, batch, title, watch, parallel.part())
        for name, part in parts.items():
            found[name][split] = part
            streamed[name] |= watch.result(name, split) if watch else {}
    return found, streamed


def _forwards(scenario: Scenario, models: Mapping[str, Variables]) -> dict[str, Forward]:
    mesh, forward = scenario.mesh, make_forward(scenario)
    return {
        name: _bound(forward, parallel.replicate(as_network(tree), mesh), mesh)
        for name, tree in models.items()
    }


def batch_size(scenario: Scenario) -> int:
    """Images of a forward pass, on all devices."""
    # Padded anyway: any number of devices can share it.
    return math.ceil(scenario.config.data.eval_batch_size / scenario.mesh.size) * scenario.mesh.size


def _transferred(
    scenario: Scenario, models: Mapping[str, Variables]
) -> dict[str, dict[str, float]]:
    if not scenario.transfer:
        return {}
    forwards, neighbors = _forwards(scenario, models), scenario.config.evaluation.neighbors
    sets, batch = scenario.transfer, batch_size(scenario)
    return transfer.measure(forwards, sets, batch, neighbors, scenario.mesh)


def compares_maps(scenario: Scenario) -> bool:
    """Whole activations are compared, as they come."""
    chosen = suite.chosen(scenario.config.evaluation.metrics)
    return scenario.config.evaluation.features == "map" and "cka" in chosen


def as_network(tree: Variables) -> Variables:
    """The variables of a network without modules, of its backbone's."""
    return {collection: {"backbone": part} for collection, part in tree.items()}


def _bound(forward: Any, variables: Variables, mesh: jax.sharding.Mesh) -> Any:
    def bound(images: Any) -> Any:
        *kept, maps = forward(variables, parallel.shard(images, mesh))
        return (*(kept if processes.alone() else parallel.own_part(kept)), maps)

    return bound


def make_forward(scenario: Scenario) -> Any:
    """``(variables, uint8 images) -> (pooled features, logits, maps)``, compiled once.

    The results stay cut over the devices as the images are.
    """
    network, (mean, std) = scenario.network(modules=False), scenario.moments

    def forward(variables, images):
        points, logits = network.activations(variables, augment.normalize(images, mean, std))
        maps = {p: a.astype(jnp.float32) for p, a in points.items()}
        return (
            {p: spatial_mean(a) for p, a in maps.items()},
            logits,
            maps if compares_maps(scenario) else {},
        )

    return parallel.cut_result(forward, scenario.mesh)


def subjects(scenario: Scenario, models: Mapping[str, Variables]) -> dict[str, Subject]:
    """{model: what metrics that train it further are given}, of models as for ``measure``."""
    images = {
        split: scenario.data.images_and_labels(split, rows)[0]
        for split, rows in scenario.measured.items()
    }
    # On one device: they are trained further by programs of one device.
    device = parallel.own_device(scenario.mesh)
    return {
        name: Subject(
            scenario.network(modules=False),
            jax.device_put(as_network(tree), device),
            images,
            *scenario.moments,
        )
        for name, tree in models.items()
    }
