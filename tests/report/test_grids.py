"""The ablation and the crossing: from a sweep's files to a file, a table and a figure."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from configs import digits
from docs import grids, publish, study
from ec_jax import config_file, recipes, sweep
from ec_jax import workdir as workdir_lib
from ec_jax.errors import InputError
from ec_jax.report import costs
from ec_jax.report.comparison import Row
from ec_jax.report.summary import spread

ROOT = Path(__file__).parent.parent.parent
PUBLISHED = [(g, s) for g in grids.SWEEPS for s in study.SCENARIOS if grids.load(g, s)]
# Rows of a sweep, and the published runs that stand for them.
ABLATION = {
    "default": "ec",
    "proxy=10": "ec_proxy",
    "proxy=2": "ec_pseudo",
    "kind=mlp": "ec_targeted",
}
CROSSING = {
    "1x-ec-2": "ec",
    "1x-ec-0.5": "finetune",
    "1x-scratch-0.1": "scratch_matched",
    "0.5x-scratch-0.1": "scratch_matched_ec",
}


@pytest.fixture
def publishing(tmp_path, monkeypatch):
    """A function that publishes a grid whose cells are published runs."""
    study_files = study.RESULTS / "digits"
    monkeypatch.setattr(study, "RESULTS", tmp_path / "results")

    def publish_rows(name, rows, settings=None):
        folder = tmp_path / "sweep"
        (folder / "results").mkdir(parents=True)
        config = recipes.complete(digits.get_config()).unlock()
        usual = grids.SETTINGS[name.partition("/")[0]]
        config.update_from_flattened_dict(usual if settings is None else settings)
        workdir_lib.write_resolved(config, folder)
        for row, run in rows.items():
            for seed in range(3):
                source = study_files / f"{run}-seed{seed}.json"
                shutil.copy(source, folder / "results" / f"{row}-seed{seed}.json")
        publish.publish(name, folder)
        return study_files

    return publish_rows


def numbers(files, run, key, model="unlearned"):
    found = (json.loads((files / f"{run}-seed{seed}.json").read_text()) for seed in range(3))
    return [metrics["models"][model][key] for metrics in found]


def test_a_grids_numbers_are_those_of_its_cells(publishing):
    files = publishing("ablation/digits", ABLATION)
    rows = grids.load("ablation", "digits")
    assert rows.keys() == {*ABLATION, "original", "oracle"}
    for row, run in ABLATION.items():
        assert rows[row].seeds == (0, 1, 2)
        for key in ("gap/representation", "closeness/oracle", "accuracy/forget_test"):
            mean = np.mean(numbers(files, run, key))
            assert rows[row].spread(key).mean == pytest.approx(mean, abs=1e-5)
    assert len(rows["default"].verdicts) == 3
    assert rows["oracle"].spread("closeness/oracle").mean == 1
    assert rows["original"].spread("closeness/original").mean == 1
    assert rows["oracle"].spread("cost/flops").mean == 100


def test_the_ablation_is_shown_field_by_field_in_the_order_of_the_values(publishing):
    files = publishing("ablation/digits", ABLATION)
    lines = grids.ablation_table("digits").splitlines()[2:]
    labels = [line.split("|")[1].strip() for line in lines]
    assert labels[:4] == ["*references*", "original", "oracle", "default"]
    assert [name for name in labels if "proxy" in name] == ["*proxy*", "proxy=2", "proxy=10"]
    gaps = numbers(files, "ec", "gap/representation")
    assert f"{np.mean(gaps):.3f} ± {np.std(gaps, ddof=1):.3f}" in lines[3]


def test_what_a_value_changes_is_reckoned_seed_by_seed(publishing):
    files = publishing("ablation/digits", ABLATION)
    lines = grids.differences_table("digits").splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == [
        "kind=mlp − default",
        "proxy=2 − default",
        "proxy=10 − default",
    ]
    row, base = (numbers(files, run, "gap/representation") for run in ("ec_pseudo", "ec"))
    apart = [round(a, 5) - round(b, 5) for a, b in zip(row, base, strict=True)]
    cell = f"{np.mean(apart):.3f} ± {np.std(apart, ddof=1):.3f}".replace("-", "−")
    assert f"| {cell} |" in lines[1]
    without = Row("a", "method", (0,), ({},))
    assert study.difference(without, grids.load("ablation", "digits")["default"], "gap") is None


def test_the_crossing_has_a_panel_a_length_and_a_line_a_method(publishing):
    files = publishing("crossing/digits", CROSSING)
    found = grids.crossing_lines("digits")
    assert list(found) == [0.5, 1.0]
    assert found[1.0].keys() == {"ec", "scratch"}
    assert [x for x, *_ in found[1.0]["ec"]] == sorted(x for x, *_ in found[1.0]["ec"])
    (plot,) = grids.pictures("crossing", "digits").values()
    half, whole = plot.figure.axes
    assert "trained 0.5 × its epochs" in half.texts[0].get_text()
    near = np.mean(numbers(files, "scratch_matched_ec", "closeness/oracle"))
    original, line = half.lines[:2]
    assert line.get_ydata() == pytest.approx([near], abs=1e-5)
    before = np.mean(numbers(files, "ec", "closeness/oracle", "original"))
    assert original.get_ydata()[0] == pytest.approx(before, abs=1e-5)
    assert len(whole.lines) == 3
    assert f"{near:.3f}" in plot.alt


def test_a_band_is_as_wide_as_the_seeds_deviate():
    points = {"a": [(1.0, spread([0.5, 0.7]), True), (10.0, spread([0.8]), False)]}
    (axes,) = costs.crossing({"": points}, {}).figure.axes
    line, hollow = axes.lines
    assert (list(line.get_xdata()), list(hollow.get_xdata())) == ([1.0, 10.0], [10.0])
    assert hollow.get_markerfacecolor() == "white"
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    deviation = np.std([0.5, 0.7], ddof=1)
    assert heights.min() == pytest.approx(0.6 - deviation)
    assert heights.max() == pytest.approx(0.8)


def test_an_ablation_on_test_images_is_not_published(publishing):
    with pytest.raises(InputError, match=r"data.validation is 0.0 there and 0.2 here"):
        publishing("ablation/digits", ABLATION, {})


def test_a_grid_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"SCENARIO = 'lambda/digits': one of digits, .*ablation"):
        publish.publish("lambda/digits", tmp_path)


# Rows of which a cell failed, which the reading says.
SHORT = {("crossing", "digits"): {"2x-ec_guided-2": (0, 1)}}


@pytest.mark.parametrize(("grid", "scenario"), PUBLISHED)
def test_a_published_grid_has_every_row_with_three_seeds(grid, scenario):
    config = recipes.complete(config_file.load(study.SCENARIOS[scenario]))
    rows = sweep.load_rows(str(ROOT / grids.SWEEPS[grid]), config)
    found = {name: row.seeds for name, row in grids.load(grid, scenario).items()}
    found = {name: seeds for name, seeds in found.items() if not name.endswith(grids.REFERENCES)}
    short = SHORT.get((grid, scenario), {})
    assert found == dict.fromkeys(rows, (0, 1, 2)) | short
    assert bool(short) == ("the features collapsed" in publish.READING[f"{grid}/{scenario}"])
