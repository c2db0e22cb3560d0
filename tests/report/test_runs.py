"""Runs told apart: scenarios, methods, configs, and the same run twice."""

import json
import math
import shutil

import pytest
from runs import DIGITS, FASHION, metrics, put, put_alone

from ec_jax.errors import InputError
from ec_jax.report import runs as runs_lib


def read(*sources):
    return [runs_lib.read(str(source)) for source in sources]


def labels(found):
    return {group.label: [run.seed for run in group.runs] for group in runs_lib.groups(found)}


# Reading.


def test_a_folder_and_a_file_are_read_alike(tmp_path):
    (folder,) = read(put(tmp_path / "run", metrics()))
    file, alone = read(DIGITS[0], put_alone(tmp_path, metrics()))
    assert folder.models == file.models == json.loads(DIGITS[0].read_text())["models"]
    assert (folder.method, folder.seed) == ("ec", 0)
    assert alone.config is None
    assert folder.config["ec.temperature"] == file.config["ec.temperature"] == 0.1
    free = {"seed", "stages", "checkpoint.every", "original.checkpoint", "parallel.devices"}
    assert not free & (folder.config.keys() | file.config.keys())


def put_audit(folder, found, **more):
    folder.mkdir()
    found["scenario"]["method"] = "audit"
    config = {"seed": 0, "evaluation": {"neighbors": 5}}
    (folder / "audit.json").write_text(json.dumps({**found, "config": config, **more}))
    return folder


def test_an_audit_is_called_by_its_source(tmp_path):
    found = metrics()
    del found["cost"]
    first = put_audit(tmp_path / "theirs", found)
    second = put_audit(tmp_path / "ours", found, config={"evaluation": {"neighbors": 7}})
    runs = read(first, second)
    assert [(run.method, run.seed, run.cost) for run in runs] == [
        (str(first), 0, {}),
        (str(second), 0, {}),
    ]
    assert [run.config for run in runs] == [{"evaluation.neighbors": n} for n in (5, 7)]
    assert labels(runs) == {str(first): [0], str(second): [0]}


def test_what_was_not_finite_in_an_audit_is_so_again(tmp_path):
    found = metrics()
    del found["models"]["unlearned"]["mia/forget_train"]
    lost = {"original": [], "unlearned": ["mia/forget_train"]}
    (run,) = read(put_audit(tmp_path / "theirs", found, not_finite=lost))
    assert math.isnan(run.models["unlearned"]["mia/forget_train"])
    assert run.models["oracle"] == found["models"]["oracle"]


def broken(change):
    found = metrics()
    change(found)
    return found


