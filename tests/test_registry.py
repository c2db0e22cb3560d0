"""Which methods there are, from the folder and from outside; their settings and recipes."""

import ast
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT, command, installed, refused
from small_run import small

from configs import digits
from ec_jax import config as config_lib
from ec_jax import methods, recipes, registry
from ec_jax.errors import InputError

EXAMPLE = ROOT / "examples" / "own_method"
NAMES = registry.names()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The example, installed by pip into a folder of its own."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "site"))
    # pip builds inside the source folder.
    for path in EXAMPLE.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    installed(source, target)
    return target


def environment(*folders):
    return {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, *folders)))}


FEW = (
    "--config=configs/digits.py",
    "--config.model.width=4",
    "--config.model.depth=8",
    "--config.original.epochs=1",
    "--config.unlearn.steps=3",
    "--config.evaluation.metrics=accuracy",
)


@pytest.mark.slow
def test_an_installed_method_runs_like_any_other(site, tmp_path):
    done = command(
        *FEW,
        f"--workdir={tmp_path / 'run'}",
        "--config.method=uniform",
        "--config.uniform.weight=0.5",
        timeout=300,
        **environment(site),
    )
    assert done.returncode == 0, done.stderr
    assert "method uniform, seed 0" in done.stdout
    config = (tmp_path / "run" / "config.json").read_text()
    assert '"weight": 0.5' in config
    assert '"learning_rate": 0.005' in config  # its recipe


def test_its_fields_are_checked_like_any_other(site, tmp_path):
    refused(
        *FEW,
        f"--workdir={tmp_path / 'run'}",
        "--config.method=uniform",
        "--config.uniform.weight=0",
        says=("uniform.weight = 0.0", "a number > 0"),
        **environment(site),
    )


def test_a_path_takes_the_names_place(tmp_path):
    code = (
        "from configs import digits; from ec_jax import config, methods, recipes\n"
        "c = digits.get_config().unlock(); c.method = 'ec_jax_uniform:build'\n"
        "c = recipes.complete(c, kept=('unlearn.optimizer.learning_rate',)); config.validate(c)\n"
        "made = methods.build(c, ('stage1', 'stage2', 'stage3', 'stage4'))\n"
        "print(made.weight, c.ec_jax_uniform.weight, c.unlearn.optimizer.learning_rate)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment(EXAMPLE)},
    )
    assert done.stdout.split() == ["1.0", "1.0", "0.02"], done.stderr


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no_such_module:build", "there is no module 'no_such_module'"),
        ("ec_jax.methods.ec:nothing", "cannot be imported"),
        ("ec_jax.nowhere:build", "there is no module 'ec_jax.nowhere'"),
        ("no.such.package:build", "cannot be imported"),
    ],
)
def test_a_path_to_nothing_is_refused(path, reason):
    with pytest.raises(InputError, match=r"^method = ") as caught:
        _build(path)
    assert reason in str(caught.value)


def _build(method):
    return methods.build(recipes.complete(small(method=method)), ("stage1",))


def test_a_new_method_needs_one_file_and_nothing_else(tmp_path):
    """A copy of the package with one file more, and no other change."""
    code = (
        "from configs import digits; from ec_jax import config, methods, recipes, registry\n"
        "c = digits.get_config().unlock(); c.method = 'uniform'; c = recipes.complete(c)\n"
        "config.validate(c)\n"
        "made = methods.build(c, ('stage1', 'stage2', 'stage3', 'stage4'))\n"
        "print(made.weight, 'uniform' in registry.names())"
    )
    for name in ("ec_jax", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(EXAMPLE / "ec_jax_uniform.py", tmp_path / "ec_jax" / "methods" / "uniform.py")
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.stdout.split() == ["1.0", "True"], done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_settings_and_recipe_are_literals_that_the_checks_take(name):
    for field, (default, allowed, meaning) in registry.settings(name).items():
        assert field.isidentifier()
        assert allowed
        assert meaning
        assert type(default) in (bool, int, float, str)
    config_lib.validate(recipes.complete(small(method=name)))
    known = config_lib.flatten(small())
    for field in registry.recipe(name):
        assert field in known


@pytest.mark.parametrize("name", NAMES)
def test_a_method_says_what_it_is(name):
    module = importlib.import_module(f"ec_jax.methods.{name}")
    source = Path(module.__file__).read_text()
    doc = " ".join(ast.get_docstring(ast.parse(source)).split())
    assert "Source:" in doc
    assert "published code" in doc
    assert len(source.splitlines()) < 200


def test_settings_that_are_no_literals_are_refused(tmp_path, monkeypatch):
    (tmp_path / "computed.py").write_text("SETTINGS = {'a': (1 + one(), '> 0', 'a')}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="must be dictionaries of literals"):
        registry.settings("computed:build")


def test_every_method_is_in_the_documentation():
    page = (ROOT / "docs" / "methods.md").read_text()
    assert {name for name in NAMES if f"| `{name}` |" not in page} == set()


def test_annotated_literals_are_read_too(tmp_path, monkeypatch):
    (tmp_path / "annotated.py").write_text(
        "SETTINGS: dict[str, tuple] = {'a': (1.0, '> 0', 'a')}\n"
        "RECIPE: dict = {'unlearn.steps': 7}\n"
        "SEARCH: list\n"
        "SEARCH: list = [{'annotated.a': 2.0}]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    name = "annotated:build"
    assert registry.settings(name) == {"a": (1.0, "> 0", "a")}
    assert registry.recipe(name) == {"unlearn.steps": 7}
    assert registry.search(name) == [{"annotated.a": 2.0}]


@pytest.mark.parametrize("group", ["data", "seed", "ec", "recipes", "scrub"])
def test_a_method_does_not_write_its_settings_into_another_group(group, tmp_path, monkeypatch):
    package = tmp_path / f"outside_{group}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / f"{group}.py").write_text("SETTINGS = {'subset': (9, '> 0', 'a')}\n")
    monkeypatch.syspath_prepend(tmp_path)
    method = f"outside_{group}.{group}:build"
    with pytest.raises(InputError, match=rf"^method = '{method}': .* group {group!r}"):
        recipes.complete(small(method=method))


def test_the_groups_of_the_config_are_known_without_reading_it():
    there = set(digits.get_config()) - {name for name in NAMES if registry.settings(name)}
    assert there == registry.CORE


def test_a_path_to_a_method_that_has_a_name_is_that_method():
    made = recipes.complete(small(method="ec_jax.methods.scrub:build"))
    assert made.scrub == small().scrub
