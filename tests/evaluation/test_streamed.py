"""CKA of whole activations as they stream: against NumPy loops over whole kernels."""

import jax.numpy as jnp
import numpy as np
import pytest

from ec_jax import parallel
from ec_jax.evaluation.streamed import StreamedCKA

REFERENCES = ("original", "oracle")


def hsic(k, m):
    """Equation 3 of Nguyen et al., by loops over entries, in float64."""
    n = len(k)
    k, m = k * (1 - np.eye(n)), m * (1 - np.eye(n))
    trace = sum(k[i, j] * m[j, i] for i in range(n) for j in range(n))
    middle = sum(k[:, j].sum() * m[j].sum() for j in range(n))
    return (trace + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * middle) / (n * (n - 3))


def kernel(maps):
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    return flat @ flat.T


def batches(seed, sizes=(7, 7)):
    draw = np.random.default_rng(seed)
    models = ("original", "oracle", "unlearned")
    shapes = {"stage1": (4, 4, 3), "stage2": (2, 2, 5)}
    return [
        {
            m: {p: draw.normal(size=(b, *s)).astype(np.float32) for p, s in shapes.items()}
            for m in models
        }
        for b in sizes
    ]


def stream(parts, valid):
    watch = StreamedCKA(parts[0], REFERENCES, parallel.one_device())
    for maps, count in zip(parts, valid, strict=True):
        watch({m: {p: jnp.asarray(a) for p, a in ps.items()} for m, ps in maps.items()}, count)
    return watch


def test_it_is_the_minibatch_estimate_of_flattened_maps():
    parts = batches(0)
    watch = stream(parts, (7, 7))
    for model in ("original", "oracle", "unlearned"):
        got = watch.result(model, "forget_test")
        assert len(got) == 4
        for key, value in got.items():
            reference, point = key.removeprefix("cka_map_to_").split("/forget_test/")
            pairs = [(kernel(p[model][point]), kernel(p[reference][point])) for p in parts]
            xy, xx, yy = (
                np.mean([hsic(*(pair[i] for i in which)) for pair in pairs])
                for which in ((0, 1), (0, 0), (1, 1))
            )
            assert value == pytest.approx(xy / np.sqrt(xx * yy), abs=1e-5)


def test_padding_does_not_count_and_too_small_a_batch_neither():
    parts = batches(1, (8, 8, 8))
    spoiled = [
        {m: {p: a.copy() for p, a in ps.items()} for m, ps in part.items()} for part in parts
    ]
    for part, valid in zip(spoiled, (8, 5, 3), strict=True):
        for points in part.values():
            for values in points.values():
                values[valid:] = 1e9
    cut = [
        {m: {p: a[:valid] for p, a in ps.items()} for m, ps in part.items()}
        for part, valid in zip(parts, (8, 5), strict=False)
    ]
    got, want = stream(spoiled, (8, 5, 3)), stream(cut, (8, 5))
    for key, value in want.result("unlearned", "s").items():
        assert got.result("unlearned", "s")[key] == pytest.approx(value, abs=1e-5)


def test_nothing_where_no_batch_counted():
    assert stream(batches(2, (3,)), (3,)).result("unlearned", "forget_test") == {}
