"""DAMP: at every stage, what sets the forgotten class apart is hidden from the next operator.

    u_l ∝ p_l − m_l,   m_l = the mixture of the retain classes' prototypes nearest to p_l
    W ← W − s_l u_l u_lᵀ W along the input channels,   s_l = s · l / L

A prototype is the mean, over images, of a stage's spatial mean; p_l is the forgotten class's and
l counts the L stages. W are the kernels that read the stage: the first convolution and the
shortcut of the next block, at the last stage the head. With several forgotten classes the
directions u span a space and that is projected out. No step is trained.

Source: DAMP, arXiv 2604.15166: residuals of prototypes, projected out stage by stage, by depth.
Differs from the published code: written from the idea, not compared with code. The mixture is
convex, since more prototypes than channels span everything; the scaling is linear in depth;
and all prototypes are the original's, none is taken again after an earlier edit. Where samples are
forgotten, the forget set is one class; little may then set it apart.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from scipy.optimize import nnls

from ec_jax.methods import Context, Method, chosen
from ec_jax.methods._prototypes import class_means
from ec_jax.models import resnet

SETTINGS = {"strength": (1.0, "[0, 1]", "s, the share taken at the last stage")}
SEARCH = [
    {"damp.strength": 0.1},
    {"damp.strength": 0.25},
    {"damp.strength": 0.5},
    {"damp.strength": 0.75},
    {"damp.strength": 0.9},
    {"damp.strength": 1.0},
]
_IMAGES = 500  # a batch of the pass that finds the prototypes
_SMALLEST = 1e-5  # residuals below this share of the prototype are rounding


def residual(prototype: np.ndarray, others: np.ndarray) -> np.ndarray:
    """What of a prototype no mixture of others explains.

    Args:
      prototype: float64 [d].
      others: float64 [K, d], K >= 1.

    Returns:
      float64 [d]: the prototype less the nearest point of the others' convex hull.
    """
    # A heavy row of ones makes the non-negative weights sum to one.
    heavy = 1e4 * max(np.abs(others).max(), np.abs(prototype).max(), 1e-12)
    rows = np.vstack([others.T, np.full((1, len(others)), heavy)])
    weights, _ = nnls(rows, np.append(prototype, heavy))
    return prototype - weights @ others / weights.sum()


def directions(prototypes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Orthonormal rows [k, d] that span the residuals of prototypes [n, d]; k may be 0."""
    units = []
    for prototype in prototypes:
        rest = residual(prototype, others)
        if (length := np.linalg.norm(rest)) > _SMALLEST * np.linalg.norm(prototype):
            units.append(rest / length)
    if not units:
        return np.zeros((0, prototypes.shape[1]))
    _, singular, rows = np.linalg.svd(np.stack(units), full_matrices=False)
    return rows[singular > _SMALLEST * singular.max()]


@dataclasses.dataclass(frozen=True)
class Damp(Method):
    """DAMP with the strength s."""

    strength: float
    closed_form = True

    def edit(self, context: Context) -> dict:
        """The original with the kernels after every stage projected; all else stays."""
        points = context.network.points
        forget, retain = (
            self.prototypes(context, f"{name}_train") for name in ("forget", "retain")
        )
        kernels = traverse_util.flatten_dict(context.original["params"])
        for i, point in enumerate(points):
            rows = directions(forget[point], retain[point])
            share = self.strength * (i + 1) / len(points)
            for path in resnet.readers(context.network.backbone.depth, point):
                kernel = np.asarray(kernels[path], np.float64)
                seen = np.einsum("kd,...do->...ko", rows, kernel)
                taken = np.einsum("kd,...ko->...do", rows, seen)
                kernels[path] = jnp.asarray(kernel - share * taken, jnp.float32)
        return {**context.original, "params": traverse_util.unflatten_dict(kernels)}

    def prototypes(self, context: Context, split: str) -> dict[str, np.ndarray]:
        """{point: float64 [n, d]}, a row for each class in the split.

        Where samples are forgotten, the forget set is one class.
        """

        @jax.jit
        def means(tree, images):
            variables = {collection: {"backbone": part} for collection, part in tree.items()}
            maps, _ = context.network.activations(variables, images)
            gap = [jnp.mean(maps[p].astype(jnp.float32), axis=(1, 2)) for p in points]
            return jnp.concatenate(gap, axis=1)

        points = context.network.points
        whole = split == "forget_train" and not context.forget_classes

        def batches():
            for images, labels in context.batches(split, _IMAGES):
                values = means(context.original, images)
                yield values, np.zeros_like(labels) if whole else labels

        found, counts = class_means(batches(), context.num_classes)
        edges = np.cumsum(context.network.backbone.widths)[:-1]
        return dict(zip(points, np.split(found[counts > 0], edges, axis=1), strict=True))


def build(config: Any, points: Sequence[str]) -> Damp:
    """DAMP with the config's strength."""
    del points
    return Damp(chosen(config).strength)
