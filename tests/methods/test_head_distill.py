"""Head distillation: the forget set is lost at the logits, and not a feature has moved."""

import json

import jax
import numpy as np
import pytest
import tiny
from command import changed

from configs import digits
from ec_jax import methods
from ec_jax.pipeline import Experiment
from ec_jax.training import prepare

SETTINGS = {
    "method": "head_distill",
    "model__depth": 8,
    "model__width": 4,
    "original__epochs": 8.0,
    "unlearn__steps": 60,
    "unlearn__optimizer__learning_rate": 0.3,
    "unlearn__batch_norm": "train",  # not taken: statistics would move the features
    "parallel__devices": 1,
    "evaluation__metrics": "accuracy,cka,knn",
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "digits"
    made = Experiment(changed(digits.get_config(), **SETTINGS), folder)
    made.run()
    return made


def test_only_the_head_moves(experiment):
    before, after = experiment.model("original"), experiment.model("unlearned")
    heads = [tree["params"].pop("head") for tree in (before, after)]
    jax.tree.map(np.testing.assert_array_equal, after, before)
    assert not np.array_equal(heads[0]["kernel"], heads[1]["kernel"])


def test_the_class_is_gone_at_the_logits_alone(experiment):
    models = json.loads((experiment.workdir / "metrics.json").read_text())["models"]
    original, unlearned = models["original"], models["unlearned"]
    assert original["accuracy/forget_test"] > 60
    assert unlearned["accuracy/forget_test"] < 5
    assert unlearned["accuracy/retain_test"] > original["accuracy/retain_test"] - 3
    for point in ("stage1", "stage3"):
        assert unlearned[f"cka_to_original/forget_test/{point}"] == pytest.approx(1, abs=1e-5)
        assert unlearned[f"knn/forget_test/{point}"] == original[f"knn/forget_test/{point}"]


def test_it_needs_no_modules(experiment):
    assert not (experiment.workdir / "checkpoints" / "modules").exists()
    cost = json.loads((experiment.workdir / "metrics.json").read_text())["cost"]
    assert cost["modules"] is None
    assert cost["unlearn"]["steps"] == 60


def test_the_teacher_is_the_original_head_on_the_original_features(experiment):
    models = {"original": experiment.model("original")}
    batches = prepare.Batches(experiment.scenario)
    context = prepare.context(experiment.scenario, models, batches)
    method = methods.build(experiment.config, experiment.scenario.network(modules=False).points)
    extras = method.prepare(context)
    assert extras["forgotten"].tolist() == [i == 3 for i in range(10)]
    np.testing.assert_array_equal(
        extras["head"]["kernel"], context.original["params"]["head"]["kernel"]
    )


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(
    ("forgotten", "samples"),
    [(tiny.FORGET, False), ((), True), ((1,), True)],
    ids=["classes", "samples", "samples after a class"],
)
def test_the_loss_is_the_masked_divergence_over_both_streams(forgotten, samples, devices):
    outputs, batch = tiny.outputs_and_batch(width=4)
    draw = np.random.default_rng(3)
    head = {"kernel": draw.normal(size=(4, tiny.CLASSES)), "bias": draw.normal(size=tiny.CLASSES)}
    extras = {
        "head": jax.tree.map(np.float32, head),
        "forgotten": np.isin(np.arange(tiny.CLASSES), forgotten),
    }
    loss, metrics = tiny.value(tiny.method("head_distill"), outputs, batch, devices, extras=extras)
    values = {}
    for name, part in batch.items():
        features = np.float64(outputs[name].embeddings[tiny.LAST])
        teacher = features @ head["kernel"] + head["bias"]
        own = part["label"] if samples and name == "forget" else [None] * len(teacher)
        out = [[*forgotten, *([] if y is None else [int(y)])] for y in own]
        values[name] = tiny.kl(teacher, tiny.logits_of(outputs, name), out)
        assert metrics[f"divergence/{name}"] == pytest.approx(values[name].mean(), rel=1e-5)
    assert loss == pytest.approx(np.concatenate(list(values.values())).mean(), rel=1e-5)
