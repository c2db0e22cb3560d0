"""The comparison: means and spreads against the standard library's, rows, and what is noted."""

import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import DIGITS, FASHION, metrics, put, put_alone

from ec_jax.errors import InputError
from ec_jax.report import comparison
from ec_jax.report import runs as runs_lib
from ec_jax.report.summary import spread

FORGET = "accuracy/forget_test"


def compare(*sources, **how):
    return comparison.compare([runs_lib.read(str(source)) for source in sources], **how)


def row(found, label):
    return next(r for r in found.rows if r.label == label)


# The mean and the spread.


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9))
def test_mean_and_deviation_are_the_standard_librarys(values):
    found = spread(values)
    assert found.mean == pytest.approx(statistics.mean(values), abs=1e-6)
    assert found.deviation == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-6)
    assert (found.low, found.high) == (min(values), max(values))


@pytest.mark.parametrize(
    ("values", "digits", "says"),
    [
        ([1.0, 3.0], 1, "2.0 ± 1.4"),
        ([2.0, 2.0, 2.0], 3, "2.000 ± 0.000"),
        ([7.25], 1, "7.2"),
        ([-0.04], 1, "0.0"),
        ([-0.04, -0.02], 2, "−0.03 ± 0.01"),
        ([float("nan"), 1.0], 2, "not finite"),
        ([float("inf"), 1.0], 2, "not finite"),
    ],
)
def test_how_a_number_is_shown(values, digits, says):
    assert spread(values).plus_minus(digits) == says


def test_a_number_that_a_run_lacks_has_no_mean():
    assert spread([1.0, None]) is None
    assert spread([]) is None


# Rows.


def test_rows_are_the_references_and_then_the_methods(tmp_path):
    other = put(tmp_path / "a", metrics(0, method="head_distill"))
    (found,) = compare(other, *DIGITS)
    assert [(r.label, r.kind, r.seeds) for r in found.rows] == [
        ("original", "original", (0, 1, 2)),
        ("oracle", "oracle", (0, 1, 2)),
        ("head_distill", "method", (0,)),
        ("ec", "method", (0, 1, 2)),
    ]


@pytest.mark.parametrize(("label", "model"), [("original", "original"), ("ec", "unlearned")])
def test_a_row_is_the_mean_over_its_runs(label, model, tmp_path):
    # Seeds 0 and 1 of another method share their originals with two of the three runs.
    others = [put(tmp_path / str(s), metrics(s, method="head_distill")) for s in range(2)]
    (found,) = compare(*DIGITS, *others)
    for key in ("accuracy/retain_test", "cka_to_oracle/forget_test/stage2", "gap/representation"):
        values = [json.loads(file.read_text())["models"][model][key] for file in DIGITS]
        assert row(found, label).spread(key).mean == pytest.approx(statistics.mean(values))
        assert row(found, label).spread(key).deviation == pytest.approx(statistics.stdev(values))


def test_cost_counts_the_modules_and_is_a_share_of_the_oracles():
    (found,) = compare(DIGITS[0])
    cost = json.loads(DIGITS[0].read_text())["cost"]
    for unit in ("steps", "flops", "seconds"):
        share = 100 * (cost["unlearn"][unit] + cost["modules"][unit]) / cost["oracle"][unit]
        assert row(found, "ec").spread(f"cost/{unit}").mean == pytest.approx(share)
        assert row(found, "oracle").spread(f"cost/{unit}").mean == 100
        assert row(found, "original").spread(f"cost/{unit}") is None


def columns(found):
    return [column.key for shown in found.tables for column in shown.columns]


def test_agreement_and_closeness_have_columns_where_they_were_measured(tmp_path):
    keys = ["agreement/forget_test", "closeness/original", "closeness/oracle"]
    (old,) = compare(FASHION[0])  # measured before there were such numbers
    assert not set(keys) & set(columns(old))
    assert "cost/flops" not in columns(old)
    (new,) = compare(put(tmp_path / "a", metrics(unlearned=dict.fromkeys(keys, 0.5))))
    assert [key for key in columns(new) if key in keys] == keys


def test_floating_point_operations_are_a_share_of_the_oracles(tmp_path):
    new = metrics()
    for stage, flops in {"oracle": 400, "modules": 60, "unlearn": 40}.items():
        new["cost"][stage]["flops"] = flops
    (found,) = compare(put(tmp_path / "a", new))
    assert row(found, "ec").spread("cost/flops").mean == 25
    assert row(found, "oracle").spread("cost/flops").mean == 100
    # Of modules whose operations are not known there is no sum.
    del new["cost"]["modules"]["flops"]
    (found,) = compare(put(tmp_path / "b", new))
    assert row(found, "ec").spread("cost/flops") is None


