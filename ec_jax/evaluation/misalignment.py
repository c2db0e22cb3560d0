"""Misalignment: what the features still know of the forgotten classes and the head does not say."""

from collections.abc import Mapping, Sequence

import numpy as np

from ec_jax.evaluation import probe
from ec_jax.evaluation.features import Context, Features

_MEAN = "misalignment/nearest_mean"


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
    """``misalignment/nearest_mean_SPLIT``: accuracy of the nearest class mean on the last point.

    By Euclidean distance; the means are those of both training splits with their true labels.

    Args:
      features: {split: Features} of the measured model; maps are averaged over space first.
      context: not used.

    Returns:
      {key: percent in [0, 100]}; NaN where the last point's features are not finite. Splits
      without examples are left out; nothing without training examples.
    """
    del context
    parts = [features[s] for s in probe.TRAINING if s in features and len(features[s].labels)]
    splits = [s for s in probe.TESTS if s in features and len(features[s].labels)]
    if not splits or not parts:
        return {}
    last = list(features[splits[0]].points)[-1]
    bank = np.concatenate([probe.pooled(part.points[last]) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    return {f"{_MEAN}_{split}": _percent(features[split], last, bank, labels) for split in splits}


def derive(
    values: Mapping[str, float],
    references: Mapping[str, Mapping[str, float]],
    points: Sequence[str],
) -> dict[str, float]:
    """What a reading of the last features knows of ``forget_test`` and the head does not say.

        misalignment/head_to_mean  = nearest-mean accuracy − head accuracy
        misalignment/head_to_probe = linear probe accuracy − head accuracy

    Near zero, the head says what the features hold; near +100, forgetting took place in the
    head alone. The oracle's are high, too: its head never learned the classes.

    Args:
      values: the flat keys of the measured model, of ``accuracy`` and ``probe`` among them.
      references: not used.
      points: the supervision points, first to last, at least one.

    Returns:
      {key: points in [−100, 100]}; NaN where an input is NaN; a key whose inputs are missing is
      left out.

    Source:
      arXiv 2604.08271.

    >>> values = {"accuracy/forget_test": 0.0, "probe/forget_test/stage1": 90.0}
    >>> derive(values, {}, ["stage1"])
    {'misalignment/head_to_probe': 90.0}
    """
    del references
    said = values.get("accuracy/forget_test")
    known = {
        "mean": values.get(f"{_MEAN}_forget_test"),
        "probe": values.get(f"probe/forget_test/{points[-1]}"),
    }
    return {
        f"misalignment/head_to_{name}": value - said
        for name, value in known.items()
        if None not in (value, said)
    }


def _percent(queried: Features, point: str, bank: np.ndarray, bank_labels: np.ndarray) -> float:
    queries = probe.pooled(queried.points[point])
    if not np.isfinite(queries).all() or not np.isfinite(bank).all():
        return float("nan")
    predicted = nearest_mean_predict(queries, bank, bank_labels, queried.logits.shape[-1])
    return 100.0 * float(np.mean(predicted == queried.labels))
