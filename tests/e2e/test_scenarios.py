"""What is not whole classes, from the first training to the report: samples, and a sub-class."""

import html
import json

import numpy as np
import pytest
from small_run import small

from ec_jax import config as config_lib
from ec_jax.pipeline import Experiment
from ec_jax.report import table, words

pytestmark = pytest.mark.slow
FORGOTTEN = {
    "samples": {"forget__classes": "samples:200"},
    "sub-class": {"forget__classes": "3", "data__groups": "0,1,2,3,4|5,6,7,8,9"},
}


@pytest.fixture(scope="module", params=FORGOTTEN)
def experiment(request, tmp_path_factory):
    config = small(
        unlearn__optimizer__learning_rate=0.01,  # more damages the samples' model
        evaluation__metrics="accuracy,cka,knn,variance,mia,rus,gap",
        **FORGOTTEN[request.param],
    )
    config_lib.validate(config)
    made = Experiment(config, tmp_path_factory.mktemp(request.param) / "digits")
    made.run()
    return made


def metrics(experiment):
    return json.loads((experiment.workdir / "metrics.json").read_text())


def test_it_is_measured_and_judged_on_what_is_forgotten(experiment):
    found = metrics(experiment)
    scenario, unlearned = found["scenario"], found["models"]["unlearned"]
    assert scenario["forget_classes"] == scenario["forget_names"] == []
    samples = scenario["images"]["forget_test"] == 0
    split = "forget_train" if samples else "forget_test"
    assert scenario["forget"] == ("200 training images" if samples else "sub-class 3")
    assert table.forget_split(found) == split
    oracle = found["models"]["oracle"]
    accuracies = [key for key in unlearned if key.startswith("accuracy/")]
    assert len(accuracies) == (3 if samples else 4)
    gap = np.mean([abs(unlearned[key] - oracle[key]) for key in accuracies])
    assert unlearned["gap/logit"] == pytest.approx(gap)
    similar = [abs(unlearned[k] - oracle[k]) for k in unlearned if f"cka_to_original/{split}" in k]
    near = [abs(unlearned[k] - oracle[k]) / 100 for k in unlearned if f"knn/{split}/stage" in k]
    assert unlearned["gap/representation"] == pytest.approx(np.mean([*similar, *near]))
    verdict, why = table.judged(found)
    assert verdict, why
    kinds = {key.split("/")[1] for key in verdict.numbers if key.startswith("moved_share/")}
    assert "membership" in kinds or not samples
    # Neither trained the oracle; samples are like what it knows, so that it knows most of them.
    assert oracle["accuracy/forget_train"] > 50 or not samples


def test_the_oracle_is_trained_without_it(experiment):
    splits, data = experiment.scenario.splits, experiment.scenario.data
    rows, _ = experiment._training("oracle").streams["train"]
    assert not set(rows) & set(splits["forget_train"])
    assert len(rows) + len(splits["forget_train"]) == len(data.train_labels)
    if len(experiment.scenario.class_names) == 2:
        assert set(data.train_classes[splits["forget_train"]]) == {3}
        assert set(data.train_labels) == {0, 1}


def test_the_report_speaks_of_it(experiment):
    page = (experiment.workdir / "report.html").read_text()
    told = metrics(experiment)["scenario"]["forget"]
    assert f"Unlearning {told} in digits" in page
    if "images" in told:
        assert words.MOVED_MEMBERSHIP in html.unescape(page)
        assert "taken for never trained on (MIA), forget, train" in page
    assert (experiment.workdir / "cka.png").stat().st_size > 10_000
