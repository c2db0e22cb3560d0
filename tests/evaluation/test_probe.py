import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from ec_jax import parallel
from ec_jax.evaluation import probe
from ec_jax.evaluation.features import Context, Features
from ec_jax.evaluation.probe import L2_GRID, fit_probes, held_out

ALONE = Context(None, {})


def _planted(n, d, num_classes, seed, signal=1.0):
    """Standardised features around one random centre a class."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(n) % num_classes)
    values = signal * generator.normal(size=(num_classes, d))[labels]
    values = values + generator.normal(size=(n, d))
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    return values.astype(np.float32), labels.astype(np.int32)


def _objective(weights, bias, features, labels, l2):
    scores = features.astype(np.float64) @ weights + bias
    scores = scores - scores.max(axis=1, keepdims=True)
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return -logs[np.arange(len(labels)), labels].mean() + 0.5 * l2 * (weights**2).sum()


def _head(probes, stage=0, strength=0):
    weights = np.asarray(probes.weights, np.float64)[stage, strength]
    return weights, np.asarray(probes.bias, np.float64)[stage, strength]


@pytest.mark.parametrize("l2", [1.0, 1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize(("n", "d", "num_classes"), [(60, 5, 3), (40, 90, 4), (300, 20, 10)])
def test_agrees_with_scikit_learn(n, d, num_classes, l2):
    features, labels = _planted(n, d, num_classes, seed=n)
    probes = fit_probes(features[None], labels, num_classes, np.array([[l2]]))
    assert probes.weights.dtype == probes.bias.dtype == np.float32
    assert bool(probes.converged.all())
    weights, bias = _head(probes)
    peer = LogisticRegression(C=1 / (l2 * n), tol=1e-9, max_iter=100_000)
    peer.fit(features.astype(np.float64), labels)
    loss = _objective(weights, bias, features, labels, l2)
    best = _objective(peer.coef_.T, peer.intercept_, features, labels, l2)
    assert abs(loss - best) < 2e-6
    # A gradient of 1e-5 leaves W within 1e-5 / l2 of the optimum.
    np.testing.assert_allclose(weights, peer.coef_.T, atol=max(1e-3, 1e-5 / l2))
    if l2 >= 1e-2:
        centred = peer.intercept_ - peer.intercept_.mean()
        np.testing.assert_allclose(bias - bias.mean(), centred, atol=1e-3)
    fresh = np.random.default_rng(1).normal(size=(2000, d))
    same = np.argmax(fresh @ weights + bias, axis=1) == peer.predict(fresh)
    assert same.mean() >= 0.998


def test_features_need_not_be_centred():
    features, labels = _planted(60, 5, 3, 0)
    shifted = features + np.float32(2.0)
    weights, bias = _head(fit_probes(shifted[None], labels, 3, np.array([[1e-1]])))
    peer = LogisticRegression(C=10 / 60, tol=1e-9, max_iter=100_000)
    peer.fit(shifted.astype(np.float64), labels)
    np.testing.assert_allclose(weights, peer.coef_.T, atol=1e-3)
    centred = peer.intercept_ - peer.intercept_.mean()
    np.testing.assert_allclose(bias - bias.mean(), centred, atol=1e-3)


def test_all_at_once_is_one_by_one():
    stages = [_planted(80, 6, 4, seed)[0] for seed in range(3)]
    labels = _planted(80, 6, 4, 0)[1]
    grid = np.array([[1.0, 1e-2], [1e-1, 1e-3], [1e-2, 1e-1]])
    together = fit_probes(np.stack(stages), labels, 4, grid)
    for i, stage in enumerate(stages):
        for j in range(2):
            alone = fit_probes(stage[None], labels, 4, grid[i : i + 1, j : j + 1])
            for a, b in zip(_head(together, i, j), _head(alone), strict=True):
                np.testing.assert_allclose(a, b, atol=2e-5 / grid[i, j], rtol=0)
            assert bool(alone.converged.all())
            assert bool(together.converged[i, j])


def test_padding_changes_nothing():
    features, labels = _planted(90, 7, 3, 0)
    padded = np.pad(features, ((0, 0), (0, 30)))
    l2 = np.array([[1e-1, 1e-3]])
    plain = fit_probes(features[None], labels, 3, l2)
    wide = fit_probes(padded[None], labels, 3, l2)
    np.testing.assert_allclose(wide.weights[:, :, :7], plain.weights, atol=1e-3)
    np.testing.assert_allclose(wide.weights[:, :, 7:], 0.0, atol=1e-6)
    np.testing.assert_allclose(wide.bias, plain.bias, atol=1e-3)


def test_only_included_examples_count():
    features, labels = _planted(100, 5, 3, 0)
    included = np.arange(100) % 3 > 0
    l2 = np.array([[1e-2]])
    masked = fit_probes(features[None], labels, 3, l2, included=included)
    cut = fit_probes(features[None, included], labels[included], 3, l2)
    for a, b in zip(_head(masked), _head(cut), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_same_every_time():
    features, labels = _planted(100, 5, 3, 0)
    first, second = (fit_probes(features[None], labels, 3, np.array([[1e-3]])) for _ in range(2))
    np.testing.assert_array_equal(first.weights, second.weights)


def test_says_whether_it_converged():
    features, labels = _planted(100, 5, 3, 0)
    l2 = np.array([[1e-1, 1e-4]])
    assert not fit_probes(features[None], labels, 3, l2, max_iterations=1).converged.any()
    assert fit_probes(features[None], labels, 3, l2).converged.all()


@settings(deadline=None, max_examples=30)
@given(
    rank=st.integers(0, 8),
    decay=st.integers(0, 6),
    outlier=st.sampled_from([0.0, 10.0, 100.0]),
    seed=st.integers(0, 2**31),
)
def test_converges_on_badly_conditioned_features(rank, decay, outlier, seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(4, size=50)
    basis = generator.normal(size=(rank, 8)) * np.logspace(0, -decay, rank)[:, None]
    values = generator.normal(size=(50, rank)) @ basis
    values[0] += outlier
    scaled = probe.standardised(values, probe.scaling(values))
    probes = fit_probes(scaled[None], labels, 4, np.float32([L2_GRID]))
    assert np.isfinite(probes.weights).all()
    assert probes.converged.all()


def test_classes_without_examples_are_never_predicted():
    features, labels = _planted(60, 5, 3, 0)
    probes = fit_probes(features[None], 2 * labels, 6, np.array([[1e-2]]))
    assert bool(probes.converged.all())
    weights, bias = _head(probes)
    assert np.isneginf(bias[[1, 3, 5]]).all()
    compact = fit_probes(features[None], labels, 3, np.array([[1e-2]]))
    np.testing.assert_allclose(weights[:, ::2], _head(compact)[0], atol=1e-5)
    assert set((features @ weights + bias).argmax(axis=1)) <= {0, 2, 4}


@pytest.mark.parametrize("n", [1, 5])
def test_a_single_class_is_always_predicted(n):
    features = np.random.default_rng(0).normal(size=(1, n, 3)).astype(np.float32)
    probes = fit_probes(features, np.full(n, 2), 4, np.array([[1e-2]]))
    assert bool(probes.converged.all())
    weights, bias = _head(probes)
    assert (features[0] @ weights + bias).argmax(axis=1).tolist() == [2] * n


def test_constant_features_give_the_most_frequent_class():
    probes = fit_probes(np.zeros((1, 6, 3)), np.array([1, 1, 1, 2, 2, 0]), 3, np.array([[1e-2]]))
    assert bool(probes.converged.all())
    weights, bias = _head(probes)
    np.testing.assert_array_equal(weights, 0.0)
    shares = np.exp(bias) / np.exp(bias).sum()
    np.testing.assert_allclose(shares, [1 / 6, 1 / 2, 1 / 3], atol=1e-4)


def test_impossible_fits_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        fit_probes(np.zeros((1, 0, 2)), np.zeros(0, np.int32), 3, np.array([[1.0]]))
    with pytest.raises(ValueError, match=r"l2 = .*positive"):
        fit_probes(np.zeros((1, 1, 2)), np.zeros(1, np.int32), 3, np.array([[0.0]]))


def test_a_fifth_of_every_class_is_held_out():
    labels = np.repeat([0, 1, 2, 3], [50, 9, 4, 1])
    chosen = held_out(labels)
    assert np.bincount(labels[chosen], minlength=4).tolist() == [10, 1, 0, 0]
    np.testing.assert_array_equal(chosen, held_out(labels))
    assert held_out(np.zeros(0, np.int32)).shape == (0,)


def _splits(values, labels, train, forget=3, num_classes=10):
    """The four splits of {point: [n, ...]}; the first ``train`` examples are for training."""
    early, gone = np.arange(len(labels)) < train, labels == forget
    logits = np.zeros((len(labels), num_classes), np.float32)
    masks = {"forget_train": early & gone, "retain_train": early & ~gone}
    masks |= {"forget_test": ~early & gone, "retain_test": ~early & ~gone}
    return {
        name: Features({p: v[m] for p, v in values.items()}, logits[m], labels[m])
        for name, m in masks.items()
    }


def _two_stages():
    generator = np.random.default_rng(0)
    class_held, labels = _planted(700, 12, 10, 0, signal=6.0)
    noise = generator.normal(size=(700, 5)).astype(np.float32)
    return _splits({"noise": noise, "held": class_held}, labels, 400)


def test_run_finds_the_class_where_it_is_and_only_there():
    got = probe.run(_two_stages(), ALONE)
    assert set(got) == {
        *("probe/forget_test/noise", "probe/retain_test/noise", "probe_converged/noise"),
        *("probe/forget_test/held", "probe/retain_test/held", "probe_converged/held"),
    }
    assert all(type(v) is float for v in got.values())
    assert got["probe/forget_test/held"] >= 99.0
    assert got["probe/retain_test/held"] >= 99.0
    assert got["probe/retain_test/noise"] <= 20.0
    assert got["probe_converged/held"] == got["probe_converged/noise"] == 1.0


def test_run_chooses_the_strength_on_held_out_examples(monkeypatch):
    calls = []
    full = probe.fit_probes

    def recorded(*args, **settings):
        calls.append((args[3], settings.get("included")))
        return full(*args, **settings)

    monkeypatch.setattr(probe, "fit_probes", recorded)
    splits = _two_stages()
    probe.run(splits, ALONE)
    (grid, included), (chosen, everything) = calls
    np.testing.assert_array_equal(grid, np.float32([L2_GRID, L2_GRID]))
    labels = [splits[name].labels for name in probe.TRAINING]
    np.testing.assert_array_equal(included, ~held_out(np.concatenate(labels)))
    # Noise is best ignored; where the class is certain, certainty is best.
    np.testing.assert_array_equal(chosen, np.float32([[L2_GRID[0]], [L2_GRID[-1]]]))
    assert everything is None


def test_run_of_one_point_is_run_of_all():
    splits = _two_stages()
    together = probe.run(splits, ALONE)
    for part in splits.values():
        del part.points["held"]
    alone = probe.run(splits, ALONE)
    assert alone == {k: v for k, v in together.items() if k.endswith("noise")}


def test_run_does_not_depend_on_scale_and_offset():
    splits = _two_stages()
    expected = probe.run(splits, ALONE)
    for part in splits.values():
        part.points["held"] = part.points["held"] * np.float32(1e-3) + np.float32(0.25)
        part.points["noise"] = part.points["noise"] * np.float32(1e20)
    assert probe.run(splits, ALONE) == pytest.approx(expected, abs=1.0)


def test_run_averages_maps_over_space():
    splits = _two_stages()
    expected = probe.run(splits, ALONE)
    for part in splits.values():
        flat = part.points["held"][:, None, None]
        maps = [flat * np.float32(2), np.zeros_like(flat)]
        part.points["held"] = np.concatenate(maps, axis=1)
    assert probe.run(splits, ALONE) == pytest.approx(expected)


def test_run_tells_when_a_fit_was_cut_short(monkeypatch):
    full = probe.fit_probes
    monkeypatch.setattr(probe, "fit_probes", lambda *a, **k: full(*a, **k, max_iterations=1))
    got = probe.run(_two_stages(), ALONE)
    assert got["probe_converged/held"] == got["probe_converged/noise"] == 0.0


def test_run_without_some_splits():
    splits = _two_stages()
    nothing = Features(
        {p: v[:0] for p, v in splits["forget_test"].points.items()},
        splits["forget_test"].logits[:0],
        splits["forget_test"].labels[:0],
    )
    expected = {k: v for k, v in probe.run(splits, ALONE).items() if "forget" not in k}
    assert probe.run({**splits, "forget_test": nothing}, ALONE) == expected
    del splits["forget_test"]
    assert probe.run(splits, ALONE) == expected
    assert probe.run({"retain_test": splits["retain_test"]}, ALONE) == {}
    empty = {"retain_train": nothing, "retain_test": splits["retain_test"]}
    assert probe.run(empty, ALONE) == {}
    assert probe.run({"forget_train": splits["forget_train"]}, ALONE) == {}


def test_run_trained_without_the_forgotten_class_never_predicts_it():
    splits = _two_stages()
    del splits["forget_train"]
    got = probe.run(splits, ALONE)
    assert got["probe/forget_test/held"] == 0.0
    assert got["probe/retain_test/held"] >= 99.0


def test_run_with_one_training_example():
    splits = _two_stages()
    first = splits["forget_train"]
    one = {p: v[:1] for p, v in first.points.items()}
    splits["forget_train"] = Features(one, first.logits[:1], first.labels[:1])
    del splits["retain_train"]
    got = probe.run(splits, ALONE)
    assert got["probe/forget_test/held"] == 100.0
    assert got["probe/retain_test/held"] == 0.0
    assert got["probe_converged/held"] == 1.0


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
def test_constant_features_predict_one_class(value):
    splits = _two_stages()
    for part in splits.values():
        part.points["noise"][:] = value
    splits["forget_test"].points["noise"][0] = -1e30  # constant in training: not used
    got = probe.run(splits, ALONE)
    assert got["probe/forget_test/noise"] in (0.0, 100.0)
    assert got["probe_converged/noise"] == 1.0


def test_a_feature_that_varies_by_rounding_only_is_constant():
    splits = _two_stages()
    for part in splits.values():
        part.points["noise"][:] = 1000.0
        part.points["noise"][part.labels == 5] = np.nextafter(np.float32(1000), np.float32(2000))
    got = probe.run(splits, ALONE)
    splits = _two_stages()
    for part in splits.values():
        part.points["noise"][:] = 1000.0
    assert got == probe.run(splits, ALONE)


def test_test_examples_may_be_far_away():
    splits = _two_stages()
    splits["forget_test"].points["held"][:] = 3e38
    assert np.isfinite(list(probe.run(splits, ALONE).values())).all()


def test_features_that_are_not_finite_have_no_probe():
    splits = _two_stages()
    expected = probe.run(splits, ALONE)
    splits["forget_test"].points["held"][0, 0] = np.nan
    got = probe.run(splits, ALONE)
    assert np.isnan(got.pop("probe/forget_test/held"))
    assert got == {k: v for k, v in expected.items() if k in got}
    splits["retain_train"].points["held"][0, 0] = np.inf
    got = probe.run(splits, ALONE)
    assert np.isnan(got["probe/forget_test/held"])
    assert np.isnan(got["probe/retain_test/held"])
    assert got["probe_converged/held"] == 0.0
    assert got["probe/retain_test/noise"] == expected["probe/retain_test/noise"]
    splits["retain_train"].points["noise"][0, 0] = np.nan
    got = probe.run(splits, ALONE)
    assert sum(map(np.isnan, got.values())) == 4


def test_side_by_side_as_on_an_accelerator_the_heads_are_the_same(monkeypatch):
    draw = np.random.default_rng(5)
    features = draw.normal(size=(2, 60, 3)).astype(np.float32)
    labels = draw.integers(0, 3, 60)
    shares = np.full(60, 1 / 60, np.float32)
    l2 = np.float32([[0.1, 0.001], [0.01, 0.0001]])

    def fit():
        rows = np.moveaxis(features, 1, 0), labels, shares, np.ones(60, bool)
        return probe._fit_all(*rows, l2, 50, num_classes=3)

    one_by_one = fit()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    together = fit()
    assert one_by_one.converged.all()
    assert together.converged.all()
    np.testing.assert_allclose(together.weights, one_by_one.weights, atol=1e-3)
    np.testing.assert_allclose(together.bias, one_by_one.bias, atol=1e-3)


@pytest.mark.parametrize(("devices", "n"), [(2, 60), (8, 61)])
def test_examples_on_several_devices_give_the_same(devices, n):
    features, labels = _planted(n, 5, 3, seed=4)
    included = np.arange(n) % 4 > 0
    settings = {"included": included, "l2": np.array([[1e-2, 1e-3]])}
    want = fit_probes(features[None], labels, 3, **settings)
    got = fit_probes(features[None], labels, 3, **settings, mesh=parallel.make_mesh(devices))
    assert got.converged.all()
    np.testing.assert_allclose(got.weights, want.weights, atol=2e-3)
    np.testing.assert_allclose(got.bias, want.bias, atol=2e-3)
