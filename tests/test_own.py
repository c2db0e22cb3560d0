"""A module of one's own: its points are found, mistakes are named, the example runs."""

import functools
import json
import os
import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command import ROOT

import ec_jax
from ec_jax import checkpoint
from ec_jax.data import sources
from ec_jax.errors import InputError
from ec_jax.models import own


class Net(nn.Module):
    """Sows its points, deepest last; BatchNorm as most have it."""

    width: int = 8

    @nn.compact
    def __call__(self, x, train=False):
        for i, name in enumerate(("low", "high", "deep")):
            x = nn.Conv(self.width * 2**i, (3, 3), (1 + (i > 0),) * 2, name=f"conv_{name}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, name=f"norm_{name}")(x))
            self.sow("intermediates", name, x)
        return nn.Dense(10, name="out")(x.mean(axis=(1, 2)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + nn.Dense(x.shape[-1])(nn.gelu(nn.LayerNorm()(x)))


class Tokens(nn.Module):
    """Sows nothing; its blocks are submodules of a submodule; dropout; ``deterministic``."""

    @nn.compact
    def __call__(self, x, deterministic=True):
        x = nn.Conv(16, (2, 2), (2, 2), name="stem")(x)
        x = x.reshape(x.shape[0], -1, 16)
        x = Encoder(name="encoder")(x, deterministic)
        return nn.Dense(10)(x.mean(axis=1))


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic):
        for i in range(2):
            x = Block(name=f"block{i + 1}")(x)
            x = nn.Dropout(0.1)(x, deterministic=deterministic)
        return x


@pytest.fixture(scope="module")
def digits():
    data = sources.load("digits")
    gone = data.train_labels == 3
    return {
        "forget": (data.train_images[gone], data.train_labels[gone]),
        "retain": (data.train_images[~gone][:300], data.train_labels[~gone][:300]),
        "test": (data.test_images, data.test_labels),
    }


def start(model, shape=(1, 8, 8, 1)):
    return model.init(jax.random.key(0), jnp.zeros(shape))


SHORT = {"unlearn.steps": 3, "modules.epochs": 0.2, "evaluation.metrics": "accuracy,cka,gap"}


# What is found in a module.


def test_what_a_module_sows_are_its_points_in_its_own_order():
    model = Net()
    found = own.adapt(model, start(model), (8, 8, 1))
    assert found.points == ("low", "high", "deep")  # sorted they would be deep, high, low
    assert (found.widths, found.strides, found.num_classes) == ((8, 16, 32), (1, 2, 2), 10)


def test_submodules_outputs_are_points_by_their_paths():
    model = Tokens()
    points = ["stem", "encoder/block1", "encoder/block2"]
    found = own.adapt(model, start(model), (8, 8, 1), points, "deterministic")
    assert found.points == ("stem", "encoder.block1", "encoder.block2")
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8, 1)), jnp.float32)
    logits, sown = found.apply(start(model), images, train=False, mutable=["intermediates"])
    np.testing.assert_allclose(logits, model.apply(start(model), images), rtol=1e-6)
    block = sown["intermediates"]["encoder.block2"]
    assert block.shape == (3, 16, 16)
    np.testing.assert_allclose(sown["intermediates"]["pooled"], block.mean(axis=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"points": ["low", "hihg"]},
            "points = 'hihg': the module neither sows it nor has it; there are",
        ),
        ({"switch": "training"}, r"model = 'Net': cannot be called so \(.*training.*\); switch="),
        ({"method": "damp"}, "method = 'damp': it projects the kernels of a ResNet"),
        ({"method": "ecc"}, "method = 'ecc': did you mean 'ec'"),
        (
            {"settings": {"unlearn.step": 3}},
            "unlearn.step = 3: no such field; did you mean 'unlearn.steps'",
        ),
        ({"settings": {"model.width": 3}}, "model.width = 3: is given by the arguments"),
        ({"settings": {"unlearn.steps": 0}}, "unlearn.steps = 0: give an integer >= 1"),
        (
            {"settings": {"ec.points": "stage1"}},
            "the model has no point 'stage1'; all, or of low,high,deep",
        ),
        (
            {"retain": (np.zeros((3, 8, 8)), np.zeros(3, int))},
            "retain = 'float64 3x8x8': images are",
        ),
        (
            {"retain": (np.zeros((3, 8, 8, 1)), np.zeros(2, int))},
            "labels are integers >= 0, one for each",
        ),
        ({"retain": np.zeros((3, 8, 8, 1))}, "retain = "),
        (
            {"retain": (np.zeros((3, 8, 8, 1), np.float32), np.zeros(3, int))},
            "retain = 'float32 8x8x1': images must be as those of forget, uint8 8x8x1",
        ),
        ({"settings": {"data.subset": 10}}, "data.subset = 10: is given by the arguments"),
        ({"settings": {"method": "damp"}}, "method = 'damp': is given by the arguments"),
        ({"oracle": "trian"}, "oracle = 'trian': give variables, \"train\", or None"),
        (
            {"settings": {"ec.candidates": "forget"}},
            "ec.candidates = 'forget': all that is forgotten has one label",
        ),
        ({"points": ["low", "low"]}, "points = 'low': is there twice"),
        ({"points": "deep"}, r"points = 'deep': give a list of names"),
        ({"settings": {"unlearn.steps": "50"}}, "unlearn.steps = '50': give a value of type int"),
        ({"settings": {"unlearn.steps": 50.5}}, "unlearn.steps = 50.5: give a value of type int"),
        ({"oracle": {"out": {}}}, "oracle = 'out': has no \"params\"; give"),
        ({"points": ["deep"]}, "points = 'deep': ec stands on modules at all points but the last"),
        (
            {"oracle": {"params": {}}},
            r"oracle = 'batch_stats/norm_deep/mean nothing': the model's own is \(32,\)",
        ),
        ({"normalize": ((0.5, 0.5), (1.0, 1.0))}, "normalize = .*: give 1 means and as many"),
    ],
)
def test_mistakes_are_named_before_any_work(change, says, digits, tmp_path):
    model = Net()
    arguments = {**digits, "workdir": tmp_path / "run", **change}
    with pytest.raises(InputError, match=says):
        ec_jax.unlearn(model, start(model), **arguments)
    assert not (tmp_path / "run").exists()


