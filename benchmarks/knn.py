"""k nearest neighbours by cosine."""

from typing import Any

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from benchmarks import data, timing
from ec_jax.evaluation.knn import knn_predict

NEIGHBORS = 5
CLASSES = 10
# Rounding may swap neighbours that are nearly equally near; nothing else may differ.
ALLOWED = 1e-3


def scikit_learn(smoke: bool) -> dict[str, Any]:
    """``knn_predict`` against scikit-learn's exact search; ``difference``: share of queries."""
    count, width, pairs = (60, 8, 2) if smoke else (10_000, 512, 11)
    bank, labels = data.labelled(0, count, width, CLASSES)
    queries, _ = data.labelled(1, count, width, CLASSES)

    def other() -> np.ndarray:
        peer = KNeighborsClassifier(NEIGHBORS, algorithm="brute", metric="cosine")
        return peer.fit(bank, labels).predict(queries)

    times = timing.compare(
        lambda: knn_predict(queries, bank, labels, NEIGHBORS, CLASSES),
        other,
        pairs=pairs,
        difference=lambda a, b: float(np.mean(a != b)),
        allowed=ALLOWED,
    )
    return {
        "what": f"k-NN of {count} queries, bank [{count}, {width}], k = {NEIGHBORS}, cosine",
        "against": "scikit-learn, brute force",
        **times,
    }
