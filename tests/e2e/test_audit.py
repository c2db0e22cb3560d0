"""The audit of checkpoints: verdicts, exit status, the record, and what is refused."""

import json
import math
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from command import ROOT, command, refused
from small_run import small

from ec_jax import audit, checkpoint, digests
from ec_jax.errors import InputError
from ec_jax.pipeline import Experiment

FEW = small(evaluation__metrics="accuracy,cka,knn,gap")
DIGITS = f"--config={ROOT / 'configs' / 'digits.py'}"


@pytest.fixture(scope="module")
def models(workdir, tmp_path_factory):
    """{name: folder of a checkpoint}: those of a run, and controls made of them."""
    folders = {n: str(workdir / "checkpoints" / n) for n in ("original", "oracle", "unlearn")}
    experiment = Experiment(small(), workdir)
    original = jax.tree.map(np.array, experiment.model("original"))
    fresh = experiment.scenario.network(modules=False).init(jax.random.key(9), (8, 8, 1))
    controls = {
        "head": _changed(original, "head", "bias", lambda b: np.where(np.arange(10) == 3, -1e4, b)),
        "fresh": {c: tree["backbone"] for c, tree in fresh.items()},
        "nan": jax.tree.map(lambda a: a * np.nan, original),
    }
    folder = tmp_path_factory.mktemp("models")
    with ocp.StandardCheckpointer() as checkpointer:
        for name, tree in controls.items():
            checkpointer.save(folder / name, jax.tree.map(np.asarray, tree))
            folders[name] = str(folder / name)
    return folders


def _changed(tree, layer, name, change):
    params = dict(tree["params"])
    params[layer] = {**params[layer], name: change(params[layer][name]).astype(np.float32)}
    return {**tree, "params": params}


def audited(models, out, candidate, oracle="oracle", config=FEW):
    paths = {"original": models["original"], "unlearned": models[candidate]}
    paths |= {"oracle": models[oracle]} if oracle else {}
    name = audit.audit(config, paths, out, "a command")
    return name, json.loads((out / "audit.json").read_text())


@pytest.mark.parametrize(
    ("candidate", "verdict"),
    [
        ("oracle", "erased"),
        ("original", "not forgotten"),
        ("head", "superficial"),
        ("fresh", "damaged"),
        ("nan", "damaged"),
    ],
)
@pytest.mark.parametrize("oracle", ["oracle", None])
def test_controls_get_their_verdicts(models, tmp_path, candidate, verdict, oracle):
    name, record = audited(models, tmp_path / "out", candidate, oracle)
    assert name == record["verdict"]["name"] == verdict
    assert bool(record["not_finite"]["unlearned"]) is (candidate == "nan")
    numbers = [v for values in record["models"].values() for v in values.values()]
    assert all(map(math.isfinite, numbers))
    assert bool(record["lost_without_oracle"]) is (oracle is None)
    assert any("gap/" in key for key in record["models"]["original"]) is (oracle is not None)
    page = (tmp_path / "out" / "report.html").read_text()
    assert verdict.capitalize() in page
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(audit.FILES)


def test_an_audit_gives_the_numbers_of_the_run(models, workdir, tmp_path):
    _, record = audited(models, tmp_path / "out", "unlearn", config=small())
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert record["models"] == metrics["models"]
    same = {k: v for k, v in metrics["scenario"].items() if k != "method"}
    assert {k: v for k, v in record["scenario"].items() if k != "method"} == same


def test_the_record_says_what_was_measured_on_what(models, tmp_path):
    _, first = audited(models, tmp_path / "a", "unlearn")
    _, second = audited(models, tmp_path / "b", "head")
    for model, name in (("original", "original"), ("unlearned", "unlearn"), ("oracle", "oracle")):
        assert first["checkpoints"][model]["path"] == models[name]
        assert len(first["checkpoints"][model]["sha256"]) == 64
    digests = [[r["checkpoints"][m]["sha256"] for r in (first, second)] for m in audit.MODELS]
    assert [a == b for a, b in digests] == [True, False, True]
    assert first["data"] == second["data"]
    assert first["environment"]["packages"]["jax"] == jax.__version__
    assert first["command"] == "a command"
    assert first["config"]["forget"] == {"classes": "3", "earlier": "", "seed": 0}
    _, other = audited(models, tmp_path / "c", "unlearn", config=_other_images())
    assert other["data"]["sha256"] != first["data"]["sha256"]


