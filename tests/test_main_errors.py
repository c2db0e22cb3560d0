"""Mistakes that need a folder, a model or a machine of their own; the others: test_refusals.py."""

import json
import shutil

import jax
import pytest
from command import ROOT, command, refused
from test_config import OTHER

from configs import digits
from ec_jax import config as config_lib
from ec_jax import rng
from ec_jax import workdir as workdir_lib
from ec_jax.checkpoint import Checkpoints
from ec_jax.models.network import build
from ec_jax.training.optimizer import make_optimizer
from ec_jax.training.state import create

DIGITS = f"--config={ROOT / 'configs' / 'digits.py'}"
CIFAR10 = str(ROOT / "configs" / "cifar10.py")


@pytest.fixture
def workdir(tmp_path):
    """A folder that must not come into being, nor the one above it."""
    folder = tmp_path / "runs" / "new"
    yield folder
    assert not folder.parent.exists()


# The workdir.


def test_a_workdir_of_another_config(tmp_path):
    workdir_lib.write_resolved(digits.get_config(), tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    says = [
        "workdir = ",
        "ec.temperature is ",
        " there and 0.7 here",
        "choose another folder, or set",
    ]
    refused(DIGITS, f"--workdir={tmp_path}", "--config.ec.temperature=0.7", says=says)
    assert (tmp_path / "config.json").read_bytes() == before


# What is found out with JAX or TFDS.


def test_batches_that_all_devices_cannot_share(workdir):
    says = ["data.batch_size = 64: is not divisible by 3 devices; use 63 or 66"]
    refused(DIGITS, f"--workdir={workdir}", says=says, JAX_NUM_CPU_DEVICES="3")


@pytest.fixture(scope="module")
def narrow_model(tmp_path_factory):
    """A checkpoint of the digits' network, at half its width."""
    c = digits.get_config()
    c.model.width = 8
    network = build(c.model, 10, module_kind=None, axis_name=None)
    variables = network.init(rng.key(0, "init"), (8, 8, 1))
    optimizer = make_optimizer(c.original.optimizer, 1)
    state = create(network, variables, optimizer, ("backbone",), ("train",))
    folder = tmp_path_factory.mktemp("model")
    checkpoints = Checkpoints(folder)
    checkpoints.save(jax.block_until_ready(state), {"seconds": 0.0, "steps": 0, "images": 0})
    checkpoints.close()
    return folder


def test_a_checkpoint_that_does_not_fit(narrow_model, workdir):
    field = f"original.checkpoint={narrow_model}"
    says = [
        f"original.checkpoint = {str(narrow_model)!r}: does not fit the model",
        "params/head/kernel is (64, 10) there and (128, 10) here",
        "set model.*",
    ]
    refused(DIGITS, f"--workdir={workdir}", f"--config.{field}", says=says)


@pytest.mark.parametrize("damage", ["_METADATA", "manifest.ocdbt"])
def test_a_damaged_checkpoint(narrow_model, damage, tmp_path, workdir):
    copy = shutil.copytree(narrow_model, tmp_path / "copy")
    (copy / "0" / "model" / damage).write_bytes(b"")
    says = [f"original.checkpoint = {str(copy)!r}: cannot be read", "copy the checkpoint anew"]
    refused(DIGITS, f"--workdir={workdir}", f"--config.original.checkpoint={copy}", says=says)


def test_more_devices_than_one_cpu_can_play(workdir):
    sizes = [f"--config.data.{n}_size=1024" for n in ("batch", "retain_batch", "forget_batch")]
    arguments = (DIGITS, f"--workdir={workdir}", *sizes, "--config.data.eval_batch_size=1024")
    says = ["parallel.devices = 1024: there are 1; use at most that, or 0 for all"]
    refused(*arguments, "--config.parallel.devices=1024", says=says)


def test_no_network_to_download_from(tmp_path, workdir):
    """What to fetch, and where to put it."""
    cut = "import socket\ndef cut(*a, **k): raise OSError\nsocket.create_connection = cut"
    says = [
        "data.name = 'cifar10': not prepared",
        "no network",
        "fetch https://",
        "data.manual_dir",
    ]
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "")
    arguments = (
        f"--config={CIFAR10}",
        f"--workdir={workdir}",
        f"--config.data.data_dir={tmp_path}",
    )
    refused(*arguments, before=cut, says=says, **proxies)


def test_a_folder_without_the_archives(tmp_path, workdir):
    says = [f"data.manual_dir = {str(tmp_path)!r}: lacks cifar-10-binary.tar.gz", "put it there"]
    dirs = [f"--config.data.{name}={tmp_path}" for name in ("data_dir", "manual_dir")]
    refused(f"--config={CIFAR10}", f"--workdir={workdir}", *dirs, says=says)


# The other ends.

STUB = """import types
from ec_jax.errors import TrainingError
class Experiment:
    def __init__(self, config, workdir, command): self.config = config
    def run(self): {}
sys.modules['ec_jax.pipeline'] = types.SimpleNamespace(Experiment=Experiment)"""


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (
            "raise TrainingError('unlearn: step 3: loss is nan')",
            3,
            "error: unlearn: step 3: loss is nan",
        ),
        ("raise KeyboardInterrupt", 130, "error: interrupted; the same command goes on"),
        ("print(self.config.ec.temperature, self.config.forget.classes)", 0, ""),
    ],
)
def test_exit_statuses(body, status, says, workdir):
    overrides = ("--config.ec.temperature", "1", "--config.forget.classes=random:2")
    arguments = ("--config", ROOT / "configs" / "digits.py", "--workdir", workdir, *overrides)
    done = command(*arguments, before=STUB.format(body))
    assert done.returncode == status
    assert done.stderr.count("\n") == bool(says)
    assert done.stderr.startswith(says)
    assert done.stdout == ("" if says else "1.0 random:2\n")


def test_every_field_can_be_overridden_in_either_form(workdir):
    before = STUB.format("print(self.config.to_json())")
    before += "\nfrom ec_jax.data import sources\nsources.check = lambda *a: None"
    alone = {"parallel.coordinator": "", "parallel.processes": 1, "parallel.process": 0}
    other = {**OTHER, **alone}  # a run of several would look for the others
    whole = [f"--config.{field}={value}" for field, value in other.items()]
    # absl's switches take no value of their own: --config.FIELD or --noconfig.FIELD.
    apart = [
        part
        for f, v in other.items()
        for part in ((f"--config.{f}",) if v is True else (f"--config.{f}", v))
    ]
    for overrides in (whole, apart):
        done = command(DIGITS, f"--workdir={workdir}", *overrides, before=before)
        assert done.stderr == ""
        found = config_lib.flatten(json.loads(done.stdout))
        fields = config_lib.flatten(digits.get_config())
        fields = {f: v for f, v in fields.items() if not f.startswith("recipes.")}  # filled in
        assert found == {**fields, **other}


def test_help():
    done = command("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for word in ("--config", "--workdir", "Exit status"):
        assert word in done.stdout


def test_scenarios_and_config_files_work_from_any_folder(tmp_path, workdir):
    (tmp_path / "mine.py").write_text(
        "from configs import cifar10\ndef get_config(name):\n    return cifar10.get_config(name)\n"
    )
    before = STUB.format("print(self.config.forget.classes)")
    before += "\nfrom ec_jax.data import sources\nsources.check = lambda *a: None"
    done = command("--config=mine.py:three", f"--workdir={workdir}", before=before, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout == "1,5,8\n"
