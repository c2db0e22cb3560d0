"""Checkpoints that a disk or a copy damaged, moved workdirs, and files that were changed later."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from small_run import small

from ec_jax import checkpoint, digests, records, verify
from ec_jax.errors import InputError
from ec_jax.models.network import named_arrays
from ec_jax.pipeline import Experiment

pytestmark = pytest.mark.slow  # all stand on a whole run
SPLITS = ("forget_train", "retain_train", "forget_test", "retain_test")
MODELS = ("original", "oracle", "unlearned")


def config(**overrides):
    return small(evaluation__metrics="accuracy,cka", **overrides)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an undisturbed run leaves; nobody writes into it."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    Experiment(config(), folder).run()
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def newest(workdir, stage):
    folder = workdir / "checkpoints" / stage
    return folder / str(checkpoint.latest_step(folder))


def largest(step):
    return max((step / "model").rglob("d/*"), key=lambda p: p.stat().st_size)


def cut(step):
    path = largest(step)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "bytes of"


def flip(step):
    path = largest(step)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return "has other bytes than were written"


def lose(name):
    def remove(step):
        (step / name).unlink()
        return f"{name} is missing"

    return remove


def lose_half(step):
    shutil.rmtree(step / "training")
    return "training/_METADATA is missing"


def spoil_digest(step):
    (step / digests.SEAL).write_text('{"files": ')
    return f"{digests.SEAL} cannot be read"


def unsealed(damage):
    """As an earlier version left it."""

    def spoil(step):
        (step / digests.SEAL).unlink()
        damage(step)
        return "cannot be read"

    return spoil


DAMAGES = {
    "truncated": cut,
    "a bit flipped": flip,
    "no _METADATA": lose("model/_METADATA"),
    "no manifest": lose("training/manifest.ocdbt"),
    "no cost": lose("cost/metadata"),
    "half deleted": lose_half,
    "no digests in the digest": spoil_digest,
    "without a digest, truncated": unsealed(cut),
    "without a digest, half deleted": unsealed(lose_half),
    "without a digest, no manifest": unsealed(lose("model/manifest.ocdbt")),
    "without a digest, no cost": unsealed(lose("cost/metadata")),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_step_is_found_set_aside_and_named(kind, copy):
    step = newest(copy, "unlearn")
    assert checkpoint.damage(step) == ""
    reason = DAMAGES[kind](step)
    (found,) = checkpoint.mend(step.parent)
    assert reason in found["reason"]
    assert found["step"] == 12
    assert found["moved"] == str(step.with_name("12.damaged"))
    assert sorted(p.name for p in step.parent.iterdir()) == ["10", "12.damaged"]
    checkpoints = checkpoint.Checkpoints(step.parent, keep=2)
    assert checkpoints.latest_step() == checkpoint.latest_step(step.parent) == 10
    checkpoints.close()
    assert not checkpoint.mend(step.parent)


def test_a_step_is_set_aside_under_a_name_of_its_own(copy):
    step = newest(copy, "unlearn")
    shutil.copytree(step, step.with_name("12.damaged"))
    flip(step)
    flip(step.with_name("10"))
    names = [found["moved"].rpartition("/")[2] for found in checkpoint.mend(step.parent)]
    assert names == ["12.damaged2", "10.damaged"]
    assert checkpoint.latest_step(step.parent) is None


def test_a_whole_step_of_an_earlier_version_is_taken_and_gets_a_digest(copy):
    step = newest(copy, "unlearn")
    before = digests.of_file(step / digests.SEAL)
    (step / digests.SEAL).unlink()
    assert not checkpoint.mend(step.parent)
    assert digests.of_file(step / digests.SEAL) == before


def test_what_the_digest_leaves_out_nothing_reads(copy):
    step = newest(copy, "unlearn")
    there = {p.relative_to(step).as_posix() for p in step.rglob("*") if p.is_file()}
    listed = json.loads((step / digests.SEAL).read_text())["files"]
    notes = there - set(listed) - {digests.SEAL}
    assert "_CHECKPOINT_METADATA" in notes
    assert notes <= {"_CHECKPOINT_METADATA", "commit_success.txt"}

    def cost():
        checkpoints = checkpoint.Checkpoints(step.parent, keep=2)
        try:
            return checkpoints.cost()
        finally:
            checkpoints.close()

    before = cost()
    for name in notes:
        (step / name).write_bytes(b"\x00{")
    assert cost() == before
    for name in notes:
        (step / name).unlink()
    assert cost() == before
    assert not checkpoint.mend(step.parent)


def test_what_is_redone_after_damage_is_the_same_to_the_last_bit(whole, copy, capsys):
    flip(newest(copy, "original"))
    both = list((copy / "checkpoints" / "oracle").iterdir())
    for step in both:
        cut(step)
    first = min(int(step.name) for step in both)
    lose_half(newest(copy, "unlearn"))
    Experiment(config(), copy).run()
    said = capsys.readouterr().out
    before, steps = sorted(int(p.name) for p in (whole / "checkpoints" / "original").iterdir())
    assert f"original: the checkpoint of step {steps} is damaged (model/" in said
    assert f"set aside as {steps}.damaged; on from step {before}\n" in said
    assert f"set aside as {first}.damaged; none before it: from the start\n" in said
    assert f"original: resumed at step {before}/{steps}" in said
    assert "unlearn: the checkpoint of step 12 is damaged (training/_METADATA is missing)" in said
    assert "unlearn: resumed at step 10/12" in said
    assert "modules: done" in said
    runs = [Experiment(config(), folder) for folder in (whole, copy)]
    for name in MODELS:
        jax.tree.map(np.testing.assert_array_equal, *(run.model(name) for run in runs))
    assert (copy / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()
    told = [(e["event"], e.get("stage")) for e in records.read(copy)]
    assert told.count(("fault", "oracle")) == 2
    assert ("resume", "unlearn") in told
    # The records and the certificate tell of the checkpoints that are there now.
    assert verdicts(copy) == {verify.OK}


def test_others_refuse_a_damaged_model_and_say_what_to_do(copy, tmp_path):
    step = newest(copy, "original")
    flip(step)
    before = set(copy.rglob("*"))
    for path in (step.parent, step, step / "model"):
        brought = config(original__checkpoint=str(path))
        with pytest.raises(InputError, match=r"other bytes than were written.*copy the checkpoint"):
            Experiment(brought, tmp_path / "new")
    with pytest.raises(InputError, match=r"needs original, whose .* is damaged .*; add original"):
        Experiment(config(stages="unlearn"), copy)
    with pytest.raises(InputError, match="is damaged"):
        checkpoint.Checkpoints(step.parent).cost()
    lose("model/_METADATA")(step)
    with pytest.raises(InputError, match=r"model/_METADATA is missing\); copy the checkpoint anew"):
        Experiment(config(original__checkpoint=str(step.parent)), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert set(copy.rglob("*")) < before


def test_a_moved_workdir_goes_on_and_is_still_the_same_run(whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "first")
    moved = tmp_path / "else" / "where"
    moved.parent.mkdir()
    (tmp_path / "first").rename(moved)
    shutil.rmtree(newest(moved, "unlearn"))  # as if it had been cut off
    Experiment(config(), moved).run()
    assert "unlearn: resumed at step 10/12" in capsys.readouterr().out
    again, before = (Experiment(config(), run).model("unlearned") for run in (moved, whole))
    jax.tree.map(np.testing.assert_array_equal, again, before)
    assert verdicts(moved) == {verify.OK}


# Records of a real run.


def verdicts(workdir):
    return {result for result, _, _ in verify.checks(workdir)}


def differing(workdir):
    return [what for result, what, _ in verify.checks(workdir) if result == verify.BAD]


def test_a_run_leaves_records_and_a_certificate_of_them(whole):
    events = records.read(whole)
    told = [(e["event"], e.get("stage")) for e in events]
    stages = ("original", "oracle", "modules", "unlearn", "evaluate", "report")
    of_stages = [(event, s) for s in stages for event in ("stage start", "stage end")]
    assert told == [("start", None), *of_stages, ("end", None)]
    found = json.loads((whole / records.CERTIFICATE).read_text())
    assert found["forgotten"]["forget_classes"] == [3]
    assert found["data"]["forget_train"]["images"] == 146
    assert set(found["models"]) == set(MODELS)
    assert found["metrics"]["sha256"] == digests.of_file(whole / "metrics.json")
    experiment = Experiment(config(), whole)
    for name in MODELS:
        arrays = named_arrays(experiment.model(name))
        assert found["models"][name]["parameters"] == digests.of_arrays(arrays)
    page = (whole / "report.html").read_text()
    assert '<a href="certificate.json">' in page
    assert found["models"]["unlearned"]["parameters"] in page
    assert verdicts(whole) == {verify.OK}


def _edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


TAMPERED = {
    "metrics": (
        lambda w: _edit(w / "metrics.json", '"schema": 1', '"schema": 2'),
        ["metrics.json"],
    ),
    "certificate": (
        lambda w: _edit(w / "certificate.json", '"images": 146', '"images": 147'),
        ["certificate.json", "certificate.json against events.jsonl"],
    ),
    "config": (
        lambda w: _edit(w / "config.json", '"temperature": ', '"temperature": 1'),
        ["config.json"],
    ),
    "an event": (
        lambda w: _edit(w / "events.jsonl", '"stage": "oracle"', '"stage": "oracel"'),
        ["events.jsonl, "],
    ),
    "an event taken out": (
        lambda w: _edit(w / "events.jsonl", (w / "events.jsonl").read_text().split("\n")[3], ""),
        ["events.jsonl, "],
    ),
    "the model": (lambda w: flip(newest(w, "unlearn")), ["unlearn, checkpoints/unlearn/12"]),
    "the model with its digest": (
        lambda w: (flip(newest(w, "unlearn")), digests.seal(newest(w, "unlearn"))),
        ["unlearn, checkpoints/unlearn/12"],
    ),
    "the classes": (
        lambda w: _edit(w / "config.json", '"classes": "3"', '"classes": "4"'),
        [
            "config.json",
            *(f"data, {p}_{t}" for t in ("train", "test") for p in ("forget", "retain")),
        ],
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_changed_later_is_named(what, copy):
    change, expected = TAMPERED[what]
    change(copy)
    found = differing(copy)
    assert len(found) == len(expected)
    assert all(name.startswith(start) for name, start in zip(found, expected, strict=True))


def test_a_run_refuses_data_that_are_not_those_it_began_with(copy):
    shutil.rmtree(newest(copy, "unlearn"))
    experiment = Experiment(config(), copy)
    data = experiment.scenario.data
    changed = dataclasses.replace(data, train_labels=data.train_labels[::-1])
    experiment.scenario.data = changed  # in this experiment alone
    with pytest.raises(InputError, match=r"workdir = .*began on other data \(\w+_train differs\)"):
        experiment.run()


def test_a_model_brought_along_is_recorded_and_must_stay_what_it_was(whole, tmp_path):
    mine = shutil.copytree(whole / "checkpoints" / "original", tmp_path / "mine")
    brought = config(original__checkpoint=str(mine), stages="original")
    run = tmp_path / "run"
    Experiment(brought, run).run()
    (end,) = (e for e in records.read(run) if e["event"] == "stage end")
    assert end["brought"]
    assert end["path"] == str(mine / newest(whole, "original").name)
    assert len(end["parameters"]) == 64
    assert differing(run) == []
    shutil.rmtree(end["path"])
    shutil.copytree(newest(whole, "oracle"), end["path"])
    with pytest.raises(InputError, match="is another model than the one this run began with"):
        Experiment(brought, run).run()
    assert [name.partition(",")[0] for name in differing(run)] == ["original"]
    assert records.read(run)[-1]["event"] == "end"  # a refusal without any work is no event