def _other_images():
    return small(evaluation__metrics="accuracy,cka", data__subset=1000)


def test_a_digest_is_of_every_name_type_shape_and_number():
    one = {"a": np.zeros(4, np.float32), "b": np.ones(2, np.float32)}
    others = [
        {"a": one["a"], "c": one["b"]},
        {"a": one["a"].reshape(2, 2), "b": one["b"]},
        {"a": one["a"].astype(np.int32), "b": one["b"]},
        {"a": one["a"], "b": np.nextafter(one["b"], np.float32(2))},
    ]
    found = {digests.of_arrays(arrays) for arrays in (one, *others)}
    assert len(found) == 5
    assert digests.of_arrays(dict(reversed(one.items()))) == digests.of_arrays(one)


def test_a_reference_that_is_not_finite_is_refused(models, tmp_path):
    with pytest.raises(InputError, match="of the oracle model is nan"):
        audited(models, tmp_path / "out", "unlearn", "nan")
    assert not (tmp_path / "out").exists()


def test_an_oracle_that_was_trained_on_the_forget_set_is_refused(models, tmp_path):
    with pytest.raises(InputError, match=r"--oracle = .*original'.* it was trained on them"):
        audited(models, tmp_path / "out", "head", "original")
    assert not (tmp_path / "out").exists()


def test_arrays_that_cannot_be_read_are_refused(models, tmp_path):
    damaged = shutil.copytree(models["head"], tmp_path / "damaged")
    max(damaged.rglob("d/*"), key=lambda p: p.stat().st_size).unlink()
    arguments = flags({**models, "damaged": str(damaged)}, tmp_path / "out", "damaged")
    # In a process of its own: orbax's threads still speak after their error was caught.
    done = command(*arguments, module="ec_jax.audit", timeout=120)
    assert done.returncode == 2
    # They may be in the middle of a line of their own when ours is written.
    assert done.stderr.count(f"error: --candidate = {str(damaged)!r}: cannot be read") == 1
    assert done.stderr.count("error: --") == 1
    assert not (tmp_path / "out").exists()


def test_an_earlier_audit_is_written_over_and_nothing_else(models, tmp_path):
    out = tmp_path / "out"
    for candidate in ("unlearn", "oracle"):
        audit._check_out(out)
        audited(models, out, candidate)
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds other files \(thesis.tex\)"):
        audit._check_out(out)


# Real command lines.


def flags(models, out, candidate, *more):
    settings = ["model.depth=8", "model.width=4", "parallel.devices=1"]
    settings += ["evaluation.metrics=accuracy,cka,knn"]
    return (
        DIGITS,
        f"--original={models['original']}",
        f"--candidate={models[candidate]}",
        f"--out={out}",
        *(f"--config.{s}" for s in settings),
        *more,
    )


@pytest.mark.parametrize(("candidate", "status"), [("oracle", 0), ("head", 1)])
def test_exit_status(models, tmp_path, candidate, status):
    oracle = f"--oracle={models['oracle']}"
    arguments = flags(models, tmp_path / "out", candidate, oracle)
    done = command(*arguments, module="ec_jax.audit", timeout=300)
    assert (done.returncode, done.stderr) == (status, "")
    assert f"Verdict: {'superficial' if status else 'erased'}" in done.stdout
    record = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert record["command"].startswith(f"python -m ec_jax.audit {DIGITS}")


def test_bad_input_is_one_line(models, tmp_path):
    out = tmp_path / "new" / "out"
    good = flags(models, out, "head")
    damaged = shutil.copytree(models["head"], tmp_path / "damaged")
    (damaged / "manifest.ocdbt").write_bytes(b"no manifest")
    cases = [
        ((*good, f"--oracle={damaged}"), f"--oracle = {str(damaged)!r}: cannot be read"),
        ((*good, "--config.model.width=8"), "--original = ", "does not fit the model"),
    ]
    for arguments, *says in cases:
        refused(*arguments, module="ec_jax.audit", says=says, timeout=120)
    assert not out.parent.exists()


def test_help_tells_the_exit_status():
    done = command("--help", module="ec_jax.audit")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("--candidate", "--oracle", "Exit status: 0 erased, 1 any other verdict"):
        assert word in done.stdout


def test_a_models_names_and_shapes_are_those_of_the_audited_network(models):
    trees = [checkpoint.find_model(models[n], "--x") for n in ("original", "head")]
    assert trees[0].name == "model"
    assert trees[1].name == "head"
