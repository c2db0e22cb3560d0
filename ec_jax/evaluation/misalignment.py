"""Misalignment: what the features still know of the forgotten classes and the head does not say."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from ec_jax.evaluation import accuracy, probe
from ec_jax.evaluation.features import Context, Features


def nearest_mean_predict(
    queries: np.ndarray, bank: np.ndarray, bank_labels: np.ndarray, num_classes: int
) -> np.ndarray:
    """Class whose mean is nearest: argmin_c ‖x − μ_c‖, μ_c the mean of the bank's class c.

    Classes absent from the bank have no mean and are never predicted. Of equally near means
    the smallest class wins. Computed in float64.

    Args:
      queries: float [q, d]; q may be 0.
      bank: float [b, d], b ≥ 1.
      bank_labels: integer [b], in [0, num_classes).
      num_classes: C.

    Returns:
      int32 [q].

    Raises:
      ValueError: the bank is empty.

    >>> bank = np.array([[0.0], [2.0], [9.0]])
    >>> nearest_mean_predict(np.array([[4.0], [6.0]]), bank, np.array([0, 0, 2]), 3).tolist()
    [0, 2]
    """
    if not len(bank):
        raise ValueError("the mean of a class needs at least one training example")
    bank, queries = np.asarray(bank, np.float64), np.asarray(queries, np.float64)
    members = np.eye(num_classes)[bank_labels]
    counts = members.sum(axis=0)
    # Distances from the centre of the bank: a common offset would cancel digits.
    centre = bank.mean(axis=0)
    means = members.T @ (bank - centre) / np.maximum(counts, 1)[:, None]
    # ‖x‖² is the same for all classes.
    squares = (means**2).sum(axis=1) - 2 * (queries - centre) @ means.T
    return np.where(counts > 0, squares, np.inf).argmin(axis=1).astype(np.int32)


def run(features: Mapping[str, Features], context: Context) -> dict[str, float]:
    """Nearest class mean on the last point, and its distance, and the probe's, to the head.

    ``misalignment/nearest_mean_SPLIT``: accuracy in percent of the nearest class mean, by
    Euclidean distance; the means are those of both training splits with their true labels.
    ``misalignment/head_to_mean`` = nearest-mean accuracy − head accuracy on ``forget_test``,
    ``misalignment/head_to_probe`` = linear probe accuracy − head accuracy, in points. Near zero,
    the head says what the features hold; near +100, forgetting took place in the head alone.

    Args:
      features: {split: Features} of the measured model; maps are averaged over space first.
      context: passed on to the accuracy and the probe.

    Returns:
      {key: percent in [0, 100], or points in [−100, 100]}; NaN where the last point's features,
      or for the differences the logits, are not finite. Splits without examples are left out,
      and without ``forget_test`` both differences; nothing without training examples.

    Source:
      arXiv 2604.08271.
    """
    parts = [features[s] for s in probe.TRAINING if s in features and len(features[s].labels)]
    splits = [s for s in probe.TESTS if s in features and len(features[s].labels)]
    if not splits or not parts:
        return {}
    last = list(features[splits[0]].points)[-1]
    bank = np.concatenate([probe.pooled(part.points[last]) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    result = {
        f"misalignment/nearest_mean_{split}": _percent(features[split], last, bank, labels)
        for split in splits
    }
    if "forget_test" in splits:
        head = accuracy.run({"forget_test": features["forget_test"]}, context)
        probed = probe.run(_only(features, last), context)
        said = head["accuracy/forget_test"]
        mean = result["misalignment/nearest_mean_forget_test"]
        result["misalignment/head_to_mean"] = mean - said
        result["misalignment/head_to_probe"] = probed[f"probe/forget_test/{last}"] - said
    return result


def _only(features: Mapping[str, Features], point: str) -> dict[str, Features]:
    return {
        split: dataclasses.replace(part, points={point: part.points[point]})
        for split, part in features.items()
        if split != "retain_test"
    }


def _percent(queried: Features, point: str, bank: np.ndarray, bank_labels: np.ndarray) -> float:
    queries = probe.pooled(queried.points[point])
    if not np.isfinite(queries).all() or not np.isfinite(bank).all():
        return float("nan")
    predicted = nearest_mean_predict(queries, bank, bank_labels, queried.logits.shape[-1])
    return 100.0 * float(np.mean(predicted == queried.labels))
