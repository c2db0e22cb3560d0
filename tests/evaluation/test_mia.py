import numpy as np
import pytest
from scipy.special import softmax
from sklearn.svm import SVC

from ec_jax import rng
from ec_jax.evaluation import mia
from ec_jax.evaluation.features import Context, Features

CONTEXT = Context(None, {})
KEY = "mia/forget_train"


def _split(probabilities):
    """Three classes; the true one, 1, has the given probabilities."""
    p = np.clip(np.asarray(probabilities, np.float64), 1e-6, 1 - 1e-6)
    rest = np.log((1 - p) / 2)
    logits = np.stack([rest, np.log(p), rest], axis=-1).astype(np.float32)
    return Features({}, logits.reshape(-1, 3), np.ones(len(p), np.int32))


def _splits(forget, members, non_members):
    return {
        "forget_train": _split(forget),
        "retain_train": _split(members),
        "forget_test": _split([0.5]),
        "retain_test": _split(non_members),
    }


def _overfit(seed=0, members=300, non_members=200):
    """Sure of what it was trained on, unsure of the rest."""
    draw = np.random.default_rng(seed)
    return draw.uniform(0.97, 1, members), draw.uniform(0.2, 0.8, non_members)


def test_agrees_with_scikit_learn_on_any_logits():
    draw = np.random.default_rng(0)
    features = {
        name: Features(
            {},
            (draw.normal(size=(n, 5)) * 3).astype(np.float32),
            draw.integers(5, size=n).astype(np.int32),
        )
        for name, n in (("forget_train", 70), ("retain_train", 90), ("retain_test", 60))
    }
    p = {
        name: softmax(part.logits.astype(np.float64), axis=1)[
            np.arange(len(part.labels)), part.labels
        ]
        for name, part in features.items()
    }
    chosen = rng.generator(0, "mia").choice(90, 60, replace=False)
    x = np.concatenate([p["retain_train"][chosen], p["retain_test"]])[:, None]
    y = np.repeat([1, 0], 60)
    attack = SVC(C=3, gamma="auto", kernel="rbf").fit(x, y)
    want = 100 * (1 - attack.predict(p["forget_train"][:, None]).mean())
    got = mia.run(features, CONTEXT)
    assert list(got) == [KEY]
    assert type(got[KEY]) is float
    assert got[KEY] == pytest.approx(want)
    assert 5 < want < 95  # or the comparison would say little


@pytest.mark.parametrize(("forget", "want"), [("members", 0.0), ("non_members", 100.0)])
def test_an_overfit_model_betrays_its_members(forget, want):
    members, non_members = _overfit()
    like = _overfit(seed=1)[forget == "non_members"]
    assert mia.run(_splits(like, members, non_members), CONTEXT)[KEY] == want


def test_half_of_the_forget_set_like_members():
    members, non_members = _overfit()
    forget = np.concatenate([members[:25], non_members[:75]])
    assert mia.run(_splits(forget, members, non_members), CONTEXT)[KEY] == 75.0


def test_equal_distributions_cannot_be_told_apart():
    draw = np.random.default_rng(3)
    values = [draw.uniform(size=2000) for _ in range(3)]
    assert 20 < mia.run(_splits(*values), CONTEXT)[KEY] < 80


def test_members_are_drawn_from_the_whole_set():
    # Ordered by class: the first ones, of an easy class, would mislead the attack.
    members = np.concatenate([np.full(200, 0.3), np.full(1800, 0.99)])
    forget = np.repeat([0.3, 0.99], [30, 20])
    assert mia.run(_splits(forget, members, np.full(200, 0.3)), CONTEXT) == {KEY: 60.0}


@pytest.mark.parametrize(("members", "non_members"), [(40, 300), (300, 40)])
def test_as_many_members_as_non_members(members, non_members, monkeypatch):
    sizes = []
    monkeypatch.setattr(mia, "called_non_members", lambda m, o, q: _noted(sizes, m, o, q))
    mia.run(_splits([0.5], *_overfit(0, members, non_members)), CONTEXT)
    assert sizes == [(40, 40, 1)]


def test_large_sets_are_bounded(monkeypatch):
    sizes = []
    monkeypatch.setattr(mia, "called_non_members", lambda m, o, q: _noted(sizes, m, o, q))
    mia.run(_splits(np.full(6000, 0.5), *_overfit(0, 7000, 6000)), CONTEXT)
    assert sizes == [(5000, 5000, 6000)]


def _noted(sizes, *arrays):
    sizes.append(tuple(map(len, arrays)))
    assert len(np.unique(arrays[0])) > 1
    return np.zeros(len(arrays[2]), bool)


def test_twice_the_same():
    features = _splits(np.linspace(0, 1, 50), *_overfit())
    assert mia.run(features, CONTEXT) == mia.run(features, CONTEXT)


@pytest.mark.parametrize("split", ["forget_train", "retain_train", "retain_test"])
def test_no_key_without_a_split(split):
    features = _splits([0.5], *_overfit())
    assert mia.run(features | {split: _split([])}, CONTEXT) == {}
    del features[split]
    assert mia.run(features, CONTEXT) == {}


def test_one_example_a_split():
    assert mia.run(_splits([0.9], [0.9], [0.1]), CONTEXT) == {KEY: 0.0}
    assert mia.run(_splits([0.1], [0.9], [0.1]), CONTEXT) == {KEY: 100.0}


@pytest.mark.parametrize("split", ["forget_train", "retain_train", "retain_test"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_broken_model_has_no_value(split, value):
    features = _splits([0.5], *_overfit())
    features[split].logits[0, 0] = value
    assert np.isnan(mia.run(features, CONTEXT)[KEY])


def test_huge_logits_do_not_overflow():
    logits = np.array([[1e38, -1e38], [3e38, 3e38], [-3e38, 0]], np.float32)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        got = mia.true_class_probability(logits, np.array([0, 1, 0]))
    assert got.dtype == np.float64
    assert got.tolist() == [1.0, 0.5, 0.0]


def test_probabilities_near_one_keep_their_digits():
    got = mia.true_class_probability(np.array([[30.0, 0.0]], np.float32), np.array([0]))
    assert 0 < 1 - got[0] < 1e-12


def test_no_queries():
    assert mia.called_non_members(np.ones(2), np.zeros(2), np.zeros(0)).shape == (0,)
