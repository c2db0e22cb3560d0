import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec_jax.evaluation import gap

POINTS = ("stage1", "stage2")
SPLITS = ("forget_train", "retain_train", "forget_test", "retain_test")
percent = st.floats(0, 100)


def derive(values, oracle, points):
    return gap.derive(values, {"oracle": oracle}, points)


def gaps(found):
    return {key: value for key, value in found.items() if key.startswith("gap/")}


models = st.fixed_dictionaries(
    {f"accuracy/{s}": percent for s in SPLITS}
    | {f"cka_to_original/forget_test/{p}": st.floats(0, 1) for p in POINTS}
    | {f"{m}/forget_test/{p}": percent for m in ("knn", "probe") for p in POINTS}
)


def test_logit_by_hand():
    values = {"accuracy/forget_test": 4.0, "accuracy/retain_test": 90.0}
    oracle = {"accuracy/forget_test": 1.0, "accuracy/retain_test": 95.0}
    assert derive(values, oracle, POINTS) == {"gap/logit": 4.0}


def test_representation_by_hand():
    values = {
        "cka_to_original/forget_test/stage1": 0.9,
        "cka_to_original/forget_test/stage2": 0.2,
        "probe/forget_test/stage2": 80.0,
        "knn/forget_test/stage1": 50.0,
    }
    oracle = {
        "cka_to_original/forget_test/stage1": 0.8,
        "cka_to_original/forget_test/stage2": 0.5,
        "probe/forget_test/stage2": 60.0,
        "knn/forget_test/stage1": 60.0,
    }
    want = {"gap/representation": (0.1 + 0.3 + 0.2 + 0.1) / 4}
    got = gaps(derive(values, oracle, POINTS))
    assert got == pytest.approx(want)
    assert all(type(v) is float for v in got.values())


def test_other_numbers_do_not_count():
    values = {"accuracy/forget_test": 4.0, "knn/forget_test/stage1": 50.0}
    oracle = {"accuracy/forget_test": 1.0, "knn/forget_test/stage1": 60.0}
    others = [
        "cka_to_oracle/forget_test/stage1",
        "cka_unbiased_to_original/forget_test/stage1",
        "cka_to_original/retain_test/stage1",
        "cka_to_original/forget_train/stage1",
        "knn/retain_test/stage1",
        "knn/forget_test/elsewhere",
        "variance/forget_test/stage1",
        "mia/forget_train",
    ]
    want = derive(values, oracle, POINTS)
    assert set(want) == {"gap/logit", "gap/representation"}
    more = derive(values | dict.fromkeys(others, 1.0), oracle | dict.fromkeys(others, 9.0), POINTS)
    assert gaps(more) == want


def test_only_what_both_have():
    values = {"accuracy/forget_test": 4.0, "accuracy/retain_test": 90.0}
    oracle = {"accuracy/forget_test": 1.0, "accuracy/retain_train": 95.0}
    assert derive(values, oracle, POINTS) == {"gap/logit": 3.0}
    assert derive(values, {"knn/forget_test/stage1": 1.0}, POINTS) == {}


@given(models)
def test_nothing_without_an_oracle(values):
    assert gaps(derive(values, {}, POINTS)) == {}
    assert derive({}, values, POINTS) == {}


@given(models)
def test_the_oracle_has_no_gap(values):
    got = gaps(derive(values, values, POINTS))
    assert got == {"gap/logit": 0.0, "gap/representation": 0.0}


@given(models, models)
def test_symmetric_and_bounded(a, b):
    got = gaps(derive(a, b, POINTS))
    assert got == gaps(derive(b, a, POINTS))
    assert 0 <= got["gap/logit"] <= 100
    assert 0 <= got["gap/representation"] <= 1 + 1e-12


@given(models, models, models)
def test_triangle(a, b, c):
    ab, bc, ac = (gaps(derive(x, y, POINTS)) for x, y in ((a, b), (b, c), (a, c)))
    assert all(ac[key] <= ab[key] + bc[key] + 1e-9 for key in ac)


@pytest.mark.parametrize("key", ["accuracy/forget_test", "probe/forget_test/stage1"])
def test_nan_stays_nan(key):
    broken = derive({key: math.nan}, {key: 1.0}, POINTS)
    assert len(broken) == 1
    assert math.isnan(*broken.values())


# Closeness.


def cka(reference, values, split="forget_test"):
    return {f"cka_to_{reference}/{split}/stage{i}": v for i, v in enumerate(values, 1)}


def stages(values):
    return [f"stage{i}" for i, _ in enumerate(values, 1)]


similarities = st.lists(st.floats(0, 1), min_size=1, max_size=6)


def test_closeness_by_hand():
    values = cka("oracle", [0.1, 0.6, 0.8]) | cka("original", [1.0, 0.5, 0.2])
    got = derive(values, values, ["stage1", "stage2", "stage3"])
    assert got["closeness/oracle"] == pytest.approx(0.7)
    assert got["closeness/original"] == pytest.approx(0.35)
    assert type(got["closeness/oracle"]) is float


@pytest.mark.parametrize("reference", ["oracle", "original"])
@given(values=similarities)
def test_closeness_is_the_mean_without_the_first_point(reference, values):
    got = derive(cka(reference, values), {}, stages(values))
    total, count = 0.0, 0
    for i, value in enumerate(values):
        if i > 0 or len(values) == 1:
            total, count = total + value, count + 1
    assert got == {f"closeness/{reference}": pytest.approx(total / count)}
    assert 0 <= got[f"closeness/{reference}"] <= 1


def test_closeness_reads_the_split_on_which_forgetting_is_judged():
    values = cka("oracle", [0.3, 0.9], "forget_train") | {"accuracy/forget_train": 1.0}
    assert derive(values, {}, POINTS)["closeness/oracle"] == 0.9
    values |= cka("oracle", [0.3, 0.4]) | {"accuracy/forget_test": 1.0}
    assert derive(values, {}, POINTS)["closeness/oracle"] == 0.4


def test_closeness_is_of_all_points_or_not_at_all():
    values = cka("oracle", [0.3, 0.9, 0.8])
    del values["cka_to_oracle/forget_test/stage2"]
    assert derive(values, {}, ["stage1", "stage2", "stage3"]) == {}
    # The first is not read.
    assert derive({"cka_to_oracle/forget_test/stage2": 0.9}, {}, POINTS)["closeness/oracle"] == 0.9


def test_unbiased_similarity_is_no_part_of_closeness():
    values = {key.replace("cka_", "cka_unbiased_"): v for key, v in cka("oracle", [1, 1]).items()}
    assert derive(values, {}, POINTS) == {}


def test_closeness_of_nan_is_nan():
    assert math.isnan(derive(cka("oracle", [0.1, math.nan]), {}, POINTS)["closeness/oracle"])
