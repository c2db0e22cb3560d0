import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec_jax.evaluation import verdict
from ec_jax.evaluation.target import BEFORE
from ec_jax.evaluation.thresholds import THRESHOLDS
from ec_jax.evaluation.verdict import judge

POINTS = ("stage1", "stage2", "stage3")
ROOT = Path(__file__).parents[2]
REAL = sorted((ROOT / "docs" / "results").glob("*/*-seed*.json"))
LIMIT = {t.name: t.value for t in THRESHOLDS}


def _model(forget, retain, cka, knn, probe, variance=1.0):
    """The same number of each indicator at every point."""
    values = {"accuracy/forget_test": forget, "accuracy/retain_test": retain}
    for point in POINTS:
        values[f"cka_to_original/forget_test/{point}"] = cka
        values[f"knn/forget_test/{point}"] = knn
        values[f"probe/forget_test/{point}"] = probe
        values[f"variance/forget_test/{point}"] = variance
        values[f"variance/retain_test/{point}"] = variance
    return values


ORIGINAL = _model(97.0, 95.0, 1.0, 96.0, 98.0)
ORACLE = _model(0.0, 96.0, 0.4, 76.0, 78.0)


def _judge(unlearned, oracle=True, original=ORIGINAL, points=POINTS):
    models = {"original": original, "unlearned": unlearned}
    return judge(models | ({"oracle": ORACLE} if oracle else {}), points)


PLANTED = {
    "the oracle": (ORACLE, "erased"),
    "the original": (ORIGINAL, "not forgotten"),
    "head distillation": (ORIGINAL | {"accuracy/forget_test": 0.0}, "superficial"),
    "a new network": (_model(8.0, 10.0, 0.2, 60.0, 60.0), "damaged"),
    "all features at one point": (_model(0.0, 10.0, 0.0, 10.0, 10.0, variance=1e-9), "damaged"),
    "forget features at one point": (ORACLE | {"variance/forget_test/stage3": 1e-9}, "damaged"),
    "retain features at one point": (ORACLE | {"variance/retain_test/stage3": 1e-9}, "damaged"),
    "half forgotten": (ORACLE | {"accuracy/forget_test": 40.0}, "not forgotten"),
    "broken": (ORACLE | {"accuracy/forget_test": math.nan}, "damaged"),
    "broken features": (ORACLE | {"cka_to_original/forget_test/stage1": math.inf}, "damaged"),
    "ruined and not forgotten": (ORIGINAL | {"accuracy/retain_test": 50.0}, "damaged"),
    "past the oracle": (_model(0.0, 95.0, 0.0, 10.0, 10.0), "erased"),
}


@pytest.mark.parametrize("oracle", [True, False])
@pytest.mark.parametrize("name", PLANTED)
def test_planted(name, oracle):
    unlearned, want = PLANTED[name]
    got = _judge(unlearned, oracle)
    assert got.name == want
    assert got.reasons
    assert all(r[0].isupper() or "/" in r.split()[0] for r in got.reasons)
    assert all(r.endswith(".") and "nan %" not in r for r in got.reasons)
    assert all(type(v) is float and math.isfinite(v) for v in got.numbers.values())
    assert any("There is no oracle" in r for r in got.reasons) is not oracle


