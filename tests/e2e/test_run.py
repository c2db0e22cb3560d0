"""The whole experiment on digits: what it leaves, and that a second start does nothing anew."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command import ROOT
from PIL import Image
from small_run import small

from configs import digits
from ec_jax import checkpoint
from ec_jax.data import augment
from ec_jax.errors import InputError, TrainingError
from ec_jax.evaluation import measure
from ec_jax.evaluation.cka import linear_cka
from ec_jax.models.network import shapes
from ec_jax.pipeline import Experiment

SPLITS = ("forget_train", "retain_train", "forget_test", "retain_test")


@pytest.fixture(scope="module")
def metrics(workdir):
    return json.loads((workdir / "metrics.json").read_text())


def test_metrics_have_schema_scenario_models_and_cost(metrics):
    assert metrics["schema"] == 1
    assert set(metrics) == {"schema", "scenario", "models", "cost"}
    assert set(metrics["models"]) == {"original", "oracle", "unlearned"}
    assert metrics["scenario"]["forget_classes"] == [3]
    assert metrics["scenario"]["dataset"] == "digits"
    assert sum(metrics["scenario"]["images"].values()) == 1797
    for stage in ("original", "oracle", "modules", "unlearn"):
        assert set(metrics["cost"][stage]) == {"seconds", "steps", "images", "flops"}
        assert metrics["cost"][stage]["flops"] % metrics["cost"][stage]["steps"] == 0
    # The same network, recipe and batch: the same operations a step.
    a_step = [c["flops"] / c["steps"] for c in map(metrics["cost"].get, ("original", "oracle"))]
    assert a_step[0] == a_step[1] > 0
    assert metrics["cost"]["unlearn"]["steps"] == 12
    assert metrics["cost"]["unlearn"]["images"] == 12 * (
        small().data.retain_batch_size + small().data.forget_batch_size
    )


def test_every_model_has_every_number(metrics):
    keys = {f"{m}/{s}" for m in ("accuracy", "agreement") for s in SPLITS}
    for split in SPLITS:
        for point in metrics["scenario"]["points"]:
            keys |= {f"cka_to_{r}/{split}/{point}" for r in ("original", "oracle")}
            keys |= {f"cka_unbiased_to_{r}/{split}/{point}" for r in ("original", "oracle")}
            keys.add(f"variance/{split}/{point}")
    for split in ("forget_test", "retain_test"):
        keys |= {f"knn/{split}/{p}" for p in (*metrics["scenario"]["points"], "logits")}
        keys |= {f"probe/{split}/{p}" for p in metrics["scenario"]["points"]}
        keys.add(f"misalignment/nearest_mean_{split}")
    keys |= {f"probe_converged/{p}" for p in metrics["scenario"]["points"]}
    keys |= {"misalignment/head_to_mean", "misalignment/head_to_probe", "mia/forget_train"}
    steps = ("steps/0", "steps/1", "steps/2", "steps/5", "steps/10", "steps/20", "area")
    heads = ("head/forget_test", "head/retain_test", "retain_after", "head_excess", "area_excess")
    keys |= {f"recovery/{name}" for name in (*steps, *heads)}
    for point in metrics["scenario"]["points"]:
        keys |= {f"idi_information/{point}{end}" for end in ("", "/seed0", "/seed1")}
        keys.add(f"idi_spread/{point}")
    keys |= {"idi/difference", "idi/denominator"}
    keys |= {"rus/to_original", "rus/to_oracle", "gap/logit", "gap/representation"}
    keys |= {"closeness/original", "closeness/oracle"}
    for name, values in metrics["models"].items():
        # With a small denominator the index is left out.
        assert set(values) - {"idi/value", "idi/spread"} == keys, name
        assert np.isfinite(list(values.values())).all()


def test_similarity_to_itself_is_one_and_accuracies_are_percent(metrics):
    for split in SPLITS:
        for model in ("original", "oracle"):
            key = f"cka_to_{model}/{split}/stage3"
            assert metrics["models"][model][key] == pytest.approx(1, abs=1e-5)
        assert metrics["models"]["oracle"][f"agreement/{split}"] == 100
    assert metrics["models"]["original"]["accuracy/retain_train"] > 50
    assert metrics["models"]["oracle"]["accuracy/forget_train"] == 0


def test_metrics_are_those_of_the_checkpoints(workdir, metrics):
    """Accuracy and CKA again from the delivered parameters, without the pipeline's evaluation."""
    experiment = Experiment(small(), workdir)
    network = experiment.scenario.network(modules=False)
    rows = experiment.scenario.splits["retain_test"]
    images = experiment.scenario.data.test_images[rows].astype(np.float32) / 255
    mean, std = experiment.scenario.moments
    normalised = (images - mean) / std
    found = {}
    for name in ("original", "unlearned"):
        tree = experiment.model(name)
        found[name] = network.activations({k: {"backbone": v} for k, v in tree.items()}, normalised)
    maps, logits = found["unlearned"]
    accuracy = 100 * np.mean(np.argmax(logits, -1) == experiment.scenario.data.test_labels[rows])
    assert metrics["models"]["unlearned"]["accuracy/retain_test"] == pytest.approx(accuracy)
    for point in network.points:
        cka = linear_cka(maps[point].mean((1, 2)), found["original"][0][point].mean((1, 2)))
        key = f"cka_to_original/retain_test/{point}"
        assert metrics["models"]["unlearned"][key] == pytest.approx(float(cka), abs=1e-4)


