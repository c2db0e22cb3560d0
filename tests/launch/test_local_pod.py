"""Real processes on this machine: however a run is cut over them, it comes to the same."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from command import ROOT, command, config_of
from small_run import small

from ec_jax.errors import MISSED
from ec_jax.evaluation.measure import measure
from ec_jax.pipeline import Experiment
from ec_jax.scenario import Scenario
from launch import local_pod

SMALL = [
    "--config=configs/digits.py",
    *("--config.model.depth=8", "--config.model.width=4", "--config.original.epochs=2"),
    *("--config.modules.epochs=0.5", "--config.unlearn.steps=8", "--config.data.augment=crop"),
    "--config.checkpoint.every=3",
    *("--config.report.log_every=1", "--config.data.eval_batch_size=100"),
    # Those that are cut over the devices, and others that are made of them.
    "--config.evaluation.metrics=accuracy,agreement,cka,knn,variance,probe,mia,gap",
    "--config.evaluation.cka_batch_size=40",
]


def pod(processes, devices, *flags):
    """The command of a pod."""
    asked = (f"--processes={processes}", f"--devices={devices}")
    return [sys.executable, "launch/local_pod.py", *asked, "--", *flags]


def losses(output):
    """{stage: the losses of its steps} as a run has said them."""
    found = {}
    for stage, step, loss in re.findall(r"^(\w+): step (\d+)/\d+, loss (\S+)$", output, re.M):
        found.setdefault(stage, {})[int(step)] = float(loss)
    return found


def results(workdir):
    """(numbers of the models, the unlearned model's parameters)."""
    numbers = json.loads((workdir / "metrics.json").read_text())["models"]
    return numbers, Experiment(config_of(workdir), workdir).model("unlearned")


def check_same(workdir, other):
    """Two runs have the same parameters and metrics, up to rounding."""
    (numbers, model), (want, model_wanted) = results(workdir), results(other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), model, model_wanted)
    for name, values in want.items():
        assert numbers[name].keys() == values.keys()
        for key, value in values.items():
            # A test image or two may lie so near to a boundary that rounding decides.
            percent = key.startswith(("accuracy", "agreement", "knn", "probe/", "mia", "gap/logit"))
            assert numbers[name][key] == pytest.approx(value, abs=1.0 if percent else 2e-3), key


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """(its workdir, flags that start from its models, what it said): one process, one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    flags = [*SMALL, "--config.parallel.devices=1"]
    done = command(*flags, f"--workdir={workdir}", "--config.stages=original,oracle", timeout=300)
    assert done.returncode == 0, done.stderr
    models = [f"--config.{m}.checkpoint={workdir}/checkpoints/{m}" for m in ("original", "oracle")]
    done = command(*flags, *models, f"--workdir={workdir}-unlearned", timeout=300)
    assert done.returncode == 0, done.stderr
    return workdir.with_name("run-unlearned"), [*SMALL, *models], done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(1, 4), (2, 2)])
def test_processes_and_devices_do_not_change_a_run(processes, devices, alone, tmp_path):
    want, flags, said = alone
    run = pod(processes, devices, *flags, f"--workdir={tmp_path / 'run'}")
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    check_same(tmp_path / "run", want)
    found, expected = losses(done.stdout), losses(said)
    assert found.keys() == expected.keys() == {"modules", "unlearn"}
    for stage, values in expected.items():
        assert found[stage] == pytest.approx(values, abs=2e-4)  # of four decimals that are said


def ended(workdir, flags, line, end):
    """A pod of two, to which something is done when it has said a line: (status, all it said)."""
    process = subprocess.Popen(
        pod(2, 2, *flags, f"--workdir={workdir}"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = []
    for text in process.stdout:
        said.append(text)
        if text.startswith(line):
            break
    end(process)
    began = time.monotonic()
    rest, errors = process.communicate(timeout=120)
    assert time.monotonic() - began < 60
    assert "Traceback" not in errors
    return process.returncode, "".join(said) + rest + errors


@pytest.mark.slow
def test_a_pod_that_is_ended_is_finished_by_another_one(alone, tmp_path):
    want, flags, _ = alone
    workdir = tmp_path / "run"
    status, said = ended(workdir, flags, "modules: step 2/", subprocess.Popen.terminate)
    assert status == 128 + signal.SIGTERM, said
    (saved,) = re.findall(r"modules: saved at step (\d+)", said)
    # One of two is killed, the first or the other one, and is missed.
    for victim, line in ((0, "unlearn: step 1/"), (1, "unlearn: step 5/")):
        status, said = ended(
            workdir,
            flags,
            line,
            lambda _, victim=victim: os.kill(_process(workdir, victim), signal.SIGKILL),
        )
        assert (f"modules: resumed at step {saved}/" in said) == (victim == 0)
        assert status == 128 + signal.SIGKILL
        assert MISSED in said
    # As if it had been killed just before that was written: all processes look at the arrays.
    (workdir / "checkpoints" / "unlearn" / "3" / "digest.json").unlink()
    status, said = ended(workdir, flags, "unlearn: step 4/", subprocess.Popen.terminate)
    assert status == 128 + signal.SIGTERM, said
    assert "unlearn: resumed at step 3/8" in said
    run = pod(1, 4, *flags, f"--workdir={workdir}")
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    assert re.search(r"unlearn: (resumed at step [5-7]/8|done)", done.stdout)
    check_same(workdir, want)


def _process(workdir, index):
    """The pid of one of a pod's processes: that which works, not its parent, which watches it."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            line = path.read_bytes().replace(b"\0", b" ").decode()
            if f"{workdir} " in line and f"parallel.process={index} " in line:
                stat = path.with_name("stat").read_text().rpartition(")")[2].split()
                found[int(path.parent.name)] = int(stat[1])
    (worker,) = (pid for pid, parent in found.items() if parent in found)
    return worker


