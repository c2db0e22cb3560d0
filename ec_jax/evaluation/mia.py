"""Membership inference attack (MIA): does the model still treat the forget set as trained on?"""

from collections.abc import Mapping

import numpy as np

from ec_jax import rng
from ec_jax.evaluation.features import Context, Features

LARGEST = 5000  # members, and non-members: an SVM's cost grows with the square of them
_SPLITS = ("forget_train", "retain_train", "retain_test")


def true_class_probability(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """p_i = softmax(logits_i)[y_i] = exp(z_iy − max_c z_ic) / Σ_c exp(z_ic − max_c z_ic).

    Args:
      logits: float [n, C], finite; n may be 0.
      labels: integer [n], in [0, C).

    Returns:
      float64 [n], in [0, 1].

    >>> true_class_probability(np.array([[0.0, 0.0], [0.0, 2000.0]]), np.array([0, 1])).tolist()
    [0.5, 1.0]
    """
    logits = np.asarray(logits, np.float64)
    # The largest is taken off first: exp() of a logit of 1,000 would overflow.
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers[np.arange(len(labels)), labels] / powers.sum(axis=-1)


def called_non_members(
    members: np.ndarray, non_members: np.ndarray, queries: np.ndarray
) -> np.ndarray:
    """Which queries a support vector classifier takes for examples not trained on.

    SVC(C = 3, kernel exp(−γ (p − p')²), γ = 1 = 1 / number of inputs) on one number an example.
    Where members and non-members have the same numbers it has nothing to go by, and its answer
    means nothing.

    Args:
      members: float [m], of examples that the model was trained on, m >= 1.
      non_members: float [k], of examples that it was not trained on, k >= 1.
      queries: float [q]; q may be 0.

    Returns:
      bool [q].

    Source: the code of SalUn, arXiv 2310.12508 (its "SVC_MIA", on the confidence).

    >>> called_non_members(np.full(9, 1.0), np.full(9, 0.2), np.array([0.1, 0.9])).tolist()
    [True, False]
    """
    from sklearn.svm import SVC  # takes a second to import, which a run without MIA does not need

    if not len(queries):
        return np.zeros(0, bool)
    inputs = np.concatenate([members, non_members])[:, None]
    is_member = np.concatenate([np.ones(len(members), int), np.zeros(len(non_members), int)])
    attack = SVC(C=3, kernel="rbf", gamma="auto").fit(inputs, is_member)
    return attack.predict(np.asarray(queries)[:, None]) == 0


def run(features: Mapping[str, Features], context: Context) -> dict[str, float]:
    """``mia/forget_train``: share of the forget set taken for never trained on, in percent.

    The attack learns from the probability of the true class to tell m retained training
    examples from m retained test examples, m the smaller set's size and at most 5,000; then it
    is asked about every example of ``forget_train``. Both are drawn at random, always the same
    ones: the sets are ordered by class, so that the first m would be a few classes only.

    Compare it with the oracle's value, which need not be 100: the test examples of the retained
    classes are predicted far better than a class never seen, and an attack that cannot tell
    members from non-members gives any value.

    Args:
      features: {split: Features} of the measured model; their logits are used.
      context: not used.

    Returns:
      {key: percent in [0, 100]}; NaN where a logit is not finite. No key where one of
      ``forget_train``, ``retain_train``, ``retain_test`` is missing or has no examples.

    Source: the code of SalUn, arXiv 2310.12508; there the members are the first m.
    """
    del context
    if not all(split in features and len(features[split].labels) for split in _SPLITS):
        return {}
    parts = [features[split] for split in _SPLITS]
    if not all(np.isfinite(part.logits).all() for part in parts):
        return {"mia/forget_train": float("nan")}
    forget, members, others = (true_class_probability(p.logits, p.labels) for p in parts)
    size = min(len(members), len(others), LARGEST)
    draw = rng.generator(0, "mia")
    # Members first: that draw, from the training set, is the definition's own.
    members = draw.choice(members, size, replace=False)
    others = draw.choice(others, size, replace=False)
    return {"mia/forget_train": 100.0 * float(called_non_members(members, others, forget).mean())}