@pytest.mark.parametrize("oracle", [True, False])
@pytest.mark.parametrize("path", REAL, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_controls_made_of_real_runs(path, oracle):
    metrics = json.loads(path.read_text())
    models, points = metrics["models"], metrics["scenario"]["points"]
    original, retrained = models["original"], models["oracle"]
    references = {"original": original} | ({"oracle": retrained} if oracle else {})
    samples = path.parent.name.endswith("_samples")  # whose target is the oracle's accuracy
    at_the_logits = {
        k: retrained[k] if samples else 0.0 for k in original if k.startswith("accuracy/forget_")
    }
    # Membership, by which samples are told apart from them, needs an oracle to compare with.
    masked = "superficial" if oracle or not samples else "erased"
    no_variance = {k: 1e-12 for k in original if k.startswith("variance/")}
    controls = [
        (original, "not forgotten"),
        (retrained, "erased"),
        (original | at_the_logits, masked),
        (original | at_the_logits | {"accuracy/retain_test": 10.0}, "damaged"),
        (retrained | {"accuracy/retain_test": 10.0}, "damaged"),
        (retrained | no_variance, "damaged"),
        (retrained | {"accuracy/retain_test": math.nan}, "damaged"),
        (dict.fromkeys(retrained, math.nan), "damaged"),
    ]
    for unlearned, want in controls:
        assert judge(references | {"unlearned": unlearned}, points).name == want
    # What EC's own runs are called is a result, not a test.
    assert judge(references | {"unlearned": models["unlearned"]}, points).reasons


def test_there_are_real_runs():
    assert len(REAL) >= 6


@pytest.mark.parametrize("oracle", [True, False])
@pytest.mark.parametrize(
    ("metric", "name", "number"),
    [
        ("accuracy/retain_test", "damaged", "retain_loss"),
        ("accuracy/forget_test", "not forgotten", "forget_excess"),
    ],
)
def test_accuracy_limits(metric, name, number, oracle):
    sign = -1 if number == "retain_loss" else 1
    reference = (ORACLE if oracle or number == "forget_excess" else ORIGINAL)[metric]
    at = _judge(ORACLE | {metric: reference + sign * LIMIT[number]}, oracle)
    beyond = _judge(ORACLE | {metric: reference + sign * (LIMIT[number] + 0.1)}, oracle)
    assert (at.name, beyond.name) == ("erased", name)
    assert beyond.numbers[number] == pytest.approx(LIMIT[number] + 0.1)
    assert f"{beyond.numbers[number] * sign + reference:.1f} %" in beyond.reasons[0]


@pytest.mark.parametrize("oracle", [True, False])
def test_a_class_forgotten_before_must_not_come_back(oracle):
    key, target = "accuracy/earlier_test", 3.0 if oracle else 0.0
    models = {"original": ORIGINAL | {key: 0.0}}
    if oracle:
        models["oracle"] = ORACLE | {key: target}

    def judged(value):
        return judge(models | {"unlearned": ORACLE | {key: value}}, POINTS)

    stayed, returned = (judged(target + LIMIT["forget_excess"] + more) for more in (0.0, 0.1))
    assert (stayed.name, returned.name) == ("erased", "not forgotten")
    assert "have come back" in returned.reasons[0]
    assert returned.numbers[f"forget_excess/{BEFORE}"] == pytest.approx(5.1)
    assert any("have stayed forgotten" in reason for reason in stayed.reasons)


def test_a_forget_accuracy_as_high_as_the_oracles_is_forgotten():
    # Classes of one parent: an oracle may predict some of them by chance.
    oracle = ORACLE | {"accuracy/forget_test": 30.0}
    models = {"original": ORIGINAL, "oracle": oracle, "unlearned": oracle}
    assert judge(models, POINTS).name == "erased"


def _moved(share, metric, point):
    key = f"{metric}/forget_test/{point}"
    return {key: ORIGINAL[key] - share * (ORIGINAL[key] - ORACLE[key])}


def test_the_share_of_the_way_is_the_lesser_of_two_means_over_the_last_two_points():
    shares = {
        ("cka_to_original", "stage2"): 1.0,
        ("cka_to_original", "stage3"): 0.8,
        ("knn", "stage2"): 0.0,
        ("knn", "stage3"): 0.3,
        ("probe", "stage2"): 0.2,
        ("probe", "stage3"): 0.4,
    }
    unlearned = ORACLE
    for (metric, point), share in shares.items():
        unlearned = unlearned | _moved(share, metric, point)
    got = _judge(unlearned)
    assert got.name == "superficial"
    assert got.numbers["moved_share/similarity"] == pytest.approx(0.9)
    assert got.numbers["moved_share/separability"] == pytest.approx(0.9 / 4)
    assert got.numbers["moved_share"] == got.numbers["moved_share/separability"]
    for (metric, point), share in shares.items():
        assert got.numbers[f"moved_share/{metric}/{point}"] == pytest.approx(share)
    assert "90 % (mean of 2 measures)" in got.reasons[0]
    assert "22 % (mean of 4 measures)" in got.reasons[0]
    enough = unlearned | _moved(0.9, "knn", "stage2") | _moved(1.0, "probe", "stage3")
    assert _judge(enough).name == "erased"
    # Features that tell nothing apart, but are almost the original's: as little erased.
    kept = _moved(0.1, "cka_to_original", "stage2") | _moved(0.1, "cka_to_original", "stage3")
    assert _judge(ORACLE | kept).name == "superficial"


def test_recovery_by_a_new_head_counts_as_separability():
    original, oracle, unlearned = (
        model | {"recovery/head/forget_test": value}
        for model, value in ((ORIGINAL, 90.0), (ORACLE, 50.0), (ORACLE, 80.0))
    )
    got = judge({"original": original, "oracle": oracle, "unlearned": unlearned}, POINTS)
    assert got.numbers["moved_share/recovery/head"] == pytest.approx(0.25)
    assert got.numbers["moved_share/separability"] == pytest.approx(4.25 / 5)


@pytest.mark.parametrize(("images", "counts"), [(0, True), (2000, True), (40, False)])
def test_differences_that_chance_would_give_do_not_count(images, counts):
    # 96 against 88 %: 1.3 standard errors of 40 images, 9.5 of 2,000.
    oracle = ORACLE | {"knn/forget_test/stage3": 88.0}
    models = {"original": ORIGINAL, "oracle": oracle, "unlearned": oracle}
    got = judge(models, POINTS, images)
    assert ("moved_share/knn/stage3" in got.numbers) is counts
    assert "moved_share/cka_to_original/stage3" in got.numbers


def test_overshoot_counts_as_moved_and_no_more():
    unlearned = ORIGINAL | {"accuracy/forget_test": 0.0}
    unlearned = unlearned | _moved(5.0, "cka_to_original", "stage3")
    got = _judge(unlearned)
    assert got.numbers["moved_share/similarity"] == pytest.approx(1 / 2)
    assert got.numbers["moved_share/separability"] == 0
    assert got.name == "superficial"
    # Away from the oracle is no debt that another indicator pays.
    back = _judge(ORACLE | _moved(-9.0, "knn", "stage3"))
    assert back.numbers["moved_share/separability"] == pytest.approx(3 / 4)


def test_indicators_that_do_not_tell_the_references_apart_do_not_count():
    oracle = ORACLE | {"knn/forget_test/stage3": 95.0, "knn/forget_test/stage2": 99.0}
    unlearned = oracle | _moved(1.0, "cka_to_original", "stage3")
    got = judge({"original": ORIGINAL, "oracle": oracle, "unlearned": unlearned}, POINTS)
    assert not any("knn" in key for key in got.numbers)
    assert any("Not counted" in r and "stage2" in r and "stage3" in r for r in got.reasons)


def test_where_the_oracle_keeps_the_features_the_logits_decide_and_it_says_so():
    oracle = ORIGINAL | {"accuracy/forget_test": 0.0}
    got = judge({"original": ORIGINAL, "oracle": oracle, "unlearned": oracle}, POINTS)
    assert got.name == "erased"
    assert any("the logits alone decided" in r for r in got.reasons)
    assert "moved_share" not in got.numbers


def test_a_single_indicator_is_enough():
    def only(model):
        return {k: v for k, v in model.items() if k.startswith(("accuracy/", "knn/"))}

    references = {"original": only(ORIGINAL), "oracle": only(ORACLE)}
    head = only(ORIGINAL) | {"accuracy/forget_test": 0.0}
    assert judge(references | {"unlearned": head}, POINTS).name == "superficial"
    assert judge(references | {"unlearned": only(ORACLE)}, POINTS).name == "erased"
    assert judge(references | {"unlearned": head}, POINTS[-1:]).name == "superficial"


def test_without_an_oracle_the_similarity_has_a_limit():
    key = "cka_to_original/forget_test/stage3"
    at = _judge(ORACLE | {key: LIMIT["similarity"]}, oracle=False)
    below = _judge(ORACLE | {key: LIMIT["similarity"] - 0.01}, oracle=False)
    assert (at.name, below.name) == ("superficial", "erased")
    assert at.numbers["similarity"] == LIMIT["similarity"]
    assert "0.90" in at.reasons[0]


def test_an_empty_oracle_is_none():
    models = {"original": ORIGINAL, "oracle": {}, "unlearned": ORACLE}
    assert judge(models, POINTS) == _judge(ORACLE, oracle=False)


def test_a_spread_smaller_than_the_originals_but_not_than_the_oracles_is_no_damage():
    oracle = ORACLE | {"variance/forget_test/stage3": 1e-4}
    models = {"original": ORIGINAL, "oracle": oracle, "unlearned": oracle}
    assert judge(models, POINTS).name == "erased"


def test_one_forget_image_has_no_spread_and_is_not_damage():
    key = "variance/forget_test/stage3"
    models = {"original": ORIGINAL | {key: 0.0}, "unlearned": ORACLE | {key: 0.0}}
    assert judge(models, POINTS).name == "erased"


def test_a_ratio_without_a_value_is_not_damage():
    assert _judge(ORACLE | {"idi": math.nan}).name == "erased"


@pytest.mark.parametrize("model", ["original", "oracle", "unlearned"])
@pytest.mark.parametrize("key", ["accuracy/forget_test", "accuracy/retain_test"])
def test_missing_numbers_are_named(model, key):
    models = {"original": dict(ORIGINAL), "oracle": dict(ORACLE), "unlearned": dict(ORACLE)}
    del models[model][key]
    with pytest.raises(ValueError, match=f"{key} of the {model}"):
        judge(models, POINTS)


def test_no_verdict_without_indicators_models_or_points():
    few = {k: v for k, v in ORACLE.items() if k.startswith("accuracy/")}
    models = {"original": ORIGINAL, "oracle": ORACLE, "unlearned": few}
    with pytest.raises(ValueError, match="without one of cka_to_original, knn, probe"):
        judge(models, POINTS)
    with pytest.raises(ValueError, match="cka_to_original/forget_test/stage3 of the unlearned"):
        judge(models | {"oracle": {}}, POINTS)
    with pytest.raises(ValueError, match="original"):
        judge({"unlearned": ORACLE}, POINTS)
    with pytest.raises(ValueError, match="points"):
        judge(models, ())


@pytest.mark.parametrize("model", ["original", "oracle"])
def test_a_broken_reference_gives_no_verdict(model):
    models = {"original": dict(ORIGINAL), "oracle": dict(ORACLE), "unlearned": ORACLE}
    models[model]["knn/forget_test/stage3"] = math.nan
    with pytest.raises(ValueError, match=f"knn/forget_test/stage3 of the {model} model is nan"):
        judge(models, POINTS)


def test_the_table_says_all():
    assert len(LIMIT) == len(THRESHOLDS)
    assert all(t.unit and t.meaning.endswith(".") and t.value > 0 for t in THRESHOLDS)
    names = {name for name, _ in verdict._RULES} | {verdict.ERASED}
    assert names == {"erased", "superficial", "damaged", "not forgotten"}


percent, share = st.floats(0, 100), st.floats(0, 1)
models = st.builds(_model, percent, percent, share, percent, percent, st.floats(0, 10))


@pytest.mark.parametrize("known", [97.0, 92.0])
def test_an_oracle_that_knows_the_forget_set_is_none(known):
    oracle = ORACLE | {"accuracy/forget_test": known}
    with pytest.raises(ValueError, match=rf"oracle is right on {known:.1f} % .* other classes"):
        judge({"original": ORIGINAL, "oracle": oracle, "unlearned": ORACLE}, POINTS)


def _with_an_oracle(original, oracle):
    """The numbers of a run: the original predicts the forget set, the oracle does not."""
    original["accuracy/forget_test"] = 50 + original["accuracy/forget_test"] / 2
    oracle["accuracy/forget_test"] = oracle["accuracy/forget_test"] * 0.4
    return {"original": original, "oracle": oracle}


@given(models, models)
def test_the_oracle_is_always_erased_and_the_original_never(original, oracle):
    _with_an_oracle(original, oracle)
    original["cka_to_original/forget_test/stage2"] = 1.0
    original["cka_to_original/forget_test/stage3"] = 1.0
    got = judge({"original": original, "oracle": oracle, "unlearned": oracle}, POINTS)
    assert got.name == "erased"
    # If the oracle differs from it at all, that is.
    if oracle["cka_to_original/forget_test/stage3"] < 0.9:
        got = judge({"original": original, "oracle": oracle, "unlearned": original}, POINTS)
        assert got.name != "erased"


@given(models, models, models)
def test_more_forget_accuracy_never_looks_more_forgotten(original, oracle, unlearned):
    references = _with_an_oracle(original, oracle)
    got = judge(references | {"unlearned": unlearned}, POINTS)
    known = unlearned | {"accuracy/forget_test": 100.0}
    more = judge(references | {"unlearned": known}, POINTS)
    if got.name == "not forgotten":
        assert more.name == "not forgotten"


# Samples, and a part of a label.


def _samples(forget, mia, retain=95.0):
    values = {"accuracy/forget_train": forget, "accuracy/retain_test": retain}
    values |= {"mia/forget_train": mia}
    return values | {f"cka_to_original/forget_train/{p}": 0.9 for p in POINTS}


@pytest.mark.parametrize(
    ("unlearned", "want"),
    [
        (_samples(94.0, 70.0), "erased"),
        (_samples(94.0, 30.0), "superficial"),  # as often taken for trained on as the original's
        (_samples(100.0, 70.0), "not forgotten"),
        (_samples(90.0, 90.0), "erased"),  # the target is the oracle's accuracy, not zero
        (_samples(60.0, 90.0), "damaged"),
        (_samples(94.0, 70.0, retain=80.0), "damaged"),
    ],
)
def test_samples_are_judged_by_themselves_and_by_membership(unlearned, want):
    models = {"original": _samples(100.0, 20.0), "oracle": _samples(94.0, 80.0)}
    assert judge(models | {"unlearned": unlearned}, POINTS, 200, whole=False).name == want


def test_samples_without_membership_inference_have_no_verdict():
    models = {"original": _samples(100.0, 20.0), "oracle": _samples(94.0, 80.0)}
    unlearned = _samples(94.0, 70.0)
    del unlearned["mia/forget_train"]
    with pytest.raises(ValueError, match=r"^without mia/forget_train"):
        judge(models | {"unlearned": unlearned}, POINTS, whole=False)


@pytest.mark.parametrize(("forget", "want"), [(96.0, "erased"), (100.5, "not forgotten")])
def test_samples_without_an_oracle_are_judged_by_the_logits(forget, want):
    models = {"original": _samples(100.0, 20.0), "unlearned": _samples(forget, 20.0)}
    found = judge(models, POINTS, whole=False)
    assert found.name == want
    assert want != "erased" or any("membership" in reason for reason in found.reasons)


def test_of_a_sub_class_an_oracle_may_know_as_much_as_the_original():
    knowing = ORACLE | {"accuracy/forget_test": 96.0}
    models = {"original": ORIGINAL, "oracle": knowing, "unlearned": knowing}
    assert judge(models, POINTS, whole=False).name == "erased"
    with pytest.raises(ValueError, match="it was trained on them"):
        judge(models, POINTS)