def launch(*arguments):
    """What ``launch/local_pod.py`` says: (exit status, stderr)."""
    run = [sys.executable, "launch/local_pod.py", *arguments]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, timeout=60)
    return done.returncode, done.stderr


def test_what_cannot_work_is_refused_once(tmp_path):
    flags = ["--config=configs/digits.py", f"--workdir={tmp_path / 'run'}"]
    status, errors = launch("--processes=2", "--", *flags, "--config.data.batch_size=3")
    assert status == 2
    says = "error: data.batch_size = 3: is not divisible by 2 devices; use 2 or 4"
    assert errors.splitlines() == [says]
    assert not (tmp_path / "run").exists()


JOINED = """
import sys, time
import numpy as np
from ec_jax import processes
from ec_jax.errors import InputError
index = int(sys.argv[2])
processes.join("localhost:" + sys.argv[1], 2, index, 4)
"""
DIFFERENT = """
for told in ({"config": "a", "data": "b"}, {"config": "a", "data": f"b{index}"}):
    try:
        processes.check_same(told)
        print("same", flush=True)
    except InputError as error:
        print(error, flush=True)
time.sleep(index)  # the first one waits for it
processes.leave(2)
"""
SLOW = """
import jax
from ec_jax import parallel
mesh = parallel.make_mesh()
processes.by_first(lambda: time.sleep(35 * (not index)), "made")
time.sleep(35 * index)  # as a compilation may take longer there
total = parallel.over_rows(lambda _, x: jax.lax.psum(x.sum(), parallel.AXIS), mesh)
print(total((), parallel.shard(np.ones(2), mesh)), flush=True)
processes.leave(0)
"""
GATHERED = """
processes._PIECE = 40
array = 100 * index + np.arange(14.0, dtype=np.float32).reshape(7, 2)
print(processes.gather(array).tolist(), flush=True)
print(processes.of_first(5 + index), flush=True)
processes.leave(0)
"""

