"""A run for the tests of reports: measured numbers, and details made up around them."""

import json

import numpy as np
from command import ROOT


def metrics(name="digits"):
    """The numbers of a run, kept for the tests: what is published changes with the recipes."""
    return json.loads((ROOT / "tests" / "data" / f"{name}_run.json").read_text())


def details(names=tuple("0123456789"), forgotten=(3,), points=4):
    """What evaluation leaves beside the numbers; ``names`` are the classes'."""
    random = np.random.default_rng(0)
    forgotten, classes = list(forgotten), len(names)
    labels = np.arange(36 * classes) % classes
    forget = np.isin(labels, forgotten)
    pairs = {"unlearned/original": 0.2, "unlearned/oracle": 0.3, "oracle/original": 0.3}
    return {
        "schema": 1,
        "class_names": list(names),
        "cka_matrix": {
            "forget_test": {pair: _matrix(points, last) for pair, last in pairs.items()},
            "retain_test": {pair: _matrix(points, 0.9) for pair in pairs},
        },
        "predicted_as": {
            "forget_test": {
                "original": [36 * int(c in forgotten) for c in range(classes)],
                "oracle": _counts(random, classes, forgotten),
                "unlearned": _counts(random, classes, forgotten),
            }
        },
        "embedding": {
            "method": "UMAP",
            "point": f"stage{points}",
            "label": labels.tolist(),
            "forget": forget.tolist(),
            "models": {
                "original": _cloud(random, labels, labels),
                "oracle": _cloud(
                    random, labels, np.where(forget, random.integers(classes), labels)
                ),
                "unlearned": _cloud(random, labels, np.where(forget, labels + 0.7, labels)),
            },
        },
        "environment": {
            "python": "3.11.7",
            "platform": "Linux-6.1-x86_64",
            "devices": "2 x cpu",
            "packages": {"jax": "0.10.2", "flax": "0.12.8"},
        },
        "command": "python -m ec_jax.main --config=configs/digits.py --workdir=runs/digits",
    }


def _matrix(points, last):
    """Similarity that falls with the distance of stages and towards the last one."""
    stage = np.arange(points)
    diagonal = np.interp(stage, [0, points - 1], [0.95, last])
    away = np.abs(stage[:, None] - stage)
    return (np.sqrt(np.outer(diagonal, diagonal)) * 0.8**away).tolist()


def _counts(random, classes, forgotten):
    counts = random.multinomial(36, random.dirichlet(np.full(classes, 0.4)))
    counts[forgotten] = 0
    return counts.tolist()


def _cloud(random, labels, places):
    angles = 2 * np.pi * places / (labels.max() + 1)
    centres = 8 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return (centres + random.normal(size=(len(labels), 2))).round(3).tolist()
