"""The command between PyTorch's files and checkpoints, as its user runs it."""

import argparse
import json
import os
import pickle
import re

import numpy as np
import pytest
import torch
import torch_models
from command import changed, command, config_of, refused
from safetensors.numpy import load_file, save_file

from configs import default
from ec_jax import checkpoint, convert, imported, rules, torch_files
from ec_jax.errors import InputError
from ec_jax.models import network
from ec_jax.scenario import Scenario

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def convert_(*arguments, **how):
    return command(*arguments, module="ec_jax.convert", **how)


@pytest.fixture(scope="module")
def model():
    return torch_models.randomized(torch_models.cifar_resnet())


@pytest.fixture(scope="module")
def state(model):
    return model.state_dict()


@pytest.fixture(scope="module")
def arrays(model):
    return torch_models.arrays(model)


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


# What a file may hold.


def wrapped(state):
    """{how a training script saves it: what it saves, and where it is then found}."""
    return {
        "plain": (state, ""),
        "state_dict": ({"state_dict": state, "epoch": 3}, "state_dict"),
        "model": ({"model": state, "optimizer": {"state": {}, "param_groups": []}}, "model"),
        "parallel": ({f"module.{k}": v for k, v in state.items()}, ""),
        "parallel in a wrapper": (
            {"state_dict": {f"module.{k}": v for k, v in state.items()}, "best_acc1": 93.1},
            "state_dict",
        ),
        "compiled": ({f"_orig_mod.{k}": v for k, v in state.items()}, ""),
        "with its arguments": (
            {"model": state, "args": argparse.Namespace(lr=0.1, arch="resnet18")},
            "model",
        ),
    }


@pytest.mark.parametrize("kind", wrapped({}))
def test_weights_are_found_whatever_wraps_them(kind, state, arrays, tmp_path):
    content, key = wrapped(state)[kind]
    path = tmp_path / "model.pth.tar"
    torch.save(content, path)
    found = torch_files.read(path)
    same(found.state, arrays)
    assert (found.key, found.mean) == (key, None)


