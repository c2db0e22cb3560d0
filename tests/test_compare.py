"""``python -m ec_jax.compare``, as a user gives it: what it leaves, and every mistake."""

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


def test_the_same_run_twice(out, tmp_path):
    one = put(tmp_path / "one", metrics())
    copy = shutil.copytree(one, tmp_path / "copy")
    says = ["seed = 0: given twice for ec", one, str(copy), "leave one of them out"]
    no(one, copy, f"--out={out}", says=says)


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