def test_a_run_that_trained_no_oracle_has_no_share(tmp_path):
    found = metrics()
    found["cost"]["oracle"] = None
    (found,) = compare(put(tmp_path / "a", found))
    assert "Cost, in percent of the oracle's" not in [t.title for t in found.tables]


def test_verdicts_are_counted(tmp_path):
    kept = json.loads(DIGITS[0].read_text())["models"]["original"]
    same = {k: v for k, v in kept.items() if k.startswith(("cka", "knn", "probe"))}
    runs = [
        put(tmp_path / "0", metrics(0, unlearned={FORGET: 50.0})),
        put(tmp_path / "1", metrics(1)),
        put(tmp_path / "2", metrics(2)),
        put(tmp_path / "3", metrics(0, method="head", unlearned=same)),
    ]
    (found,) = compare(*runs)
    assert row(found, "ec").verdict() == "erased 2/3, not forgotten 1/3"
    assert row(found, "head").verdict() == "superficial"
    assert row(found, "oracle").verdict() == ""


def test_too_little_for_a_verdict_is_told(tmp_path):
    found = metrics()
    del found["models"]["unlearned"][FORGET]
    (found,) = compare(put(tmp_path / "a", found))
    assert row(found, "ec").verdict() == "none"


def test_without_an_oracle_there_is_no_row_of_it_and_a_note(tmp_path):
    found = metrics()
    del found["models"]["oracle"]
    folder = put(tmp_path / "a", found)
    (found,) = compare(folder)
    assert [r.label for r in found.rows] == ["original", "ec"]
    assert found.notes == (
        f"Without an oracle, and therefore not in the plots against it: {folder}.",
    )


# Tables.


def test_only_columns_that_were_measured_are_shown(tmp_path):
    fewer = metrics()
    for values in fewer["models"].values():
        del values["recovery/area"]
    (without,), (with_it,) = (compare(put(tmp_path / "a", fewer)), compare(DIGITS[0]))
    keys = [{c.key for t in found.tables for c in t.columns} for found in (without, with_it)]
    assert keys[1] - keys[0] == {"recovery/area"}
    last = ("cka_to_original", "cka_to_oracle", "knn", "probe")
    assert {f"{metric}/forget_test/stage4" for metric in last} <= keys[0]
    splits = ("forget_train", "retain_train", "forget_test", "retain_test")
    assert {f"accuracy/{split}" for split in splits} <= keys[0]


def test_every_row_has_a_cell_a_column(tmp_path):
    (found,) = compare(*DIGITS, put(tmp_path / "a", metrics(0, method="head_distill")))
    for table in found.tables:
        titles = comparison.titles(table)
        assert [len(comparison.cells(r, table)) for r in found.rows] == [len(titles)] * 4
        at = titles.index("n")
        assert [comparison.cells(r, table)[at].text for r in found.rows] == ["3", "3", "3", "1"]


# Notes and scenarios.


def test_runs_without_a_config_and_seeds_that_differ_are_told(tmp_path):
    alone = (put_alone(tmp_path, metrics(seed)) for seed in range(3))
    (found,) = compare(*alone, put(tmp_path / "a", metrics(1, method="head_distill")))
    assert len(found.notes) == 2
    assert found.notes[0].startswith("3 of 4 runs (")
    assert "(ec: 0, 1, 2; head_distill: 1)" in found.notes[1]


def test_where_no_run_has_a_config_that_is_told_once(tmp_path):
    (found,) = compare(*(put_alone(tmp_path, metrics(seed)) for seed in range(3)))
    assert found.notes == (
        "No run came with its config.json; those of one method are taken to be of one config.",
    )


def test_runs_that_can_be_compared_fairly_need_no_note(tmp_path):
    (found,) = compare(*(put(tmp_path / str(s), metrics(s)) for s in range(3)))
    assert found.notes == ()


def test_scenarios_are_refused_or_stand_apart():
    with pytest.raises(InputError, match=r"scenario\.dataset = 'fashion_mnist'"):
        compare(*DIGITS, *FASHION)
    digits, fashion = compare(*DIGITS, *FASHION, by_scenario=True)
    assert digits.name == "digits, forgotten: 3; resnet10-w16"
    assert fashion.name.startswith("fashion_mnist, forgotten: 1 (Trouser), 5 (Sandal)")
    alone = compare(*DIGITS)[0]
    assert digits == alone


def test_scenarios_of_one_name_are_told_apart(tmp_path):
    images = {"forget_train": 1, "retain_train": 2, "forget_test": 3, "retain_test": 4}
    other = metrics(1, scenario={"features": "map", "images": images})
    found = compare(DIGITS[0], put(tmp_path / "a", other), FASHION[0], by_scenario=True)
    names = [comparison.name for comparison in found]
    assert "features=gap" in names[0]
    assert "images.forget_train=146" in names[0]
    assert "features=map" in names[1]
    assert "=" not in names[2]