MEASURED = """
import json
sys.path += ["tests", "tests/launch"]
from test_local_pod import of_whole_activations
print(json.dumps(of_whole_activations(4)), flush=True)
processes.leave(0)
"""


def two(program):
    """[(status, lines)] of two processes that join and then do something."""
    port = str(local_pod._free_port())
    group = [
        subprocess.Popen(
            [sys.executable, "-c", JOINED + program, port, str(i)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    said = [process.communicate(timeout=200)[0].splitlines() for process in group]
    # Gloo's threads may say lines, and one into another's.
    gloo = ("[Gloo]", "peer ranks")
    lines = [[line for line in of if not any(word in line for word in gloo)] for of in said]
    return list(zip([process.returncode for process in group], lines, strict=True))


def test_processes_that_have_other_data_refuse_it():
    remedy = "is not that of the first process; give all the same command and data"
    says = ["same", f"process 1 of 2 = 'data': {remedy}"]
    assert two(DIFFERENT) == [(2, says)] * 2


def test_what_processes_have_is_gathered_in_pieces():
    own = np.arange(14.0).reshape(7, 2)
    says = [str([own.tolist(), (100 + own).tolist()]), "5"]
    assert two(GATHERED) == [(0, says)] * 2


def of_whole_activations(devices):
    """What is measured of whole activations, of three networks that know nothing."""
    config = small(
        parallel__devices=devices,
        data__subset=150,
        data__eval_batch_size=60,
        evaluation__features="map",
        evaluation__metrics="accuracy,cka",
    )
    scenario, models = Scenario(config), {}
    network = scenario.network(modules=False)
    for seed, name in enumerate(("original", "oracle", "unlearned")):
        made = network.init(jax.random.key(seed), scenario.image_shape)
        models[name] = {c: tree["backbone"] for c, tree in made.items()}
    return measure(scenario, models)[0]


@pytest.mark.slow
def test_whole_activations_are_compared_by_all_processes_together():
    want = of_whole_activations(1)
    for status, lines in two(MEASURED):
        assert status == 0
        numbers = json.loads(lines[-1])
        assert any("cka_map" in key for key in want["unlearned"])
        for name, values in want.items():
            assert numbers[name] == pytest.approx(values, abs=1e-4)


@pytest.mark.slow
def test_processes_wait_for_one_another_for_more_than_half_a_minute():
    assert two(SLOW) == [(0, ["4.0"])] * 2


@pytest.mark.parametrize(("lives", "status"), [((0, 0), 0), ((9, 0), 9), ((60, 3), 3)])
def test_a_pod_ends_with_the_status_of_the_first_that_failed(lives, status, monkeypatch):
    """The others are given their time, and are killed then."""
    monkeypatch.setattr(local_pod, "PATIENCE", 0.5)
    monkeypatch.setattr(local_pod.signal, "signal", lambda *_: None)
    codes = [f"import time\ntime.sleep({s})" if s > 9 else f"exit({s})" for s in lives]
    group = [subprocess.Popen([sys.executable, "-c", code]) for code in codes]
    assert local_pod._wait(group) == status


@pytest.mark.slow
@pytest.mark.parametrize("field", ["seed=0,1", "report.log_every=2,3", "stages=all,original"])
def test_one_that_is_started_with_another_config_is_refused(field, tmp_path):
    """Else they would wait for one another at different places."""
    name, _, values = field.partition("=")
    port = local_pod._free_port()
    flags = [*SMALL, f"--workdir={tmp_path / 'run'}", "--config.parallel.processes=2"]
    flags += [f"--config.parallel.coordinator=localhost:{port}", "--config.parallel.devices=2"]
    group = [
        subprocess.Popen(
            [sys.executable, "-m", "ec_jax.main", *flags, f"--config.parallel.process={i}", more],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, more in enumerate(f"--config.{name}={value}" for value in values.split(","))
    ]
    for process in group:
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 2, errors
        assert errors.startswith(f"error: process 1 of 2 = '{name}': is not that of the first")
        assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()
