"""What a report shows beside the numbers: matrices, predictions, an embedding, the machine."""

import importlib.metadata
import importlib.util
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ec_jax import rng
from ec_jax.evaluation import cka
from ec_jax.evaluation.features import Features
from ec_jax.evaluation.target import forget_split

SCHEMA = 1
PAIRS = (("unlearned", "original"), ("unlearned", "oracle"), ("oracle", "original"))
EMBEDDED = (400, 800)  # images to be forgotten and to be kept that are shown, at most
MATRIX_ROWS = 4096  # images of which a matrix is made, at most
_PACKAGES = (
    "ec_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "scikit-learn",
)


def details(
    features: Mapping[str, Mapping[str, Features]],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Everything of a report that is not one number, ready for JSON.

    Args:
      features: {model: {split: Features}}, of the same examples in the same order.
      class_names: C names.

    Returns:
      ``schema``, ``class_names``, and

      - ``cka_matrix``: {split: {"a/b": [P][P]}}, biased linear CKA of every stage of model a (row)
        with every stage of model b (column).
      - ``predicted_as``: {split: {model: [C]}}, how many of the images are predicted as a class.
      - ``embedding``: ``method`` (UMAP or PCA), ``point``, ``label`` [n], ``forget`` [n] and
        ``models``: {model: [n][2]}, the pooled features of the same n test images.
      - ``environment``: versions and devices.

      What has no images, or is of a model whose features are not finite, is left out.
    """
    shown = _shown(next(iter(features.values())))
    features = {name: splits for name, splits in features.items() if _finite(splits, shown)}
    return {
        "schema": SCHEMA,
        "class_names": list(class_names),
        "cka_matrix": {s: found for s in shown if (found := _matrices(features, s))},
        "predicted_as": {s: found for s in shown if (found := _predicted(features, s))},
        "embedding": _embedding(features, shown) if features else {},
        "environment": environment(),
    }


def environment() -> dict[str, Any]:
    """Python, platform, devices and package versions."""
    kinds = [d.device_kind for d in jax.devices()]
    found = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "devices": ", ".join(f"{kinds.count(k)} x {k}" for k in dict.fromkeys(kinds)),
        "packages": {name: found[name] for name in _PACKAGES if name in found},
    }


def _shown(splits: Mapping[str, Features]) -> tuple[str, str]:
    """The split on which forgetting is judged, and the retained test images."""
    having = (f"accuracy/{split}" for split, part in splits.items() if len(part.labels))
    return forget_split(having), "retain_test"


def _finite(splits: Mapping[str, Features], shown: Sequence[str]) -> bool:
    return all(
        np.isfinite(values).all()
        for split in shown
        for values in (splits[split].logits, *splits[split].points.values())
    )


def _images(features: Mapping[str, Mapping[str, Features]], split: str) -> int:
    return len(next(iter(features.values()))[split].labels)


def _matrices(features: Mapping[str, Mapping[str, Features]], split: str) -> dict[str, list]:
    if not _images(features, split):
        return {}
    return {
        f"{a}/{b}": np.asarray(
            cka.cka_matrix(*(_stages(features[model][split]) for model in (a, b)))
        ).tolist()
        for a, b in PAIRS
        if a in features and b in features
    }


def _stages(part: Features) -> tuple[np.ndarray, ...]:
    return tuple(values[:MATRIX_ROWS] for values in part.points.values())


def _predicted(features: Mapping[str, Mapping[str, Features]], split: str) -> dict[str, list]:
    if not _images(features, split):
        return {}
    counts = {}
    for model, splits in features.items():
        logits = splits[split].logits
        counts[model] = np.bincount(logits.argmax(axis=-1), minlength=logits.shape[-1]).tolist()
    return counts


def _embedding(
    features: Mapping[str, Mapping[str, Features]], shown: Sequence[str]
) -> dict[str, Any]:
    first = next(iter(features.values()))
    rows = {
        split: np.sort(
            rng.generator(0, "embedding", split).permutation(len(first[split].labels))[:most]
        )
        for split, most in zip(shown, EMBEDDED, strict=True)
    }
    label = np.concatenate([first[split].labels[r] for split, r in rows.items()])
    if len(label) < 3:  # no plane to speak of
        return {}
    point = tuple(first[shown[0]].points)[-1]
    method = "UMAP" if importlib.util.find_spec("umap") and len(label) > _NEIGHBORS else "PCA"
    place = _umap if method == "UMAP" else _pca
    models = {
        name: place(np.concatenate([splits[s].points[point][r] for s, r in rows.items()]))
        for name, splits in features.items()
    }
    return {
        "method": method,
        "point": point,
        "label": label.tolist(),
        "forget": [split.startswith("forget") for split, r in rows.items() for _ in r],
        "models": {name: np.round(xy, 4).tolist() for name, xy in models.items()},
    }


_NEIGHBORS = 15


def _pca(values: np.ndarray) -> np.ndarray:
    from sklearn.decomposition import PCA  # takes a second to import

    found = np.zeros((len(values), 2))
    count = min(2, values.shape[1])
    centred = values.astype(np.float64) - values.mean(axis=0, dtype=np.float64)
    if centred.any():  # else all are one point, of which PCA divides by zero
        found[:, :count] = PCA(count, svd_solver="full").fit_transform(centred)
    return found


def _umap(values: np.ndarray) -> np.ndarray:
    import umap  # an extra; compiles for seconds

    return umap.UMAP(n_neighbors=_NEIGHBORS, random_state=0, n_jobs=1).fit_transform(values)
