"""The published runs: the pages are made from them, and they show what the recipes promise."""

import json
import shutil
from pathlib import Path

import pytest
from command import changed

from configs import digits
from docs import publish
from ec_jax import workdir as workdir_lib
from ec_jax.report import summary, table

ROOT = Path(__file__).parent.parent.parent
LAST = "stage4"
RUNS = [(s, run) for s in publish.COMMANDS for run in publish.load(s)]
each_run = pytest.mark.parametrize(
    ("scenario", "run"), RUNS, ids=[f"{s}-{r['scenario']['seed']}" for s, r in RUNS]
)


def test_every_scenario_has_three_seeds():
    found = {(scenario, run["scenario"]["seed"]) for scenario, run in RUNS}
    assert found == {(s, seed) for s in publish.COMMANDS for seed in range(3)}


def test_the_pages_are_what_the_files_give():
    assert (ROOT / "docs" / "results.md").read_text() == publish.results_page()
    assert (ROOT / "README.md").read_text() == publish.readme()
    assert (ROOT / "docs" / "audit.md").read_text() == publish.audit_page()


@pytest.mark.parametrize("scenario", publish.COMMANDS)
def test_the_control_is_superficial(scenario):
    (run,) = publish.load(scenario, "head_distill")
    assert run["models"]["unlearned"]["accuracy/forget_test"] <= 1
    assert table.judged(run)[0].name == "superficial"
    same = publish.load(scenario)[0]["models"]
    for reference in ("original", "oracle"):
        assert run["models"][reference] == same[reference]


@each_run
def test_the_class_is_forgotten_as_the_oracle_forgets_it(scenario, run):
    original, oracle, unlearned = (run["models"][m] for m in ("original", "oracle", "unlearned"))
    key = "accuracy/forget_test"
    assert original[key] >= 90
    assert unlearned[key] <= oracle[key] + (5 if scenario == "digits" else 2)
    if scenario != "digits":
        assert unlearned["accuracy/forget_train"] <= 2
    lost = oracle["accuracy/retain_test"] - unlearned["accuracy/retain_test"]
    assert lost <= (2 if scenario == "digits" else 1.5)


@each_run
def test_the_last_stages_leave_the_original_as_far_as_the_oracle(scenario, run):
    oracle, unlearned = (run["models"][m] for m in ("oracle", "unlearned"))
    points, margin = ([LAST], 0.1) if scenario == "digits" else (["stage3", LAST], 0.05)
    for point in points:
        key = f"cka_to_original/forget_test/{point}"
        assert unlearned[key] <= oracle[key] + margin


@each_run
def test_unlearning_is_short_and_does_not_collapse(scenario, run):
    assert run["cost"]["unlearn"]["steps"] <= 0.26 * run["cost"]["oracle"]["steps"]
    original, unlearned = (run["models"][m] for m in ("original", "unlearned"))
    key = f"variance/forget_test/{LAST}"
    assert unlearned[key] >= original[key] / 5


@pytest.mark.parametrize("run", [r for s, r in RUNS if s != "digits"], ids=lambda r: "")
def test_neighbours_of_forgotten_images_move_towards_the_oracles(run):
    key = f"knn/forget_test/{LAST}"
    original, oracle, unlearned = (
        run["models"][m][key] for m in ("original", "oracle", "unlearned")
    )
    assert oracle < original
    assert unlearned <= original - (original - oracle) / 4


# The mean and the spread.


def two():
    runs = [json.loads(json.dumps(publish.load("digits")[0])) for _ in range(2)]
    for seed, run in enumerate(runs):
        run["scenario"]["seed"] = seed
        run["models"]["unlearned"]["accuracy/forget_test"] = 4.0 * seed
    return runs


def test_a_cell_is_the_mean_the_lowest_and_the_highest():
    shown = summary.markdown(two())
    (row,) = (x for x in shown.splitlines() if x.startswith("| accuracy, forget, test (%)"))
    assert row.split(" | ")[3] == "2.0 (0.0 to 4.0)"
    assert "(" not in row.split(" | ")[1]


def test_runs_of_different_scenarios_are_not_mixed():
    runs = two()
    runs[1]["scenario"]["forget_classes"] = [4]
    with pytest.raises(ValueError, match="all of the same scenario"):
        summary.markdown(runs)
    with pytest.raises(ValueError, match="0 runs"):
        summary.markdown([])


def test_a_number_missing_from_some_runs_says_how_many_have_it():
    runs = two()
    del runs[0]["models"]["unlearned"]["accuracy/forget_test"]
    shown = summary.markdown(runs)
    (row,) = (x for x in shown.splitlines() if x.startswith("| accuracy, forget, test (%)"))
    assert row.startswith("| accuracy, forget, test (%); 1 of 2 seeds | 100.0 | 0.0 | 4.0 |")
    del runs[1]["models"]["unlearned"]["accuracy/forget_test"]
    assert "| accuracy, forget, test" not in summary.markdown(runs)


SOURCE = ROOT / "docs" / "results" / "digits" / "ec-seed1.json"


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    """A run of the digits config, seed 1, and a folder of its own for what is published."""
    monkeypatch.setattr(publish, "RESULTS", tmp_path / "results")
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(SOURCE, folder / "metrics.json")
    workdir_lib.write_resolved(changed(digits.get_config(), seed=1), folder)
    return folder


def test_publishing_takes_a_run_under_its_method_and_seed(run_dir):
    publish.publish("digits", [run_dir])
    assert publish.load("digits") == [json.loads(SOURCE.read_text())]
    with pytest.raises(SystemExit, match="scenario 'dogs': one of digits"):
        publish.publish("dogs", [])


def test_a_run_of_another_config_is_not_published(run_dir):
    other = changed(digits.get_config(), seed=1, unlearn__steps=3)
    workdir_lib.write_resolved(other, run_dir)
    with pytest.raises(SystemExit, match=r"unlearn.steps is 3 there and 240 here"):
        publish.publish("digits", [run_dir])
    assert not publish.RESULTS.exists()