@pytest.mark.parametrize("of", ["gap", "map"])
def test_models_that_were_seen_before_are_not_run_again(workdir, of):
    experiment = Experiment(small(evaluation__features=of), workdir)
    models = {name: experiment.model(name) for name in ("original", "oracle", "unlearned")}
    references = {name: models[name] for name in ("original", "oracle")}
    plain, _ = measure.measure(experiment.scenario, models)
    seen = measure.features(experiment.scenario, references)
    known = {name: plain[name] for name in references}
    if seen:  # whole activations cannot be kept: the model itself is asked again
        models |= jax.tree.map(np.zeros_like, references)
    again, _ = measure.measure(experiment.scenario, models, known=known, seen=seen)
    assert bool(seen) == (of == "gap")
    assert again == plain


def test_the_run_leaves_config_table_plot_and_scalars(workdir):
    assert json.loads((workdir / "config.json").read_text())["unlearn"]["steps"] == 12
    table = (workdir / "table.md").read_text()
    for word in ("original", "oracle", "unlearned", "CKA to original, forget, test, stage3"):
        assert word in table
    with Image.open(workdir / "cka.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 400
    for stage in ("original", "oracle", "modules", "unlearn"):
        assert list((workdir / "tensorboard" / stage).glob("events*"))
    page = (workdir / "report.html").read_text()
    for word in ("Erased", "Superficial", "Damaged", "Not forgotten"):
        if word.lower() in table.split("Verdict: ")[1].split("**")[0]:
            assert word in page
    assert "python -m ec_jax.main" not in page  # it was not started by a command
    assert not list(workdir.rglob("*.part"))
    assert not list(workdir.rglob("*tmp*"))


def test_the_readme_shows_how_a_delivered_model_is_loaded(workdir, metrics, monkeypatch):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    config = small()
    monkeypatch.setattr(digits, "get_config", lambda: config)
    scenario = Experiment(config, workdir).scenario
    assert "test_images[:5]" in code  # here all of them
    found = {}
    exec(code.replace("runs/digits", str(workdir)).replace("[:5]", ""), found)
    rows = scenario.splits["retain_test"]
    hits = np.argmax(found["logits"], -1)[rows] == scenario.data.test_labels[rows]
    key = "accuracy/retain_test"
    assert metrics["models"]["unlearned"][key] == pytest.approx(100 * hits.mean())


def test_a_second_start_changes_no_file(workdir, capsys):
    def stamps():
        return {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.name != "config.json"}

    before = {p: s for p, s in stamps().items() if p.is_file()}
    Experiment(small(), workdir).run()
    after = {p: s for p, s in stamps().items() if p.is_file()}
    assert after == before
    shown = capsys.readouterr().out
    assert "step " not in shown
    assert "unlearn: done" in shown
    assert "CKA to original" in shown


def test_a_report_is_made_anew_without_the_data_and_without_details(workdir, tmp_path):
    old = shutil.copytree(workdir, tmp_path / "old")
    for name in ("details.json", "report.html"):
        (old / name).unlink()
    experiment = Experiment(small(stages="report"), old)
    experiment.run()
    assert "data" not in vars(experiment.scenario)  # it was not loaded
    assert "An embedding of the features was not" in (old / "report.html").read_text()


def test_stages_can_be_picked_and_an_original_brought_along(workdir, tmp_path, metrics):
    original = str(workdir / "checkpoints" / "original")
    config = small(original__checkpoint=original, stages="original,oracle,modules,unlearn")
    Experiment(config, tmp_path / "a").run()
    assert not (tmp_path / "a" / "metrics.json").exists()
    assert not (tmp_path / "a" / "checkpoints" / "original").exists()
    Experiment(small(original__checkpoint=original, stages="evaluate,report"), tmp_path / "a").run()
    again = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert again["models"] == metrics["models"]
    assert again["cost"]["original"] is None


def test_stages_whose_forerunners_are_missing_are_refused(tmp_path):
    with pytest.raises(InputError, match="unlearn needs original"):
        Experiment(small(stages="unlearn"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_of_another_model_is_refused_by_its_first_parameter(workdir, tmp_path):
    original = str(workdir / "checkpoints" / "original")
    with pytest.raises(InputError, match=r"params/head/kernel is \(16, 10\) there and \(32, 10\)"):
        Experiment(small(original__checkpoint=original, model__width=8), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_delivered_models_have_the_originals_parameters_and_no_modules(workdir):
    found = [
        shapes(Experiment(small(), workdir).model(name))
        for name in ("original", "oracle", "unlearned")
    ]
    assert found[0] == found[1] == found[2]
    assert not any("modules" in name for name in found[0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"unlearn__optimizer__learning_rate": 1e20, "unlearn__optimizer__clip": 0.0},
            "is (nan|inf)",
        ),
        ({"unlearn__optimizer__weight_decay": 7.5, "unlearn__optimizer__clip": 0.0}, "collapsed"),
    ],
)
def test_a_run_that_goes_bad_stops_and_keeps_its_last_good_checkpoint(
    workdir, tmp_path, overrides, message
):
    settings = {
        "original__checkpoint": str(workdir / "checkpoints" / "original"),
        "stages": "modules,unlearn",
        "checkpoint__every": 1,
        "checkpoint__keep": 20,
        **overrides,
    }
    with pytest.raises(TrainingError, match=rf"unlearn: step \d+: .*{message}"):
        Experiment(small(**settings), tmp_path / "bad").run()
    folder = tmp_path / "bad" / "checkpoints" / "unlearn"
    kept = checkpoint.latest_step(folder)
    if "collapsed" not in message:  # it is ruined at once, and seen before anything is saved
        assert kept is None
        return
    assert 0 < kept < 12
    experiment = Experiment(small(), workdir)
    good = checkpoint.load_model(folder, experiment.scenario.model_shapes())
    variance = [_variance(experiment, tree) for tree in (good, experiment.model("original"))]
    assert variance[0] >= small().unlearn.min_spread * variance[1]


def _variance(experiment, tree):
    rows = experiment.scenario.splits["forget_train"]
    images = augment.normalize(
        experiment.scenario.data.train_images[rows], *experiment.scenario.moments
    )
    points, _ = experiment.scenario.network(modules=False).activations(
        {k: {"backbone": v} for k, v in tree.items()}, images
    )
    return float(np.asarray(points["stage3"]).mean((1, 2)).var(axis=0).mean())


def test_a_last_step_that_ruins_the_model_is_not_saved(workdir, tmp_path):
    settings = {
        "original__checkpoint": str(workdir / "checkpoints" / "original"),
        "unlearn__steps": 1,
        "unlearn__optimizer__learning_rate": 1e20,
        "unlearn__optimizer__clip": 0.0,
    }
    with pytest.raises(TrainingError, match=r"unlearn: step 2: .*--config.original.checkpoint="):
        Experiment(small(**settings), tmp_path / "bad").run()
    assert checkpoint.latest_step(tmp_path / "bad" / "checkpoints" / "unlearn") is None
    assert not (tmp_path / "bad" / "metrics.json").exists()


def test_a_gradient_that_is_nan_stops_a_run_whose_loss_is_finite(workdir, tmp_path, monkeypatch):
    original = str(workdir / "checkpoints" / "original")
    settings = {"original__checkpoint": original, "stages": "modules,unlearn"}
    experiment = Experiment(small(**settings), tmp_path / "bad")
    method = type(experiment._method)
    before = method.loss

    def loss(self, step):
        value, metrics = before(self, step)
        nothing = 0.0 * sum(jnp.sum(a) for a in jax.tree.leaves(step.params))
        # The root of 0 is 0, and its slope is not finite; from the third step on.
        return value + jnp.where(step.count < 2, 0.0, 1.0) * jnp.sqrt(nothing), metrics

    monkeypatch.setattr(method, "loss", loss)
    with pytest.raises(TrainingError, match=r"unlearn: step \d+: grad_norm is nan; lower unlearn"):
        experiment.run()
    assert checkpoint.latest_step(tmp_path / "bad" / "checkpoints" / "unlearn") is None


def test_a_model_that_is_not_finite_is_not_evaluated(workdir, tmp_path):
    bad = shutil.copytree(workdir, tmp_path / "bad")
    for name in ("metrics.json", "table.md", "cka.png"):
        (bad / name).unlink()
    experiment = Experiment(small(), bad)
    load = experiment.model
    experiment.model = lambda name: jax.tree.map(lambda a: a * np.nan, load(name))
    with pytest.raises(TrainingError, match="forget_train of the original model is nan"):
        experiment.run()
    assert not (bad / "metrics.json").exists()


def test_what_was_cut_off_is_not_built_upon(workdir, tmp_path):
    cut = shutil.copytree(workdir, tmp_path / "cut")
    for name in ("metrics.json", "table.md", "cka.png"):
        (cut / name).unlink()
    for stage in ("original", "unlearn"):
        folder = cut / "checkpoints" / stage
        shutil.rmtree(folder / str(checkpoint.latest_step(folder)))
    steps = checkpoint.latest_step(workdir / "checkpoints" / "original")
    for stages in ("modules", "unlearn"):
        with pytest.raises(InputError, match=rf"needs original, .* of {steps}; add original"):
            Experiment(small(stages=stages), cut)
    with pytest.raises(InputError, match="evaluate needs unlearn, which is at step 10 of 12"):
        Experiment(small(stages="original,evaluate"), cut)
    Experiment(small(), cut).run()
    again, whole = (json.loads((run / "metrics.json").read_text()) for run in (cut, workdir))
    assert again["models"] == whole["models"]
    for found in (again, whole):
        for spent in found["cost"].values():
            del spent["seconds"]
    assert again["cost"] == whole["cost"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {"modules__kind": "pool", "ec__weights": "linear", "data__augment": "crop"},
        {"modules__kind": "mlp", "ec__points": "stage1,stage3", "unlearn__batch_norm": "train"},
        {"model__dtype": "bfloat16", "data__eval_batch_size": 33, "parallel__devices": 2},
        {"parallel__map": "pmap", "modules__epochs": 0.0, "evaluation__features": "map"},
        {"model__depth": 10, "forget__classes": "random:3", "ec__candidates": "forget"},
    ],
    ids=lambda o: "-".join(o),
)
def test_other_settings_run_from_end_to_end(tmp_path, overrides):
    short = {
        "original__epochs": 1.0,
        "unlearn__steps": 2,
        "evaluation__metrics": "accuracy,cka,knn",
    }
    config = small(**short, **overrides)
    Experiment(config, tmp_path / "run").run()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    unlearned = metrics["models"]["unlearned"]
    assert np.isfinite(list(unlearned.values())).all()
    maps = [key for key in unlearned if key.startswith("cka_map_to_")]
    splits_and_points = 4 * len(metrics["scenario"]["points"])
    assert len(maps) == (2 * splits_and_points if "evaluation__features" in overrides else 0)
    for key in maps:
        if "to_original" in key:
            original = metrics["models"]["original"]
            assert original[key] == pytest.approx(1, abs=1e-4)
            assert unlearned[key] < 1
