"""What a start costs: what is imported, and what is compiled."""

import ast
import logging
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from command import ROOT
from command import command as typed
from small_run import small

from ec_jax import command, parallel
from ec_jax.pipeline import Experiment

UNKNOWN = {"xla_cpu_no_such_option": "1"}
SHORT = [
    *("--config=configs/digits.py", "--config.stages=original", "--config.original.epochs=0.1"),
    *("--config.model.depth=8", "--config.model.width=4", "--config.parallel.devices=1"),
]


def python(*arguments, **changes):
    """A process that finds no cache but the one that the command itself makes."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMP", "JAX_PERS"))}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**env, **changes},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_help_imports_nothing_heavy():
    # How long it takes is measured: docs/performance.md.
    done = python("-X", "importtime", "-m", "ec_jax.main", "--help")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "ec_jax.config_file" in imported
    assert not imported & {"jax", "flax", "orbax", "tensorflow", "tensorflow_datasets", "torch"}


def test_a_training_imports_neither_tensorflow_nor_torch(tmp_path):
    look = "import atexit; atexit.register(lambda: print(sorted(sys.modules)))"
    flags = [*SHORT, f"--workdir={tmp_path}"]
    done = typed(*flags, before=look, timeout=120)
    assert done.returncode == 0, done.stderr
    found = set(ast.literal_eval(done.stdout.splitlines()[-1]))
    assert {"jax", "tensorboardX"} <= found
    assert not found & {"tensorflow", "torch"}


def test_pytorch_can_be_imported_after_a_training_has_begun(tmp_path):
    code = f"""
from pathlib import Path
from ec_jax.training.progress import Progress
Progress("original", 0, 1, Path({str(tmp_path)!r})).close()
import torch
print(torch.ones(2).sum().item())
"""
    assert python("-c", code).stdout == "2.0\n"


def test_what_was_compiled_is_kept_for_the_next_run(tmp_path):
    kept = []
    for run in ("one", "two"):
        flags = [*SHORT, f"--workdir={tmp_path / run}"]
        python("-m", "ec_jax.main", *flags, XDG_CACHE_HOME=str(tmp_path / "cache"))
        files = (tmp_path / "cache" / "ec_jax").rglob("*-cache")
        kept.append({file.name: file.read_bytes() for file in files})
    assert kept[0]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("given", [{"JAX_COMPILATION_CACHE_DIR": "here"}, {}])
def test_a_cache_that_the_user_names_is_taken(given, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {"XDG_CACHE_HOME": str(tmp_path), **given})
    command._keep_compiled()
    found = os.environ["JAX_COMPILATION_CACHE_DIR"]
    assert found == given.get("JAX_COMPILATION_CACHE_DIR", found)
    assert given or found.startswith(str(tmp_path))
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0.2"
    assert not list(tmp_path.iterdir())  # JAX makes it when there is something to keep


def test_a_home_that_cannot_be_written_to_is_no_reason_to_stop(monkeypatch):
    monkeypatch.setattr(os, "environ", {"XDG_CACHE_HOME": "/proc/nowhere"})
    monkeypatch.setattr(os, "access", lambda *_: False)  # to root all is open
    command._keep_compiled()
    assert set(os.environ) == {"XDG_CACHE_HOME"}


@pytest.mark.parametrize("at_once", [0, 4])
def test_a_step_is_compiled_once_a_stage(at_once, tmp_path, caplog):
    # Calls of four steps, of fewer before a checkpoint and of the tried one are one program.
    fields = {"original__epochs": 1.0, "parallel__at_once": at_once}
    config = small(stages="original,modules,unlearn", **fields)
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        Experiment(config, tmp_path).run()
    said = [record.getMessage() for record in caplog.records]
    steps = [
        line
        for line in said
        if re.match(r"Compiling jit\((_of_rows|update|_one_after_the_other)\) ", line)
    ]
    assert len(steps) == 3, said


def test_xla_knows_the_options_that_it_is_given():
    # One that it does not know is left out, and steps on a CPU would be slower without a word.
    assert parallel._cpu_options()
    with pytest.raises(jax.errors.JaxRuntimeError):
        jax.jit(lambda: 0, compiler_options=UNKNOWN).lower().compile()


def test_steps_and_passes_are_compiled_with_them(monkeypatch):
    monkeypatch.setattr(parallel, "_cpu_options", lambda: UNKNOWN)
    mesh, x = parallel.one_device(), np.ones(2, np.float32)
    for program, arguments in (
        (parallel.per_device(lambda state, shared, batch: (state, batch), mesh).program, (x, x, x)),
        (parallel.cut_result(lambda x: x, mesh), (x,)),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
            program.lower(*arguments).compile()


def test_some_steps_are_profiled(tmp_path):
    Experiment(small(stages="original", report__profile=2), tmp_path).run()
    (found,) = (tmp_path / "tensorboard" / "original").rglob("*.xplane.pb")
    assert found.stat().st_size > 1000


PROBE = """
import os, sys
from ec_jax.command import finish
if __name__ == "__main__":
    finish(lambda: print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), *sys.argv[1:]))
"""


def test_its_file_is_not_read_more_often_for_that(tmp_path):
    config, read = tmp_path / "config.py", tmp_path / "read"
    config.write_text(f"from configs.digits import get_config\nopen('{read}', 'a').write('x')\n")
    start = [sys.executable, "-m", "ec_jax.main", f"--config={config}", "--config.method=none"]
    times = []
    for tunables in ("", "glibc.malloc.hugetlb=0"):
        env = {**os.environ, "GLIBC_TUNABLES": tunables}
        done = subprocess.run(start, cwd=ROOT, env=env, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: method = 'none': ")
        times.append(len(read.read_text()))
        read.unlink()
    assert times[0] == times[1]


def huge_pages():
    return command._PAGES.exists() and "[madvise]" in command._PAGES.read_text()


@pytest.mark.parametrize("start", [("-m", "probe"), ("-u", "-m", "pack.probe"), ("probe.py",)])
@pytest.mark.parametrize("before", [None, "glibc.malloc.check=0", "glibc.malloc.hugetlb=0"])
def test_a_command_takes_huge_pages_once(start, before, tmp_path):
    (tmp_path / "pack").mkdir()
    for place in (tmp_path, tmp_path / "pack"):
        (place / "probe.py").write_text(PROBE)
    env = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    env |= {"PYTHONPATH": str(ROOT), **({"GLIBC_TUNABLES": before} if before else {})}
    process = subprocess.Popen(
        [sys.executable, *start, "a b", "--c=d"],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    said, _ = process.communicate(timeout=60)
    wanted = before
    if "-m" in start and huge_pages() and "hugetlb" not in (before or ""):
        wanted = ":".join(filter(None, (before, "glibc.malloc.hugetlb=1")))
    assert said == f"{process.pid} {wanted} a b --c=d\n"


@pytest.mark.skipif(not huge_pages(), reason="the system gives huge pages to all or to nobody")
def test_memory_of_a_step_comes_in_huge_pages():
    code = (
        "import resource, jax, jax.numpy as jnp\n"
        "step = jax.jit(lambda x: x + 1)\n"
        "x = jnp.ones(2**24)\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "step(x).block_until_ready(); before = faults()\n"
        "step(x).block_until_ready(); print(faults() - before)"
    )
    few = int(python("-c", code).stdout)
    many = int(python("-c", code, GLIBC_TUNABLES="").stdout)
    assert many > 0.9 * 2**26 / 4096  # pages of its result alone
    assert few < many / 10
