"""Grids: every sweep fits the locked configs, cells share what they start from, all resumes."""

import importlib
import json
from pathlib import Path

import pytest
from command import ROOT, changed, command, refused

from configs import digits, fashion_mnist
from ec_jax import config as config_lib
from ec_jax import pipeline, recipes, registry, sweep
from ec_jax import workdir as workdir_lib
from ec_jax.errors import InputError

SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.py"))
CONFIGS = {
    "digits": digits.get_config(),
    "fashion_mnist_one": fashion_mnist.get_config("one"),
    "fashion_mnist_three": fashion_mnist.get_config("three"),
    "fashion_mnist_samples": fashion_mnist.get_config("samples"),
}
SMALL = (
    "--config=configs/digits.py",
    "--config.model.depth=8",
    "--config.model.width=4",
    "--config.original.epochs=1",
    "--config.unlearn.steps=2",
    "--config.evaluation.metrics=accuracy,cka,gap",
)


@pytest.fixture
def without_archives(monkeypatch):
    from ec_jax.data import sources

    monkeypatch.setattr(sources, "check", lambda *_: None)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_row_of_every_sweep_is_a_valid_config(path, name, without_archives):
    config = CONFIGS[name]
    rows = sweep.load_rows(str(path), recipes.complete(config))
    assert rows
    seen = {}
    for row, settings in rows.items():
        cell = sweep.cell_config(config, settings | {"seed": 1}, [])
        config_lib.validate(cell)
        pipeline.checked(cell)
        values = config_lib.flatten(cell)
        assert settings.items() <= values.items()
        same = seen.setdefault(json.dumps(values, sort_keys=True), row)
        assert same == row, "two rows are one"


def test_the_study_has_every_method():
    rows = importlib.import_module("configs.sweeps.methods").get_rows(CONFIGS["digits"])
    assert {s["method"] for s in rows.values()} == set(registry.names())
    for row, settings in rows.items():
        assert row.endswith("+ec") == settings.get("ec.plugin", False)


def test_a_row_outranks_the_command_line_and_that_the_recipe():
    config = digits.get_config().unlock()
    config.recipes = {"scrub": {"unlearn": {"steps": 7, "batch_norm": "train"}}}
    config.seed = 5
    row = {"method": "scrub", "unlearn.batch_norm": "inference"}
    cell = sweep.cell_config(config.lock(), row, [])
    assert (cell.unlearn.steps, cell.unlearn.batch_norm, cell.seed) == (7, "inference", 5)
    cell = sweep.cell_config(config, row, ["unlearn.steps"])
    assert cell.unlearn.steps == digits.get_config().unlearn.steps
    cell = sweep.cell_config(config, row | {"unlearn.steps": 9}, ["unlearn.steps"])
    assert cell.unlearn.steps == 9


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"method": "ssd", "ec.plugin": True}, "ec.plugin = True: ssd is no method"),
        ({"ec.plugin": True, "ec.points": "stage4", "ec.weights": "1"}, "ec.points = 'stage4'"),
        ({"method": "contrastive", "contrastive.candidates": "forget"}, "contrastive.candidates ="),
        ({"method": "ec_guided", "ec.weights": "0,0,0,1"}, "ec.weights = '0,0,0,1'"),
    ],
    ids=lambda v: v.get("method") if isinstance(v, dict) else "",
)
def test_what_a_method_refuses_is_refused_before_any_cell_runs(row, says, tmp_path, monkeypatch):
    from ec_jax import cells

    monkeypatch.setattr(cells, "Cells", None)
    common, rows = digits.get_config(), {"good": {}, "bad": {"method": "scrub"} | row}
    grid = {(name, 0): sweep.cell_config(common, settings, []) for name, settings in rows.items()}
    for cell in grid.values():
        config_lib.validate(cell)
    with pytest.raises(InputError) as refusal:
        sweep.run(common, grid, tmp_path / "grid")
    assert says in str(refusal.value)
    assert not (tmp_path / "grid").exists()


def test_a_cell_that_was_cut_off_at_its_start_is_still_its_own(tmp_path, monkeypatch):
    from ec_jax import cells

    def killed(*_, **__):
        raise KeyboardInterrupt

    (tmp_path / "shared" / "checkpoints" / "original").mkdir(parents=True)
    monkeypatch.setattr(cells.Cells, "_measured", lambda *_: ({}, {}))
    for name in ("_references", "_starts"):
        monkeypatch.setattr(cells.Cells, name, lambda *_: tmp_path / "shared")
    monkeypatch.setattr(cells, "Experiment", killed)
    config, cell = digits.get_config(), tmp_path / "cell"
    with pytest.raises(KeyboardInterrupt):
        cells.Cells(config, tmp_path).run(config, cell)
    assert (cell / "checkpoints" / "original").is_symlink()
    workdir_lib.check_workdir(config, cell)


