"""``launch/sweep.py`` on this machine and on a TPU's stand-in, and grids from values of fields."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from cluster import until
from command import ROOT, command
from test_tpu_pod import OK, TPU, Cloud

from configs import digits
from ec_jax import sweep
from ec_jax.cells import Cells
from ec_jax.errors import InputError
from ec_jax.workdir import JOB, locked
from launch import sweep as start

SMALL = [
    "--config=configs/digits.py",
    *("--config.model.depth=8", "--config.model.width=4", "--config.method=finetune"),
    *("--config.original.epochs=0.5", "--config.data.subset=300", "--config.unlearn.steps=2"),
    *("--config.evaluation.metrics=accuracy", "--config.unlearn.optimizer.clip=0", "--seeds=0"),
]
RATE = "unlearn.optimizer.learning_rate"
GRID = [*SMALL, f"--config.{RATE}=0.01,1e30"]  # the second one cannot work


def launch(*arguments, timeout=900, **how):
    return subprocess.run(
        [sys.executable, "launch/sweep.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=timeout,
        **how,
    )


def test_rows_are_the_combinations_of_values():
    lists = {"ec.temperature": [0.1, 1e-5], "ec.plugin": [True, False], "method": ["ec"]}
    rows = sweep._rows(None, lists, None)
    assert list(rows) == [
        f"ec.temperature={t}+ec.plugin={p}+method=ec"
        for t in ("0.1", "1e-05")
        for p in ("true", "false")
    ]
    last = {"ec.temperature": 1e-5, "ec.plugin": False, "method": "ec"}
    assert list(rows.values())[-1] == last
    for row, settings in rows.items():
        assert sweep._NAME.fullmatch(row)
        cell = sweep.cell_config(digits.get_config(), settings, [])
        assert cell.ec.temperature == settings["ec.temperature"]


def test_a_file_or_values_and_no_seeds_among_them():
    with pytest.raises(InputError, match="--sweep = None: give a file"):
        sweep._rows(None, {}, None)
    with pytest.raises(InputError, match=r"ec.lambda = '1.0,2.0': several values are for a grid"):
        sweep._rows("configs/sweeps/ec.py", {"ec.lambda": [1.0, 2.0]}, None)
    with pytest.raises(InputError, match="seed = '0,1': give the seeds as --seeds=0,1,2"):
        sweep._rows(None, {"seed": [0, 1]}, None)


def test_rows_with_long_names_belong_into_a_file():
    fields = {f"unlearn.optimizer.{name}": [0.5] for name in ("learning_rate", "momentum", "clip")}
    with pytest.raises(InputError, match=r"cannot be a row's name .*write a file"):
        sweep._rows(None, fields | {"original.optimizer.momentum": [0.5, 0.6]}, None)


def test_a_plan_says_what_is_missing_and_a_text_with_commas_is_one_value(tmp_path):
    flags = ["--config.ec.temperature", "0.1,0.5", "--config.forget.classes=3,5"]
    flags = [*SMALL, *flags, "--config.ec.lambda=1,2", f"--workdir={tmp_path / 'grid'}"]
    done = command(*flags, "--only=plan", module="ec_jax.sweep")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    cells = plan.pop("cells")
    assert plan == {"workdir": str(tmp_path / "grid"), "results": 0, "failed": {}}
    rows = [f"ec.temperature={t}+ec.lambda={x}" for t in (0.1, 0.5) for x in (1.0, 2.0)]
    assert [(c["row"], c["seed"], c["ready"]) for c in cells] == [(row, 0, False) for row in rows]
    assert len({c["shared"] for c in cells}) == 1
    config = json.loads((tmp_path / "grid" / "config.json").read_text())
    assert config["forget"]["classes"] == "3,5"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "sbatch = None: is not on this machine"),
        (["--with='"], '--with = "\'": No closing quotation'),
        (["--with=--nodes=2"], "--with = '--nodes=2': a cell is one"),
        (["--with=--tmie=2"], "--tmie = '2': no such flag; did you mean"),
    ],
)
def test_what_slurm_cannot_take_is_refused(flags, says, tmp_path):
    nothing = os.path.dirname(sys.executable)  # without Slurm
    run = ["--on=slurm", *flags, "--", *GRID, f"--workdir={tmp_path / 'W'}"]
    done = launch(*run, env={**os.environ, "PATH": nothing})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {says}"), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"failed": 3, "scenario": 4}'])
def test_a_damaged_file_of_a_cell_is_named(text, tmp_path):
    for name in ("failed.json", "metrics.json"):
        path = tmp_path / name.partition(".")[0] / name
        path.parent.mkdir()
        path.write_text(text)
        cells = Cells(digits.get_config(), tmp_path / "shared")
        with pytest.raises(InputError, match=rf"{path}.*is damaged .*; delete it"):
            cells.run(digits.get_config(), path.parent)
    cell = tmp_path / "cells" / "a" / "seed0"
    cell.mkdir(parents=True)
    (cell / "failed.json").write_text(text)
    with pytest.raises(InputError, match=r"failed.json.*is damaged .*; delete it"):
        sweep._plan(None, {("a", 0): None}, tmp_path)


def test_the_help_of_the_grid_is_shown():
    done = launch("--", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "The command that runs a grid" in done.stdout


def test_any_folder_will_do(tmp_path):
    """Its children find the modules; a folder may have a flag's name before it."""
    flags = [f"--config={ROOT / 'configs' / 'digits.py'}", *SMALL[1:], f"--config.{RATE}=1,-1"]
    done = subprocess.run(
        [sys.executable, ROOT / "launch" / "sweep.py", "--", *flags, "--workdir", "only_ec"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {RATE} = -1.0: give a number > 0")


@pytest.mark.slow
def test_two_of_the_same_command_do_not_run_at_once(tmp_path):
    with locked(tmp_path / "grid.jobs"):
        done = launch("--", *GRID, f"--workdir={tmp_path / 'grid'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "another run is in it" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_job_of_this_machine_has_no_lasting_name(tmp_path, monkeypatch):
    monkeypatch.setenv(JOB, "outer")
    show = ["-c", f"import os; print(os.environ.get({JOB!r}))"]
    for name, lasting in {"here": None, "there": "ec_jax-1"}.items():
        log = tmp_path / name
        assert start._start([sys.executable, *show], log, lasting).wait(timeout=60) == 0
        assert log.read_text() == f"{lasting}\n"


@pytest.mark.slow
def test_cells_at_once_here_end_with_the_command_and_go_on_with_it(tmp_path):
    workdir, out = tmp_path / "grid", tmp_path / "out"
    arguments = ["--jobs=2", "--", *GRID, f"--workdir={workdir}"]
    with open(out, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "launch/sweep.py", *arguments], cwd=ROOT, stdout=file, stderr=file
        )
    until(lambda: "original: " in _logs(workdir), "what is shared trains")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=900) == 128 + signal.SIGTERM
    assert out.read_text().splitlines()[-1] == "error: terminated; the same command goes on"
    jobs = ["pgrep", "-f", f"[e]c_jax.sweep .*{workdir}"]
    assert subprocess.run(jobs, capture_output=True).stdout == b"", "no job outlives it"

    done = launch(*arguments)
    assert done.returncode == 3
    good, hot = (f"{RATE}={value}-seed0" for value in ("0.01", "1e+30"))
    ended = re.findall(r"^(.*): ended with status (\d+)$", done.stdout, re.M)
    assert ended[0][0].startswith("references-")
    assert sorted(ended[1:]) == [(good, "0"), (hot, "0")]
    assert f"\n{hot}: unlearn: step " in done.stdout
    assert f"error: 1 cell has no numbers ({hot}); their logs are in" in done.stderr
    assert [path.stem for path in (workdir / "results").iterdir()] == [good]
    assert f"{RATE}=0.01" in (workdir / "compare" / "table.csv").read_text()

    done = launch(*arguments)
    assert done.returncode == 3
    assert "started" not in done.stdout, "what is done or final is not started again"


def _logs(workdir):
    folder = workdir.with_name(f"{workdir.name}.jobs")
    return "".join(path.read_text() for path in folder.glob("*.log"))


@pytest.mark.slow
def test_on_tpus_every_job_is_a_run_of_the_script(tmp_path):
    cloud = Cloud(tmp_path)
    (tmp_path / "STATE").write_text(json.dumps({"is": "", "runs": [OK]}))
    given = " ".join(TPU)
    grid = [*SMALL, f"--config.{RATE}=0.01,0.02", f"--workdir={tmp_path / 'grid'}"]
    done = launch("--on=tpu_pod", f"--with={given}", "--", *grid, env=cloud.env)
    assert done.returncode == 3, "the stand-in trains nothing"
    assert "error: 2 cells have no numbers" in done.stderr
    rows = f"--rows={RATE}=0.01,{RATE}=0.02"
    assert cloud.ran() == [["-m", "ec_jax.sweep", *grid, rows, "--seeds=0", "--only=shared"]]
    assert {argv[1] for argv in cloud.asked() if argv[0] != "scp"} == {"ec-0"}