class Listed(nn.Module):
    """Its widths are a list, and so the module has no hash."""

    widths: list

    @nn.compact
    def __call__(self, x, train=False):
        for i, width in enumerate(self.widths):
            x = nn.relu(nn.Conv(width, (3, 3), (2, 2), name=f"conv{i}")(x))
            self.sow("intermediates", f"layer{i}", x)
        return nn.Dense(10)(x.mean(axis=(1, 2)))


class Strip(nn.Module):
    """Tokens that are no square, and parameters in boxes."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (1, 2), (2, 4), name="stem")(x).reshape(x.shape[0], -1, 8)
        boxed = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        y = nn.Dense(8, kernel_init=boxed, name="dense")(x)
        return nn.Dense(10)(y.mean(axis=1))


def test_tokens_that_are_no_square_and_boxes_are_refused(digits):
    model = Strip()
    variables = start(model)
    with pytest.raises(InputError, match=r"variables = 'Strip': holds boxes .*unbox"):
        ec_jax.unlearn(model, variables, **digits, points=["dense"])
    with pytest.raises(InputError, match="points = 'dense': has 8 tokens, neither a square nor"):
        ec_jax.unlearn(model, nn.meta.unbox(variables), **digits, points=["dense", "Dense_0"])


def test_a_module_need_have_no_hash(digits):
    model = Listed([4, 8])
    with pytest.raises(TypeError):
        hash(model)
    settings = {"unlearn.steps": 2, "modules.epochs": 0.0, "evaluation.metrics": "accuracy"}
    found = ec_jax.unlearn(model, start(model), **digits, settings=settings)
    assert "accuracy/forget_test" in found.metrics["unlearned"]


def test_classes_are_forgotten_wholly_or_in_part(digits):
    images, labels = digits["retain"]
    forget = tuple(
        np.concatenate([a, b[labels == 5][:3]])
        for a, b in zip(digits["forget"], (images, labels), strict=True)
    )
    with pytest.raises(InputError, match=r"forget = 'classes 3, 5': of class 3 retain has noth"):
        ec_jax.unlearn(Net(), start(Net()), **{**digits, "forget": forget})


def test_batchnorm_of_an_own_module_is_trained_on_one_device(digits):
    settings = {"parallel.devices": 2, "unlearn.batch_norm": "train"}
    with pytest.raises(InputError, match=r"parallel.devices = 2: BatchNorm of an own module"):
        ec_jax.unlearn(Net(), start(Net()), **digits, settings=settings)


@pytest.mark.parametrize(
    ("variables", "says"),
    [(None, "variables = 'NoneType': give"), ({"out": {}}, "variables = 'out': has no \"params\"")],
)
def test_what_are_no_variables_is_said(variables, says, digits):
    with pytest.raises(InputError, match=says):
        ec_jax.unlearn(Net(), variables, **digits)


def test_a_module_says_by_its_own_call_how_it_is_told_that_it_trains(digits):
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(10)(nn.Dense(4, name="low")(x).mean(axis=(1, 2)))

    for model, switch in ((Net(), "train"), (Tokens(), "deterministic"), (Plain(), "")):
        points = None if switch == "train" else ["low"] if not switch else ["stem"]
        assert own.adapt(model, start(model), (8, 8, 1), points).switch == switch


def test_what_a_module_lacks_is_said(digits):
    model = Tokens()
    with pytest.raises(InputError, match=r"sows nothing; name its submodules: .*encoder/block1"):
        ec_jax.unlearn(model, start(model), **digits, switch="deterministic")
    labels = digits["retain"][1].copy()
    labels[0] = 11
    with pytest.raises(InputError, match="labels = 11: the model has 10 outputs"):
        ec_jax.unlearn(Net(), start(Net()), **{**digits, "retain": (digits["retain"][0], labels)})
    with pytest.raises(InputError, match="variables = 'cache'"):
        ec_jax.unlearn(Net(), {**start(Net()), "cache": {}}, **digits)


@pytest.mark.parametrize(
    "asked",
    [{"oracle": "train"}, {"method": "ec_guided"}, {"settings": {"unlearn.batch_norm": "train"}}],
)
def test_dropout_is_refused_where_it_would_be_trained_with(asked, digits, tmp_path):
    points = {"points": ["encoder/block1", "encoder/block2"], "switch": "deterministic"}
    with pytest.raises(InputError, match=r"model = 'Tokens': draws random numbers \(dropout\)"):
        ec_jax.unlearn(
            Tokens(), start(Tokens()), **digits, **points, **asked, workdir=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_a_program_may_have_configs_of_its_own(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("")
    (tmp_path / "configs" / "default.py").write_text("raise RuntimeError('not this one')")
    code = "import configs, ec_jax.own; print(ec_jax.own.config_lib.defaults().ec.temperature)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    assert done.stdout.strip() == "0.1", done.stderr


# What it does.


def test_a_call_gives_variables_of_the_models_own_form(digits, capsys):
    model, before = Net(), start(Net())
    kept = jax.tree.map(np.array, before)
    found = ec_jax.unlearn(model, before, **digits, settings=SHORT)
    assert re.search(r"unlearned: right on [\d.]+ % of the forgotten and", capsys.readouterr().out)
    assert jax.tree.structure(found.variables) == jax.tree.structure(before)
    jax.tree.map(np.testing.assert_array_equal, kept, before)  # the caller's are not touched
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), found.variables, kept)
    assert max(jax.tree.leaves(moved["params"])) > 1e-4
    assert max(jax.tree.leaves(moved["batch_stats"])) == 0  # inference mode
    assert found.metrics.keys() == {"original", "unlearned"}
    logits = model.apply(found.variables, _normalized(digits))
    labels = digits["test"][1]
    right = np.asarray(logits.argmax(-1) == labels)
    for split, rows in (("forget_test", labels == 3), ("retain_test", labels != 3)):
        told = found.metrics["unlearned"][f"accuracy/{split}"]
        assert told == pytest.approx(100 * right[rows].mean())
    assert found.workdir is None


def _normalized(digits):
    images = np.concatenate([digits["forget"][0], digits["retain"][0]]) / 255
    return ((digits["test"][0] / 255 - images.mean()) / images.std()).astype(np.float32)


@pytest.mark.slow
def test_a_folder_is_of_one_call(digits, tmp_path):
    model, folder = Net(), tmp_path / "run"
    first = ec_jax.unlearn(model, start(model), **digits, settings=SHORT, workdir=folder)
    again = ec_jax.unlearn(model, start(model), **digits, settings=SHORT, workdir=folder)
    jax.tree.map(np.testing.assert_array_equal, first.variables, again.variables)
    other = jax.tree.map(lambda a: a + 0.01, start(model))
    for variables, settings in ((other, SHORT), (start(model), {**SHORT, "ec.lambda": 9.0})):
        with pytest.raises(InputError, match="holds another call's run; choose a new folder"):
            ec_jax.unlearn(model, variables, **digits, settings=settings, workdir=folder)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files that are no call's"):
        ec_jax.unlearn(model, start(model), **digits, settings=SHORT, workdir=tmp_path / "foreign")


class Acts(nn.Module):
    """A function is among its fields."""

    act: object

    @nn.compact
    def __call__(self, x, train=False):
        for name in ("low", "high"):
            x = self.act(nn.Conv(4, (3, 3), (2, 2), name=f"conv_{name}")(x))
            self.sow("intermediates", name, x)
        return nn.Dense(10)(x.mean(axis=(1, 2)))


@pytest.mark.slow
def test_a_function_in_a_module_is_not_told_by_its_place_in_memory(digits, tmp_path):
    def made():
        def act(x):
            return nn.relu(x)

        return functools.partial(act)

    one, two = Acts(made()), Acts(made())
    assert repr(one) != repr(two)  # as in two processes
    settings = {**SHORT, "evaluation.metrics": "accuracy"}
    for model in (one, two):
        ec_jax.unlearn(model, start(model), **digits, settings=settings, workdir=tmp_path / "run")


@pytest.mark.slow
def test_a_cut_off_call_goes_on_and_gives_the_same(digits, tmp_path):
    model, settings = Net(), {**SHORT, "unlearn.steps": 6, "checkpoint.every": 2}
    whole = ec_jax.unlearn(model, start(model), **digits, settings=settings)
    (tmp_path / "cut").mkdir()

    def halt(*_):
        raise KeyboardInterrupt

    save = checkpoint.Checkpoints.save
    try:
        checkpoint.Checkpoints.save = lambda self, state, cost: (
            save(self, state, cost),
            halt() if int(state.step) == 4 else None,
        )
        with pytest.raises(KeyboardInterrupt):
            ec_jax.unlearn(
                model, start(model), **digits, settings=settings, workdir=tmp_path / "cut"
            )
    finally:
        checkpoint.Checkpoints.save = save
    again = ec_jax.unlearn(
        model, start(model), **digits, settings=settings, workdir=tmp_path / "cut"
    )
    jax.tree.map(np.testing.assert_array_equal, again.variables, whole.variables)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ec_guided", "scrub", "boundary_expand", "ssd"])
def test_other_methods_take_it_too(method, digits):
    settings = {**SHORT, "original.epochs": 0.5}
    found = ec_jax.unlearn(Net(), start(Net()), **digits, method=method, settings=settings)
    assert np.isfinite(list(found.metrics["unlearned"].values())).all()


@pytest.mark.slow
def test_tokens_and_a_last_point_that_is_a_vector(digits):
    found = ec_jax.unlearn(
        Tokens(),
        start(Tokens()),
        **digits,
        points=["encoder/block1", "encoder/block2"],
        switch="deterministic",
        settings=SHORT,
    )
    assert "cka_to_original/forget_test/encoder.block1" in found.metrics["unlearned"]


@pytest.mark.slow
def test_single_images_can_be_forgotten_and_an_oracle_trained(digits, tmp_path):
    images, labels = digits["retain"]
    found = ec_jax.unlearn(
        Net(),
        start(Net()),
        forget=(images[:40], labels[:40]),
        retain=(images[40:], labels[40:]),
        test=digits["test"],
        oracle="train",
        settings={**SHORT, "original.epochs": 1.0, "evaluation.metrics": "accuracy,cka,mia,gap"},
        workdir=tmp_path / "run",
    )
    assert found.metrics.keys() == {"original", "oracle", "unlearned"}
    assert (tmp_path / "run" / "report.html").is_file()
    assert found.verdict in ("damaged", "not forgotten", "superficial", "erased")
    scenario = json.loads((tmp_path / "run" / "metrics.json").read_text())["scenario"]
    assert scenario["forget"] == "40 training images"
    assert (scenario["dataset"], scenario["model"]) == ("own data", "Net")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["name"] == "own"
    assert config["model"] == {"name": "Net"}
    assert config["forget"]["classes"] == "given images"


@pytest.mark.slow
def test_the_example_runs_as_it_is():
    done = subprocess.run(
        [sys.executable, "-m", "examples.own_model"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
        # As its user runs it: optimised.
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
    )
    assert done.returncode == 0, done.stderr
    table = {line[:36].strip(): line[36:].split() for line in done.stdout.splitlines()}
    original, oracle, unlearned = map(float, table["accuracy, the forgotten digit (%)"])
    assert original > 90
    assert oracle == 0
    assert unlearned <= 5
    kept = [float(v) for v in table["accuracy, the others (%)"]]
    assert kept[2] > kept[1] - 4
    assert "verdict: erased" in done.stdout
    assert "Written to" not in done.stdout