def test_a_shared_training_is_named_by_what_it_depends_on_alone(tmp_path, monkeypatch):
    from ec_jax import cells

    monkeypatch.setattr(cells.Cells, "_train", lambda _, config, stages, folder: folder)
    monkeypatch.setattr(cells, "_link", lambda *_: None)

    def names(**fields):
        c = changed(recipes.complete(digits.get_config()), **fields)
        found = cells.Cells(c, tmp_path)
        references = found._references(c)
        return references.name, found._starts(c, references).name

    usual = names()
    assert names(unlearn__optimizer__learning_rate=0.3, ec__temperature=0.2) == usual
    assert names(evaluation__neighbors=3, report__log_every=7) == usual
    references, starts = names(modules__epochs=1.0)
    assert references == usual[0]
    assert starts != usual[1]
    for field, value in (("seed", 1), ("model__width", 8), ("forget__classes", "4")):
        assert not set(names(**{field: value})) & set(usual)


@pytest.mark.slow
def test_a_grid_shares_what_it_starts_from_resumes_and_tells_of_failures(tmp_path):
    rows = tmp_path / "rows.py"
    rows.write_text(
        "def get_rows(config):\n"
        "    hot = {'unlearn.optimizer.learning_rate': 1e30, 'unlearn.optimizer.clip': 0.0}\n"
        "    return {\n"
        "        'finetune': {'method': 'finetune'},\n"
        "        'scrub+ec': {'method': 'scrub', 'ec.plugin': True},\n"
        "        'fresh': {'modules.epochs': 0.0},\n"
        "        'hot': {'method': 'finetune', **hot},\n"
        "    }\n"
    )
    workdir = tmp_path / "grid"
    arguments = (*SMALL, f"--sweep={rows}", f"--workdir={workdir}", "--seeds=0,3")
    done = command(*arguments, module="ec_jax.sweep", timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sweep: failed: hot, seed") == 2
    results = workdir / "results"
    names = {
        f"{row}-seed{seed}.json" for row in ("finetune", "scrub+ec", "fresh") for seed in (0, 3)
    }
    assert {p.name for p in results.iterdir()} == names
    found = {p.stem: json.loads(p.read_text()) for p in results.iterdir()}
    for stem, metrics in found.items():
        about = metrics["scenario"]
        assert stem == f"{about['method']}-seed{about['seed']}"
    # A reference is one model for all rows of a seed, and another for another seed.
    for model in ("original", "oracle"):
        of = {stem: json.dumps(m["models"][model]) for stem, m in found.items()}
        assert of["finetune-seed0"] == of["scrub+ec-seed0"] == of["fresh-seed0"]
        assert of["finetune-seed0"] != of["finetune-seed3"]
    shared = sorted(p.name.partition("-")[0] for p in (workdir / "shared").iterdir())
    assert shared == ["references"] * 2 + ["starts"] * 4  # modules trained, and fresh ones
    _is_what_a_run_of_its_own_gives(workdir, found["finetune-seed3"], tmp_path)

    before = {p: p.stat().st_mtime_ns for p in (workdir / "shared").rglob("*")}
    (results / "fresh-seed0.json").unlink()  # as if it had been killed there
    done = command(*arguments, module="ec_jax.sweep", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "cell 3 of 8" in done.stdout
    assert "cell 1 of 8" not in done.stdout
    assert json.loads((results / "fresh-seed0.json").read_text()) == found["fresh-seed0"]
    assert {p: p.stat().st_mtime_ns for p in (workdir / "shared").rglob("*")} == before
    refused(
        *arguments,
        "--config.unlearn.steps=3",
        module="ec_jax.sweep",
        says=("workdir = ", "unlearn.steps is 2 there and 3 here"),
    )


def _is_what_a_run_of_its_own_gives(workdir: Path, shared: dict, tmp_path: Path) -> None:
    """Links and numbers known before change nothing, to the last bit."""
    arguments = (*SMALL, "--config.method=finetune", "--config.seed=3")
    done = command(*arguments, f"--workdir={tmp_path / 'alone'}", timeout=300)
    assert done.returncode == 0, done.stderr
    alone = json.loads((tmp_path / "alone" / "metrics.json").read_text())
    assert alone["models"] == shared["models"]
    assert alone["scenario"] == shared["scenario"]
    assert alone["cost"].keys() == shared["cost"].keys()


def test_a_run_and_a_grid_do_not_share_a_folder(tmp_path):
    common = recipes.complete(digits.get_config())
    for left, foreign in (("checkpoints", workdir_lib.OF_A_RUN), ("shared", workdir_lib.OF_A_GRID)):
        folder = tmp_path / left
        workdir_lib.check_workdir(common, folder, foreign=foreign)
        (folder / left).mkdir(parents=True)
        workdir_lib.write_resolved(common, folder)
        workdir_lib.check_workdir(common, folder)
        with pytest.raises(InputError, match=rf"holds {left} of another command; choose another"):
            workdir_lib.check_workdir(common, folder, foreign=foreign)
