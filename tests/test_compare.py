"""``python -m ec_jax.compare``, as a user gives it: what it leaves, and every mistake."""

import json
import os
import shutil

import pytest
from command import command, refused
from runs import DIGITS, FASHION, metrics, put

MODULE = "ec_jax.compare"


def compare(*arguments, **how):
    return command(*arguments, module=MODULE, **how)


@pytest.fixture
def out(tmp_path):
    """A folder that must not come into being."""
    folder = tmp_path / "new" / "out"
    yield folder
    assert not folder.parent.exists()


def no(*arguments, says):
    refused(*arguments, says=says, module=MODULE)


def test_runs_are_compared(tmp_path):
    runs = [put(tmp_path / str(seed), metrics(seed)) for seed in range(2)]
    warm = put(tmp_path / "warm", metrics(0), ec__temperature=0.2)
    done = compare(*runs, warm, "--out=result", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == "result/compare.html: runs 3, methods 2, scenarios 1"
    assert lines[0].startswith("note: The methods were not run with the same seeds")
    page = (tmp_path / "result" / "compare.html").read_text(encoding="utf-8")
    assert "ec (ec.temperature=0.2)" in page
    again = compare(*runs, "--out", "result", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert "temperature" not in (tmp_path / "result" / "table.csv").read_text(encoding="utf-8")


def test_several_scenarios_are_refused_unless_asked_for(out):
    says = [
        "scenario.dataset = 'fashion_mnist': in ",
        str(FASHION[1]),
        "'digits' in ",
        str(DIGITS[0]),
        "compare them apart, or add --by-scenario",
    ]
    no(*DIGITS, *FASHION[1:], f"--out={out}", says=says)


def test_several_scenarios_as_sections(tmp_path):
    done = compare(DIGITS[0], FASHION[0], "--by-scenario", f"--out={tmp_path / 'o'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("scenarios 2\n")


def test_no_runs(out):
    no(f"--out={out}", says=["RUN_DIR = None: give the workdirs"])


@pytest.mark.parametrize("argument", [(), ("--out=",)])
def test_no_place_for_the_result(argument):
    no(DIGITS[0], *argument, says=["--out = ", "give a folder for the result"])


def test_a_flag_that_does_not_exist(out):
    says = ["--by-scenarios = None: no such flag; did you mean '--by-scenario'?"]
    no(DIGITS[0], f"--out={out}", "--by-scenarios", says=says)


def test_a_run_that_is_not_there(out, tmp_path):
    no(DIGITS[0], tmp_path / "x", f"--out={out}", says=["RUN_DIR = ", "no such file or folder"])


def test_a_run_that_is_not_finished(out, tmp_path):
    says = [f"RUN_DIR = '{tmp_path}'", "holds no metrics.json or audit.json", "finished run"]
    no(tmp_path, f"--out={out}", says=says)


@pytest.mark.parametrize("content", ["{", "[]", "", "\udcff"])
def test_metrics_that_cannot_be_read(content, out, tmp_path):
    (tmp_path / "metrics.json").write_bytes(content.encode(errors="surrogateescape"))
    says = [f"RUN_DIR = '{tmp_path}'", "its metrics.json cannot be read", "make it anew"]
    no(DIGITS[0], tmp_path, f"--out={out}", says=says)


def test_a_file_of_something_else(out, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"scenario": {}}))
    no(tmp_path / "x.json", f"--out={out}", says=["RUN_DIR", "scenario.dataset does not hold"])


def test_the_same_run_twice(out, tmp_path):
    one = put(tmp_path / "one", metrics())
    copy = shutil.copytree(one, tmp_path / "copy")
    says = ["seed = 0: given twice for ec", one, str(copy), "leave one of them out"]
    no(one, copy, f"--out={out}", says=says)


def test_a_file_where_the_result_should_go(tmp_path):
    (tmp_path / "file").write_text("mine")
    says = ["--out = ", "cannot be written", "choose another folder"]
    no(DIGITS[0], f"--out={tmp_path / 'file' / 'out'}", says=says)
    no(DIGITS[0], f"--out={tmp_path / 'file'}", says=says)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_as_the_place_for_the_result(tmp_path):
    run = put(tmp_path / "run", metrics())
    (tmp_path / "run" / "table.md").write_text("the run's")
    before = sorted(os.listdir(run))
    no(run, f"--out={run}", says=["--out = ", "holds a table.md that no comparison left"])
    assert sorted(os.listdir(run)) == before


def test_help():
    done = compare("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("RUN_DIR", "--out", "--by-scenario", "Exit status"):
        assert word in done.stdout
