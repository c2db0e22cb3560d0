"""Two requests on digits, one after the other: what is forgotten stays forgotten."""

import json

import jax
import numpy as np
import pytest
from command import ROOT, refused
from small_run import small

from ec_jax import checkpoint, sequence
from ec_jax.data.splits import EARLIER, SPLITS
from ec_jax.errors import InputError, TrainingError
from ec_jax.pipeline import Experiment
from ec_jax.training import prepare

pytestmark = pytest.mark.slow
MODELS = ("original", "oracle", "unlearned")


def config(**overrides):
    fields = {
        "original__epochs": 2.0,
        "evaluation__metrics": "accuracy,cka,knn",
        "forget__classes": "3;5",
    }
    return small(**{**fields, **overrides})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a sequence leaves; nobody writes into it."""
    folder = tmp_path_factory.mktemp("sequence") / "digits"
    sequence.run(config(), folder, "the command")
    return folder


@pytest.fixture(scope="module")
def second(folder):
    """The experiment of the second request."""
    return Experiment(sequence.request_configs(config(), folder)["request2"], folder / "request2")


def metrics(folder, request):
    return json.loads((folder / f"request{request}" / "metrics.json").read_text())


def test_a_request_starts_from_the_last_ones_result(folder, second):
    path = folder / "request1" / "checkpoints" / "unlearn"
    left = checkpoint.load_model(path, second.scenario.model_shapes())
    jax.tree.map(np.testing.assert_array_equal, second.model("original"), left)
    assert not (folder / "request2" / "checkpoints" / "original").exists()


def test_no_training_of_a_request_sees_what_was_forgotten_before(second):
    labels = second.scenario.data.train_labels
    assert second.scenario.forget_classes == (5,)
    seen = dict.fromkeys(("oracle", "proxy"), {*range(10)} - {3, 5})
    seen |= dict.fromkeys(("original", "modules", "unlearn"), {*range(10)} - {3})
    for stage in seen:
        streams = second._training(stage).streams.values()
        found = {int(label) for rows, _ in streams for label in labels[rows]}
        assert found == seen[stage], stage


def test_what_was_forgotten_before_is_measured_in_splits_of_its_own(folder):
    found = metrics(folder, 2)
    scenario = found["scenario"]
    assert scenario["forget_classes"] == [5]
    assert scenario["earlier_classes"] == [3]
    assert scenario["earlier_names"] == ["3"]
    assert tuple(scenario["images"]) == (*SPLITS, *EARLIER)
    assert sum(scenario["images"].values()) == 1797
    keys = {f"accuracy/{s}" for s in EARLIER}
    points = scenario["points"]
    keys |= {f"cka_to_{r}/{s}/{p}" for r in MODELS[:2] for s in EARLIER for p in points}
    keys |= {f"knn/earlier_test/{p}" for p in (*points, "logits")}
    for model in MODELS:
        assert keys <= found["models"][model].keys()
    # The oracle never saw the class; its nearest neighbours are named all the same.
    assert found["models"]["oracle"]["accuracy/earlier_train"] == 0
    assert found["models"]["oracle"]["accuracy/forget_train"] == 0
    assert found["models"]["oracle"][f"knn/earlier_test/{points[-1]}"] > 0


def test_what_was_forgotten_stays_forgotten(folder):
    first, second = (metrics(folder, i)["models"] for i in (1, 2))
    assert first["original"]["accuracy/forget_test"] > 50
    assert first["unlearned"]["accuracy/forget_test"] < 5
    # The second request's original is the first one's result.
    again = first["unlearned"]["accuracy/forget_test"]
    assert second["original"]["accuracy/earlier_test"] == pytest.approx(again)
    assert second["unlearned"]["accuracy/earlier_test"] < 5


def test_the_first_request_is_an_ordinary_run(folder):
    scenario = metrics(folder, 1)["scenario"]
    assert tuple(scenario["images"]) == SPLITS
    assert "earlier_classes" not in scenario
    table = (folder / "request1" / "table.md").read_text()
    assert "forgotten before" not in table


def test_the_report_tells_of_what_was_forgotten_before(folder):
    table = (folder / "request2" / "table.md").read_text()
    for words in ("forgotten: 5, before it: 3;", "accuracy, forgotten before, test (%)"):
        assert words in table
    assert "k-NN accuracy, forgotten before, test, stage3 (%)" in table
    page = (folder / "request2" / "report.html").read_text()
    assert "Test images forgotten before" in page


def test_sequence_json_and_the_table_have_the_numbers_of_the_requests(folder):
    found = json.loads((folder / "sequence.json").read_text())
    assert found["schema"] == sequence.SCHEMA
    assert [r["classes"] for r in found["requests"]] == [[3], [5]]
    assert [r["names"] for r in found["requests"]] == [["3"], ["5"]]
    table = (folder / "sequence.md").read_text()
    for i, request in enumerate(found["requests"], 1):
        assert request["workdir"] == f"request{i}"
        whole = metrics(folder, i)["models"]
        assert tuple(request["models"]) == MODELS
        for model, numbers in request["models"].items():
            assert ("accuracy/earlier_test" in numbers) == (i == 2)
            assert numbers == {key: whole[model][key] for key in numbers}
        unlearned, oracle = (whole[m]["accuracy/retain_test"] for m in ("unlearned", "oracle"))
        assert f"{unlearned:.1f} ({oracle:.1f})" in table
        verdict = (folder / f"request{i}" / "table.md").read_text().split("Verdict: ")[1]
        assert verdict.startswith(request["verdict"])


def test_a_second_start_trains_nothing_and_writes_the_same(folder, capsys):
    def times():
        kept = [*folder.glob("*/checkpoints/*"), *folder.glob("*/metrics.json")]
        return {p: p.stat().st_mtime_ns for p in kept}

    before, results = times(), (folder / "sequence.json").read_bytes()
    sequence.run(config(), folder, "the command")
    assert times() == before
    assert (folder / "sequence.json").read_bytes() == results
    said = capsys.readouterr().out
    assert "step " not in said
    assert "request2 of 2: forget 5" in said


def test_configs_of_requests_are_as_a_user_would_write_them(tmp_path):
    found = sequence.request_configs(
        config(forget__classes="8,1;7", forget__earlier="0"),
        tmp_path,
    )
    assert list(found) == ["request1", "request2"]
    first, second = found.values()
    assert (first.forget.classes, first.forget.earlier) == ("1,8", "0")
    assert (second.forget.classes, second.forget.earlier) == ("7", "0,1,8")
    assert first.original.checkpoint == ""
    assert second.original.checkpoint == str(tmp_path / "request1" / "checkpoints" / "unlearn")


def test_a_folder_of_another_request_is_refused_before_any_work(tmp_path):
    stranger = tmp_path / "new" / "request2"
    stranger.mkdir(parents=True)
    (stranger / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"request2.*holds other files"):
        sequence.run(config(), tmp_path / "new")
    assert not (tmp_path / "new" / "request1").exists()


def test_a_request_that_fails_says_how_to_go_on(tmp_path, monkeypatch):
    class Failing:
        def __init__(self, config, workdir, command):
            self.fails = workdir.name == "request2"

        def run(self):
            if self.fails:
                raise TrainingError("unlearn: step 3: loss is nan")

    monkeypatch.setattr(sequence, "Experiment", Failing)
    message = (
        "request2: unlearn: step 3: loss is nan; there, use "
        "--config.forget.classes='5;8' --config.forget.earlier=3"
    )
    with pytest.raises(TrainingError) as error:
        sequence.run(config(forget__classes="3;5;8"), tmp_path / "new")
    assert str(error.value) == message


def test_the_command_runs_sequences_and_an_audit_refuses_them(folder, tmp_path):
    digits = f"--config={ROOT / 'configs' / 'digits.py'}"
    asked = "--config.forget.classes=3;5"
    says = ["workdir = ", "belongs to another config"]  # of the sequence, at another size
    refused(digits, f"--workdir={folder}", asked, says=says)
    says = ["forget.classes = '3;5': is a sequence, which only ec_jax.main runs"]
    models = [f"--{name}={tmp_path}" for name in ("original", "candidate")]
    refused(digits, *models, f"--out={tmp_path / 'out'}", asked, module="ec_jax.audit", says=says)


def test_nothing_is_taken_for_what_was_forgotten_before(second):
    given = prepare.context(second.scenario, {}, prepare.Batches(second.scenario))
    assert given.forget_classes == (5,)
    assert np.flatnonzero(given.forgotten).tolist() == [3, 5]
