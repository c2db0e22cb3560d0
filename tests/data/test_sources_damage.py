"""Sets and archives that are not whole, machines that lack something: all told in one line."""

import errno
import logging
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import archives
import command
import numpy as np
import pytest

from ec_jax.data import network, sources, tfds_sets
from ec_jax.errors import InputError

ROOT = Path(__file__).parents[2]
LABELS = "label.labels.txt"


def refused(call, *args, **kwargs):
    """The message with which a call refuses its input."""
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a small CIFAR-10 in it; tests damage copies."""
    base = tmp_path_factory.mktemp("cifar10")
    for name in ("data", "archives"):
        (base / name).mkdir()
    archive, _ = archives.make_cifar10(base / "archives")
    with pytest.MonkeyPatch.context() as patch:
        archives.patch(patch, "cifar10", archive)
        sources.load("cifar10", data_dir=str(base / "data"), manual_dir=str(base / "archives"))
    return base / "data"


@pytest.fixture
def no_proxy(monkeypatch):
    for name in tfds_sets._PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def lose(folder):
    next(folder.glob("*train.array_record*")).unlink()


def lose_info(folder):
    (folder / "dataset_info.json").unlink()


def spoil_info(folder):
    (folder / "dataset_info.json").write_text("{nonsense")


def swap_classes(folder):
    names = (folder / LABELS).read_text().split("\n")
    (folder / LABELS).write_text("\n".join([names[1], names[0], *names[2:]]))


def empty(folder):
    next(folder.glob("*train.array_record*")).write_bytes(b"")


def halve(folder):
    path = next(folder.glob("*test.array_record*"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_bytes(folder):
    path = next(folder.glob("*train.array_record*"))
    content = bytearray(path.read_bytes())
    content[20_000:20_064] = bytes(b ^ 0x5A for b in content[20_000:20_064])
    path.write_bytes(content)


SEEN_AT_ONCE = {
    lose: "no file ",
    lose_info: "is damaged",
    spoil_info: "is damaged",
    swap_classes: "its class 0 is automobile, should be airplane",
}
SEEN_IN_READING = {
    empty: "is damaged",
    halve: "example of it is empty",
    change_bytes: "hash mismatch",
}


@pytest.mark.parametrize("damage", [*SEEN_AT_ONCE, *SEEN_IN_READING], ids=lambda d: d.__name__)
def test_a_damaged_prepared_set_is_refused(damage, prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    (folder,) = (tmp_path / "cifar10").iterdir()
    damage(folder)
    for call in (sources.check, sources.load) if damage in SEEN_AT_ONCE else (sources.load,):
        message = refused(call, "cifar10", data_dir=str(tmp_path))
        assert message.startswith(f"data.data_dir = {str(tmp_path)!r}: ")
        assert (SEEN_AT_ONCE | SEEN_IN_READING)[damage] in message
        assert "remove" in message


def test_half_an_archive_is_seen_before_any_work(tmp_path, monkeypatch):
    archive, _ = archives.make_cifar10(tmp_path, per_class=1, test_per_class=1)
    archives.patch(monkeypatch, "cifar10", archive)
    size = archive.stat().st_size
    archive.write_bytes(archive.read_bytes()[:-10])
    message = refused(sources.check, "cifar10", str(tmp_path), str(tmp_path))
    assert f"{archive.name} has {size - 10} bytes and not {size}; fetch it anew, http" in message


def test_what_lies_unpacked_under_an_archives_name_is_not_taken_up(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    archive, truth = archives.make_cifar10(tmp_path, per_class=1, test_per_class=1)
    archives.patch(monkeypatch, "cifar10", archive)
    # TFDS unpacks here unless told otherwise, and leaves it.
    other = tmp_path / "data/downloads/extracted" / f"TAR_GZ.{archive.name}/cifar-10-batches-bin"
    other.mkdir(parents=True)
    for i in range(1, 6):
        (other / f"data_batch_{i}.bin").write_bytes(bytes(3073))
    (other / "test_batch.bin").write_bytes(bytes(3073))
    (other / "batches.meta.txt").write_text("\n".join(sources.about("cifar10").class_names))
    data = sources.load("cifar10", data_dir=str(tmp_path / "data"), manual_dir=str(tmp_path))
    assert sorted(data.train_labels) == sorted(truth["train"][1])
    assert {x.tobytes() for x in data.train_images} == {x.tobytes() for x in truth["train"][0]}
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["cifar10", "downloads"]


def test_preparing_says_one_line(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import archives, pytest
from ec_jax.data import sources
archive, _ = archives.make_cifar10({str(tmp_path)!r}, per_class=1, test_per_class=1)
archives.patch(pytest.MonkeyPatch(), "cifar10", archive)
sources.load("cifar10", data_dir={str(tmp_path)!r}, manual_dir={str(tmp_path)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"data: preparing cifar10 in {tmp_path}")
    assert done.stderr == ""


def test_the_table_of_sets_needs_none_of_the_heavy_packages():
    code = (
        "import sys; from ec_jax.data import sources, splits;"
        "[splits.parse_forget('1', sources.about(n).class_names, 0) for n in sources.names()];"
        "print({'jax', 'sklearn', 'tensorflow', 'tensorflow_datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stderr


def test_a_name_server_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch, no_proxy):
    over = threading.Event()

    def stall(*_):
        over.wait(20)
        raise OSError("name not known")

    monkeypatch.setattr(network, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(network.socket, "create_connection", stall)
    begun = time.monotonic()
    message = refused(sources.check, "fashion_mnist", str(tmp_path))
    assert time.monotonic() - begun < 5
    assert "no network to fashion-mnist.s3" in message
    over.set()


@pytest.mark.parametrize("variable", ["all_proxy", "Https_Proxy"])
def test_a_proxy_is_known_by_any_spelling(variable, tmp_path, monkeypatch, no_proxy):
    monkeypatch.setattr(network, "reachable", lambda *_: False)
    monkeypatch.setenv(variable, "http://proxy.example:3128")
    sources.check("cifar10", str(tmp_path))
    monkeypatch.setenv(variable, "")
    refused(sources.check, "cifar10", str(tmp_path))


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("Not enough disk space. Needed: 1 GiB"),  # TFDS's own
    ],
)
def test_a_folder_that_cannot_be_written_is_named(error, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(tfds.builder_cls("cifar10"), "download_and_prepare", fail)
    folder = str(tmp_path)
    message = refused(sources.load, "cifar10", data_dir=folder, manual_dir=folder)
    assert message.startswith(f"data.data_dir = {folder!r}: cifar10 cannot be prepared in it")
    assert not list(tmp_path.iterdir())


# As on a machine that has no such package.
WITHOUT = """
import importlib.abc, sys
class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nothing())
"""


def test_preparing_without_tensorflow_is_told(tmp_path):
    command.refused(
        "--config=configs/cifar10.py",
        f"--config.data.data_dir={tmp_path}",
        f"--workdir={tmp_path / 'run'}",
        before=WITHOUT,
        says=("data.name = 'cifar10': has to be prepared; install tensorflow",),
    )


def test_the_log_level_of_others_is_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(network, "reachable", lambda *_: True)
    levels = [logging.getLogger(name).level for name in ("absl", "urllib3.connectionpool")]
    sources.check("cifar10", str(tmp_path))
    assert levels == [logging.getLogger(n).level for n in ("absl", "urllib3.connectionpool")]


def test_a_set_counts_its_classes_and_not_those_of_a_subset():
    data = sources.load("digits", subset=5)
    assert len(data.class_names) == 10
    assert len(np.unique(data.train_labels)) == 5