def test_an_average_of_weights_is_taken_where_it_is_asked_for(state, arrays, tmp_path):
    path = tmp_path / "model.tar"
    average = {name: value * 2 for name, value in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": average}, path)
    found = torch_files.read(path)
    same(found.state, arrays)
    assert found.others == ("state_dict_ema",)
    ema = torch_files.read(path, "state_dict_ema").state
    np.testing.assert_array_equal(ema["fc.bias"], arrays["fc.bias"] * 2)
    with pytest.raises(InputError, match="state_dict_ema"):
        torch_files.read(path, "state_dict_emma")


def test_what_lies_beside_weights_is_no_weights(model, state, arrays, tmp_path):
    import copy

    average = torch.optim.swa_utils.AveragedModel(copy.deepcopy(model))
    trained = copy.deepcopy(model)
    optimizer = torch.optim.SGD(trained.parameters(), 0.1, momentum=0.9)
    trained(torch.zeros(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    content = {
        "netG": state,
        "optimizer": optimizer.state_dict(),
        "model_ema": average.state_dict(),
        "epoch": 3,
    }
    torch.save(content, tmp_path / "model.pth")
    found = torch_files.read(tmp_path / "model.pth", "model_ema")
    same(found.state, arrays)
    assert found.others == ("netG",)
    torch.save({**state, "epoch": 3}, tmp_path / "flat.pth")
    same(torch_files.read(tmp_path / "flat.pth").state, arrays)


def test_a_relative_of_a_network_is_refused(tmp_path):
    wide = torch_models.torchvision().wide_resnet50_2(num_classes=4)
    arrays = {k: v.numpy() for k, v in wide.state_dict().items()}
    save_file(arrays, tmp_path / "wide.safetensors")
    says = ("FILE", "is of another resnet", "there and", "in ours")
    out = f"--out={tmp_path / 'out'}"
    refused(
        "import",
        tmp_path / "wide.safetensors",
        out,
        module="ec_jax.convert",
        says=says,
        timeout=300,
    )


def test_an_imported_model_runs_as_it_was_made(tmp_path):
    from types import SimpleNamespace

    made = {"model": {"padding": "symmetric"}, "normalize": "0.5;0.25"}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "_METADATA").write_text("{}")
    (tmp_path / imported.ORIGIN).write_text(json.dumps(made))

    def check(padding, normalize):
        config = SimpleNamespace(
            model={"padding": padding}, data=SimpleNamespace(normalize=normalize)
        )
        imported.check_origin(tmp_path, "--original", config, (32, 32, 1))

    check("symmetric", "0.5;0.25")
    with pytest.raises(InputError, match=r"model.padding = 'same': .* was imported with symmetric"):
        check("same", "0.5;0.25")
    with pytest.raises(InputError, match=r"data.normalize = 'data': .*normalised its images by"):
        check("symmetric", "data")


def test_timms_swin_is_run_on_sizes_on_which_it_computes_the_same(tmp_path):
    from types import SimpleNamespace

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "_METADATA").write_text("{}")
    made = {"model": {"name": "swin", "patch": 4}, "layout": "timm", "normalize": ""}
    config = SimpleNamespace(model=made["model"], data=SimpleNamespace(normalize="imagenet"))
    (tmp_path / imported.ORIGIN).write_text(json.dumps(made))
    imported.check_origin(tmp_path, "--original", config, (448, 448, 3))
    with pytest.raises(InputError, match=r"data.image_size = 256: timm's Swin .* multiple of 224"):
        imported.check_origin(tmp_path, "--original", config, (256, 256, 3))
    (tmp_path / imported.ORIGIN).write_text(json.dumps({**made, "layout": "torchvision"}))
    imported.check_origin(tmp_path, "--original", config, (256, 256, 3))


def test_weights_that_are_not_dense_are_refused(state, tmp_path):
    sparse = {**state, "fc.weight": state["fc.weight"].to_sparse()}
    torch.save(sparse, tmp_path / "sparse.pth")
    with pytest.raises(InputError, match=r"fc.weight is sparse or quantised .*; save it dense"):
        torch_files.read(tmp_path / "sparse.pth")


@pytest.mark.parametrize("prefix", ["normalize.", "module.normalize.", "0."])
def test_a_normalisation_inside_the_model_is_taken_over(prefix, state, arrays, tmp_path):
    rest = {"0.": "1.", "normalize.": "", "module.normalize.": "module."}[prefix]
    content = {f"{rest}{k}": v for k, v in state.items()}
    for name, values in (("mean", MEAN), ("std", STD)):
        content[prefix + name] = torch.tensor(values).reshape(1, 3, 1, 1)
    torch.save({"state_dict": content}, tmp_path / "model.pth")
    found = torch_files.read(tmp_path / "model.pth")
    same(found.state, arrays)
    np.testing.assert_array_equal(found.mean, np.float32(MEAN))
    np.testing.assert_array_equal(found.std, np.float32(STD))


def test_safetensors_need_no_pytorch(arrays, tmp_path):
    save_file(arrays, tmp_path / "model.safetensors")
    before = "import sys; sys.modules['torch'] = None"
    done = convert_("inspect", tmp_path / "model.safetensors", before=before)
    assert done.returncode == 0, done.stderr
    assert "resnet18, cifar stem" in done.stdout
    assert re.search(r"classes: +10\b", done.stdout)


# What is refused.


class Evil:
    """Its loading would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, state):
    made = tmp_path / "made"
    for i, content in enumerate((Evil(made), {"state_dict": {**state, "x": Evil(made)}})):
        path = tmp_path / f"evil{i}.pth"
        torch.save(content, path)
        refused("inspect", path, module="ec_jax.convert", says=("FILE", "holds more than weights"))
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Evil(made)))
    refused("inspect", plain, module="ec_jax.convert", says=("FILE", "plain.pth"))
    assert not made.exists()
    torch.load(tmp_path / "evil0.pth", weights_only=False)
    assert made.exists()  # it would have


def test_names_that_are_missing_or_unknown_are_listed(tmp_path, arrays):
    changed = {k: v for k, v in arrays.items() if k != "layer2.0.bn1.weight"}
    path, out = tmp_path / "model.safetensors", tmp_path / "out"
    save_file({**changed, "extra": np.zeros(3, np.float32)}, path)
    done = convert_("inspect", path)
    assert re.search(
        r"missing names: +layer2\.0\.bn1\.weight\nunknown names: +extra\n", done.stdout
    )
    says = ("FILE", "missing: layer2.0.bn1.weight; unknown: extra")
    refused("import", path, f"--out={out}", module="ec_jax.convert", says=says)
    assert not out.exists()


def test_damaged_files_are_refused(tmp_path, state, arrays):
    torch.save(state, tmp_path / "model.pth")
    save_file(arrays, tmp_path / "model.safetensors")
    for name in ("model.pth", "model.safetensors"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-1000])
        refused("inspect", path, module="ec_jax.convert", says=("FILE", name, "cannot be read"))


@pytest.mark.parametrize(
    "content", ["{", "[" * 200_000, "[]", '{"model": 3}', '{"model": {"x": 1}}', '{"layout": 1}']
)
def test_what_an_import_did_not_leave_is_refused(content, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "_METADATA").write_text("{}")
    (tmp_path / imported.ORIGIN).write_text(content)
    with pytest.raises(InputError, match=r"--original = .*origin.json cannot be used .*anew"):
        imported.origin(tmp_path, "--original")


@pytest.mark.parametrize("content", ["{", "[" * 200_000, "{}", '{"model": 1, "data": 2}'])
def test_what_a_run_did_not_leave_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"DIR = 'x': the run's config.json cannot be read"):
        convert._check_run("x", tmp_path, None)


# There and back.


@pytest.mark.slow
def test_a_model_goes_in_and_comes_back_the_same(model, state, arrays, tmp_path):
    content = {f"module.{k}": v for k, v in state.items()}
    content["module.normalize.mean"] = torch.tensor(MEAN)
    content["module.normalize.std"] = torch.tensor(STD)
    torch.save({"state_dict": content}, tmp_path / "model.pth.tar")
    out = tmp_path / "imported"
    done = convert_("import", tmp_path / "model.pth.tar", "--model=resnet18", f"--out={out}")
    assert done.returncode == 0, done.stderr
    flags = done.stdout.splitlines()[-1].split()
    assert f"--config.original.checkpoint={out}" in flags
    (normalize,) = (f for f in flags if f.startswith("--config.data.normalize"))
    origin = json.loads((out / "origin.json").read_text())
    assert origin["normalize"] in normalize
    assert (origin["file"], origin["layout"]) == ("model.pth.tar", "torchvision")
    assert len(origin["sha256"]) == 64
    refused(
        "import",
        tmp_path / "model.pth.tar",
        f"--out={out}",
        module="ec_jax.convert",
        says=("--out", "holds files"),
    )
    refused(
        "import",
        tmp_path / "model.pth.tar",
        "--model=resnet50",
        f"--out={out}2",
        module="ec_jax.convert",
        says=("--model", "the file is of a resnet18"),
    )

    for layout, suffix in (("torchvision", "safetensors"), ("timm", "pth")):
        file = tmp_path / f"back-{layout}.{suffix}"
        done = convert_("export", out, f"--layout={layout}", f"--out={file}")
        assert (done.returncode, done.stderr) == (0, "")
        back = load_file(file) if suffix == "safetensors" else torch_files.read(file).state
        kept = {k: v for k, v in arrays.items() if "num_batches" not in k}
        same({k: v for k, v in back.items() if "num_batches" not in k}, kept)
        torch_models.cifar_resnet().load_state_dict(
            {k: torch.tensor(v) for k, v in back.items()}, strict=True
        )


@pytest.mark.slow
def test_a_run_takes_an_imported_model_and_its_normalisation(state, tmp_path):
    import jpegs

    folder = jpegs.folder(tmp_path / "data", train=8, test=3)
    net = torch_models.randomized(torch_models.torchvision().resnet18(num_classes=4))
    inside = {"mean": torch.tensor(MEAN), "std": torch.tensor(STD)}
    content = net.state_dict() | {f"normalize.{k}": v for k, v in inside.items()}
    torch.save(content, tmp_path / "model.pth")
    homes = jpegs.folder(tmp_path / "home", train=5, test=0, parts=("Real_World", "none"))
    out = tmp_path / "imported"
    done = convert_("import", tmp_path / "model.pth", f"--out={out}")
    assert done.returncode == 0, done.stderr
    flags = done.stdout.splitlines()[-1].split()
    run = [
        "--config=configs/default.py",
        *(f.replace("'", "") for f in flags),
        *("--config.data.name=folder", f"--config.data.data_dir={folder}"),
        *("--config.data.image_size=32", "--config.data.resize=36", "--config.forget.classes=bee"),
        *("--config.data.batch_size=8", "--config.data.retain_batch_size=8"),
        *("--config.data.forget_batch_size=4", "--config.data.eval_batch_size=8"),
        *("--config.original.epochs=1", "--config.modules.epochs=1", "--config.unlearn.steps=2"),
        *("--config.evaluation.metrics=accuracy,cka,gap", "--config.parallel.devices=1"),
        *("--config.data.augment=crop+flip", "--config.modules.kind=pool"),
        f"--config.evaluation.transfer=folder:{homes / 'Real_World'}",
    ]
    without = [f for f in run if "normalize" not in f]
    refused(
        *without,
        f"--workdir={tmp_path / 'no'}",
        timeout=300,
        says=("data.normalize", "normalised its images by", "set that"),
    )
    done = command(*run, f"--workdir={tmp_path / 'run'}", timeout=900)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    guesses = metrics["models"]["original"]["accuracy/retain_test"] <= 1.5 * 25
    assert ("as chance would be: do the classes" in done.stdout) == guesses
    assert metrics["scenario"]["model"] == "resnet18-w64"
    assert metrics["scenario"]["forget_names"] == ["bee"]

    for model in metrics["models"].values():
        for point in metrics["scenario"]["points"]:  # 4 pictures are asked for
            assert model[f"transfer/Real_World/{point}"] in (0, 25, 50, 75, 100)

    # The original is the imported one: its accuracy is what PyTorch computes.
    from torchvision import datasets, transforms

    cut = [transforms.Resize(36), transforms.CenterCrop(32), transforms.ToTensor()]
    cut = transforms.Compose([*cut, transforms.Normalize(MEAN, STD)])
    data = datasets.ImageFolder(str(folder / "val"), cut)
    images, labels = (torch.stack([d[0] for d in data]), np.array(data.targets))
    with torch.no_grad():
        right = net(images).argmax(-1).numpy() == labels
    for split, rows in (("forget_test", labels == 1), ("retain_test", labels != 1)):
        found = metrics["models"]["original"][f"accuracy/{split}"]
        assert found == pytest.approx(100 * right[rows].mean())

    # What came of it goes back to PyTorch.
    file = tmp_path / "unlearned.safetensors"
    done = convert_(
        "export", tmp_path / "run/checkpoints/unlearn", "--layout=torchvision", f"--out={file}"
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = re.search(r"normalised by mean ([\d.,]+) and deviation ([\d.,]+)\n", done.stdout)
    for row, values in zip(told.groups(), (MEAN, STD), strict=True):
        np.testing.assert_allclose(list(map(float, row.split(","))), values, rtol=1e-5)
    other = torch_models.torchvision().resnet18(num_classes=4)
    other.load_state_dict({k: torch.tensor(v) for k, v in load_file(file).items()}, strict=True)
    with torch.no_grad():
        right = other.eval()(images).argmax(-1).numpy() == labels
    found = metrics["models"]["unlearned"]["accuracy/retain_test"]
    assert found == pytest.approx(100 * right[labels != 1].mean())
    scenario = Scenario(config_of(tmp_path / "run"))
    unlearned = checkpoint.load_model(tmp_path / "run/checkpoints/unlearn", scenario.model_shapes())
    tree = {kind: {"backbone": part} for kind, part in unlearned.items()}
    shown = np.moveaxis(images.numpy(), 1, -1)
    logits = scenario.network(modules=False).activations(tree, shown)[1]
    with torch.no_grad():
        np.testing.assert_allclose(logits, other(images).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", convert.MODELS)
def test_every_name_of_a_model_is_one_that_the_config_can_build(name):
    fields = {f"model__{field}": value for field, value in convert.MODELS[name].items()}
    config = changed(default.get_config(), **fields)
    rules.check_model(config)
    assert rules.points(config.model) == list(network.build(config.model, 4).points)


def test_files_of_numpy_1_and_arrays_beside_weights_are_read(state, arrays, tmp_path):
    """A schedule's rate is a number of NumPy, which NumPy 1 pickled under another name."""
    content = {"state_dict": state, "rate": np.float64(0.1), "curve": np.arange(3.0)}
    path = tmp_path / "old.pth"
    torch.save(content, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    old = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != data
    path.write_bytes(old)
    same(torch_files.read(path).state, arrays)
    path.write_bytes(data)
    same(torch_files.read(path).state, arrays)


def test_what_cannot_be_written_is_refused_before_it_is_read(tmp_path):
    file = tmp_path / "there.pth"
    file.write_bytes(b"")
    for out, says in (
        (file, "is there already"),
        (tmp_path, "end it with"),
        (file / "in.pth", "cannot be written"),
        (tmp_path / "x.onnx", "end it with"),
    ):
        with pytest.raises(InputError, match=says):
            torch_files.check_out(out)