BROKEN = {
    "no object": ([], "it is no object"),
    "no scenario": (broken(lambda f: f.pop("scenario")), "scenario does not hold what was run"),
    "no points": (broken(lambda f: f["scenario"].pop("points")), "scenario.points does not hold"),
    "empty points": (broken(lambda f: f["scenario"].update(points=[])), "scenario.points"),
    "names too few": (
        broken(lambda f: f["scenario"].update(forget_classes=[3, 4])),
        "one name a forgotten class",
    ),
    "a seed of text": (broken(lambda f: f["scenario"].update(seed="0")), "scenario.seed"),
    "no unlearned": (broken(lambda f: f["models"].pop("unlearned")), "models does not hold"),
    "a number of text": (
        broken(lambda f: f["models"]["oracle"].update({"accuracy/forget_test": "0"})),
        "models does not hold",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_no_run_left_is_refused(case, tmp_path):
    found, says = BROKEN[case]
    (tmp_path / "metrics.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match=says) as error:
        read(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_config_that_cannot_be_read_is_refused(tmp_path):
    folder = put(tmp_path / "run", metrics())
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        read(folder)


# Scenarios.


def test_runs_of_one_scenario_may_differ_in_method_and_seed(tmp_path):
    other = put(tmp_path / "other", metrics(1, method="head_distill"))
    found = read(*DIGITS, other)
    runs_lib.check_one_scenario(found)
    assert runs_lib.scenarios(found) == [found]


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("dataset", "mnist", "dataset"),
        ("forget_classes", [4], "forget_classes"),
        ("model", "resnet18-w16", "model"),
        ("features", "map", "features"),
        ("points", ["stage1"], "points"),
        ("images", {"forget_test": 36}, "images.forget_train"),
        ("fresh", 1, "fresh"),
    ],
)
def test_the_first_field_that_differs_is_named(field, value, name, tmp_path):
    other = put(tmp_path / "other", metrics(1, scenario={field: value}))
    with pytest.raises(InputError) as error:
        runs_lib.check_one_scenario(read(DIGITS[0], other))
    said = str(error.value)
    assert said.startswith(f"scenario.{name} = ")
    assert f"in {other}, but " in said
    assert f"in {DIGITS[0]}; compare them apart, or add --by-scenario" in said


def test_scenarios_are_separated_whatever_the_order():
    found = read(DIGITS[0], FASHION[0], DIGITS[1], FASHION[1])
    assert runs_lib.scenarios(found) == [[found[0], found[2]], [found[1], found[3]]]


# Groups.


def test_runs_that_differ_by_their_seed_are_one_group():
    assert labels(read(*reversed(DIGITS))) == {"ec": [0, 1, 2]}


def test_configs_that_differ_are_groups_that_say_in_what(tmp_path):
    found = [put(tmp_path / str(seed), metrics(seed)) for seed in range(2)]
    warm = [put(tmp_path / f"w{s}", metrics(s), ec__temperature=0.2) for s in range(2)]
    both = put(tmp_path / "b", metrics(1), ec__temperature=0.2, unlearn__steps=10)
    assert labels(read(*found, *warm)) == {
        "ec (ec.temperature=0.1)": [0, 1],
        "ec (ec.temperature=0.2)": [0, 1],
    }
    assert labels(read(*found, *warm, both)) == {
        "ec (ec.temperature=0.1, unlearn.steps=80)": [0, 1],
        "ec (ec.temperature=0.2, unlearn.steps=80)": [0, 1],
        "ec (ec.temperature=0.2, unlearn.steps=10)": [1],
    }


def test_fields_that_change_no_number_make_no_groups(tmp_path):
    free = {"checkpoint__every": 7, "parallel__devices": 1, "original__checkpoint": "elsewhere"}
    found = read(
        put(tmp_path / "a", metrics(0)),
        put(tmp_path / "b", metrics(1), **free),
    )
    assert labels(found) == {"ec": [0, 1]}


def test_another_methods_config_is_its_own_affair(tmp_path):
    found = read(
        put(tmp_path / "a", metrics(0)),
        put(tmp_path / "b", metrics(0, method="head_distill"), unlearn__steps=3),
    )
    assert labels(found) == {"ec": [0], "head_distill": [0]}


def test_a_run_without_its_config_is_not_averaged_with_one_that_has_it(tmp_path):
    found = read(put(tmp_path / "a", metrics(0)), put_alone(tmp_path, metrics(1)))
    assert labels(found) == {"ec": [0], "ec (config unknown)": [1]}


def test_a_method_called_like_a_reference_is_told_from_it(tmp_path):
    assert labels(read(put(tmp_path / "a", metrics(method="oracle")))) == {"method oracle": [0]}


def test_the_same_run_twice_is_refused(tmp_path):
    one = put(tmp_path / "one", metrics(1))
    copy = str(shutil.copytree(one, tmp_path / "copy"))
    with pytest.raises(InputError) as error:
        runs_lib.groups(read(one, put(tmp_path / "other", metrics(0)), copy))
    said = f"seed = 1: given twice for ec, in {one} and {copy}; leave one of them out"
    assert str(error.value) == said


# References.


def test_an_original_that_methods_share_is_counted_once(tmp_path):
    # The other run measured less, and one number more.
    other = metrics(0, method="head_distill")
    other["models"]["original"] = {"accuracy/forget_test": 100.0, "fresh": 5.0}
    found, notes = runs_lib.references(read(*DIGITS, put(tmp_path / "a", other)), "original")
    assert [r.seed for r in found] == [0, 1, 2]
    assert found[0].numbers == {**metrics(0)["models"]["original"], "fresh": 5.0}
    assert [len(r.runs) for r in found] == [2, 1, 1]
    assert notes == []


def test_two_originals_of_one_seed_are_both_counted_and_told(tmp_path):
    other = metrics(1, method="head_distill")
    other["models"]["original"]["accuracy/retain_test"] = 12.5
    folder = put(tmp_path / "a", other)
    found, notes = runs_lib.references(read(*DIGITS, folder), "original")
    assert [r.seed for r in found] == [0, 1, 1, 2]
    (note,) = notes
    assert note.startswith(f"The original of seed 1 is not the same in {DIGITS[1]} and {folder}")
    published = metrics(1)["models"]["original"]["accuracy/retain_test"]
    assert f"(accuracy/retain_test is {published} and 12.5)" in note


def test_runs_without_an_oracle_have_none():
    found = read(DIGITS[0])
    del found[0].models["oracle"]
    assert runs_lib.references(found, "oracle") == ([], [])
