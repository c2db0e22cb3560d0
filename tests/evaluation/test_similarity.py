import types

import numpy as np
import pytest
from cka_loops import hsic0, hsic1, reference, streaming_reference

from ec_jax import parallel, rng
from ec_jax.evaluation import similarity
from ec_jax.evaluation.features import Context, Features


def _context(references, batch_size=16, mesh=None):
    evaluation = types.SimpleNamespace(cka_batch_size=batch_size)
    return Context(types.SimpleNamespace(evaluation=evaluation), references, mesh=mesh)


def _features(seed, n, classes=3):
    # Ordered by class, as sets on disk often are.
    labels = np.arange(n, dtype=np.int32) * classes // max(n, 1)
    means = np.random.default_rng(0).normal(size=(classes, 5)) * 3
    generator = np.random.default_rng(seed + 1)
    values = (means[labels] + generator.normal(size=(n, 5))).astype(np.float32)
    maps = generator.normal(size=(n, 2, 2, 3)).astype(np.float32)
    return Features({"stage1": maps, "stage2": values}, np.zeros((n, classes), np.float32), labels)


def test_run_compares_every_point_with_every_reference():
    own = {"forget_test": _features(0, 40), "retain_test": _features(1, 20)}
    oracle = {"forget_test": _features(2, 40), "retain_test": _features(3, 20)}
    got = similarity.run(own, _context({"original": own, "oracle": oracle}))
    assert len(got) == 2 * 2 * 2 * 2
    assert all(type(v) is float for v in got.values())
    for split, part in own.items():
        for point, values in part.points.items():
            for key in (f"cka_to_original/{split}", f"cka_unbiased_to_original/{split}"):
                assert got[f"{key}/{point}"] == pytest.approx(1, abs=1e-5)
            want = reference(values, oracle[split].points[point], hsic0)
            assert got[f"cka_to_oracle/{split}/{point}"] == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_run_mixes_the_classes_and_pads_unequal_minibatches(devices):
    own, other = ({"s": _features(i, 32)} for i in (0, 2))
    got = similarity.run(own, _context({"oracle": other}, 12, parallel.make_mesh(devices)))
    x, y = (features["s"].points["stage2"] for features in (own, other))

    def batches(order):
        return [((x[p],), (y[p],)) for p in (order[:11], order[11:22], order[22:])]

    want = streaming_reference(batches(rng.generator(0, "cka").permutation(32)))[0, 0]
    assert got["cka_unbiased_to_oracle/s/stage2"] == pytest.approx(want, abs=1e-5)
    assert want == pytest.approx(reference(x, y, hsic1), abs=0.1)
    assert streaming_reference(batches(np.arange(32)))[0, 0] < want - 0.2


def test_run_of_small_and_empty_splits():
    own = {"empty": _features(0, 0), "three": _features(0, 3)}
    got = similarity.run(own, _context({"original": own}))
    assert sorted(got) == ["cka_to_original/three/stage1", "cka_to_original/three/stage2"]
    assert similarity.run(own, _context({})) == {}


def test_run_refuses_references_of_other_examples():
    with pytest.raises(ValueError, match="the same inputs are needed"):
        similarity.run({"s": _features(0, 8)}, _context({"oracle": {"s": _features(0, 9)}}))


@pytest.mark.parametrize("devices", [3, 8])
@pytest.mark.parametrize("n", [3, 10, 41])
def test_rows_cut_over_devices_give_the_same(devices, n):
    own, other, scaled = (_features(i, n) for i in (0, 2, 5))
    scaled.points["stage2"] *= np.float32(1e12)  # minibatches of different units
    scaled.points["stage2"][: n // 2] *= np.float32(1e-6)
    references = {"oracle": {"s": other}, "original": {"s": scaled}}
    want = similarity.run({"s": own}, _context(references, 8))
    got = similarity.run({"s": own}, _context(references, 8, parallel.make_mesh(devices)))
    assert got == pytest.approx(want, abs=1e-5)
