"""Digits, and TFDS's own builders on archives in their real format."""

import difflib
import os
import socket
import subprocess
import sys
from pathlib import Path

import archives
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec_jax.data import network, sources, tfds_sets
from ec_jax.errors import InputError

ROOT = Path(__file__).parents[2]
PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
MAKE = {"cifar10": archives.make_cifar10, "cifar100": archives.make_cifar100}


def rows(images, labels):
    """The examples as a sorted list, whatever their order."""
    return sorted((int(y), x.tobytes()) for x, y in zip(images, labels, strict=True))


def refused(call, *args, **kwargs):
    """The message with which a call refuses its input."""
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


@pytest.fixture
def folders(tmp_path):
    """A folder for prepared sets, and one for archives."""
    out = tmp_path / "data", tmp_path / "archives"
    for folder in out:
        folder.mkdir()
    return tuple(map(str, out))


@pytest.fixture
def offline(monkeypatch):
    """No network, no proxy; lists the hosts that were tried."""
    tried = []

    def refuse(address, *_):
        tried.append(address)
        raise OSError("no route")

    monkeypatch.setattr(network.socket, "create_connection", refuse)
    for variable in PROXIES:
        monkeypatch.delenv(variable, raising=False)
    return tried


# Names


@pytest.mark.parametrize(
    ("name", "count"), [("digits", 10), ("fashion_mnist", 10), ("cifar10", 10), ("cifar100", 100)]
)
def test_every_set_has_its_classes(name, count):
    assert name in sources.names()
    assert len(set(sources.about(name).class_names)) == count
    assert len(sources.about(name).image_shape) == 3


def test_cifars_classes_are_in_the_archives_order():
    # Both archives number their classes alphabetically.
    for name in ("cifar10", "cifar100"):
        assert list(sources.about(name).class_names) == sorted(sources.about(name).class_names)


def test_fashion_mnists_classes_are_tfds():
    from tensorflow_datasets.image_classification import mnist

    builder = mnist.FashionMNIST
    assert builder.name == "fashion_mnist"
    info = tfds_sets.open_builder("fashion_mnist", "").info
    names = info.features["label"].names
    for ours, theirs in zip(sources.about("fashion_mnist").class_names, names, strict=True):
        assert difflib.SequenceMatcher(None, ours.lower(), theirs.lower()).ratio() > 0.9
    assert info.features["image"].shape == sources.about("fashion_mnist").image_shape


# Digits


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    data = sources.load("digits")
    assert data.image_shape == sources.about("digits").image_shape
    assert data.train_images.dtype == np.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    assert (len(data.train_labels), len(data.test_labels)) == (1437, 360)
    assert data.train_images.max() == 255
    shares = np.bincount(data.test_labels) / np.bincount(data.train_labels)
    np.testing.assert_allclose(shares, 0.25, atol=0.01)  # stratified
    digits = load_digits()
    images = np.concatenate([data.train_images, data.test_images])
    labels = np.concatenate([data.train_labels, data.test_labels])
    original = np.round(digits.images * 255 / 16).astype(np.uint8)[..., None]
    assert rows(images, labels) == rows(original, digits.target)
    assert rows(*data.images_and_labels("forget_test", np.arange(3))) == rows(
        data.test_images[:3], data.test_labels[:3]
    )


def test_digits_are_cut_alike_whatever_the_seed():
    one, other = sources.load("digits", seed=1), sources.load("digits", seed=2)
    np.testing.assert_array_equal(one.train_images, other.train_images)
    np.testing.assert_array_equal(one.test_labels, other.test_labels)


def test_a_set_that_is_kept_cannot_be_written_to():
    for data in (sources.load("digits"), sources.load("digits", subset=300)):
        for name in ("train_images", "train_labels", "test_labels", "train_classes"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(data, name)[0] = 0


def test_a_subset_of_digits_is_drawn_from_the_training_images():
    whole = sources.load("digits")
    part = sources.load("digits", subset=300, seed=1)
    again = sources.load("digits", subset=300, seed=1)
    other = sources.load("digits", subset=300, seed=2)
    assert len(part.train_labels) == 300
    assert set(rows(part.train_images, part.train_labels)) <= set(
        rows(whole.train_images, whole.train_labels)
    )
    np.testing.assert_array_equal(part.train_images, again.train_images)
    assert not np.array_equal(part.train_images, other.train_images)
    np.testing.assert_array_equal(part.test_images, whole.test_images)


# Subsets


@settings(deadline=None)
@given(st.data(), st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(0, 2**31))
def test_a_subset_has_the_shares_of_the_whole(data, counts, seed):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    size = data.draw(st.integers(1, len(labels)))
    kept = sources._subset(labels, size, seed)
    assert len(kept) == size
    assert (np.diff(kept) > 0).all()
    exact = np.array(counts) * size / len(labels)
    assert (np.abs(np.bincount(labels[kept], minlength=len(counts)) - exact) < 1).all()
    np.testing.assert_array_equal(kept, sources._subset(labels, size, seed))


def test_no_subset_keeps_everything():
    np.testing.assert_array_equal(sources._subset(np.zeros(5, int), 0, 0), np.arange(5))


def test_a_subset_larger_than_the_set_is_refused():
    message = refused(sources.load, "digits", subset=1438)
    assert message == "data.subset = 1438: the set has 1437 training images; 0 for all"


# CIFAR


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_what_was_put_into_its_archive(name, folders, monkeypatch, offline):
    data_dir, manual_dir = folders
    archive, truth = MAKE[name](manual_dir)
    archives.patch(monkeypatch, name, archive)
    sources.check(name, data_dir, manual_dir)
    data = sources.load(name, data_dir=data_dir, manual_dir=manual_dir)
    assert data.image_shape == sources.about(name).image_shape
    assert data.train_images.dtype == np.uint8
    assert data.train_labels.dtype == np.int32
    assert rows(data.train_images, data.train_labels) == rows(*truth["train"])
    assert rows(data.test_images, data.test_labels) == rows(*truth["test"])
    # The archive's own names, as TFDS kept them.
    names = tfds_sets.open_builder(name, data_dir).info.features["label"].names
    assert tuple(names) == data.class_names == sources.about(name).class_names

    # Prepared, it needs neither archives nor network.
    archive.unlink()
    sources.check(name, data_dir)
    part = sources.load(name, data_dir=data_dir, subset=20, seed=3)
    assert offline == []
    assert set(rows(part.train_images, part.train_labels)) <= set(rows(*truth["train"]))
    np.testing.assert_array_equal(part.test_images, data.test_images)
    shares = np.bincount(part.train_labels, minlength=len(names))
    assert shares.sum() == 20
    assert np.ptp(shares) <= (0 if name == "cifar10" else 1)

    # Nor TensorFlow.
    code = (
        "import sys; from ec_jax.data import sources;"
        f"data = sources.load({name!r}, data_dir={data_dir!r});"
        "print(len(data.train_labels), 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == [str(len(data.train_labels)), "False"], done.stderr


def truncate(archive):
    archive.write_bytes(archive.read_bytes()[:-1000])


def change_a_byte(archive):
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, change_a_byte])
def test_a_damaged_archive_is_refused_and_nothing_is_left(damage, folders, monkeypatch, offline):
    data_dir, manual_dir = folders
    archive, truth = archives.make_cifar10(manual_dir, per_class=2)
    archives.patch(monkeypatch, "cifar10", archive)
    good = archive.read_bytes()
    damage(archive)
    message = refused(sources.load, "cifar10", data_dir=data_dir, manual_dir=manual_dir)
    assert message.startswith(f"data.manual_dir = {manual_dir!r}: cifar10 cannot be prepared")
    assert archive.name in message
    assert "\n" not in message
    assert not tfds_sets.open_builder("cifar10", data_dir).is_prepared()
    assert not list(Path(data_dir).rglob("*.array_record*"))

    # The right archive is enough to go on.
    archive.write_bytes(good)
    data = sources.load("cifar10", data_dir=data_dir, manual_dir=manual_dir)
    assert rows(data.train_images, data.train_labels) == rows(*truth["train"])


def test_an_archive_with_the_right_checksum_that_cannot_be_unpacked(folders, monkeypatch, offline):
    data_dir, manual_dir = folders
    archive, _ = archives.make_cifar10(manual_dir, per_class=2)
    truncate(archive)
    archives.patch(monkeypatch, "cifar10", archive)
    message = refused(sources.load, "cifar10", data_dir=data_dir, manual_dir=manual_dir)
    assert message.startswith(f"data.manual_dir = {manual_dir!r}: cifar10 cannot be prepared")
    assert not tfds_sets.open_builder("cifar10", data_dir).is_prepared()


def test_a_set_prepared_as_tfrecord_is_refused(folders, monkeypatch, offline):
    import tensorflow_datasets as tfds

    data_dir, manual_dir = folders
    archive, _ = archives.make_cifar10(manual_dir, per_class=1, test_per_class=1)
    archives.patch(monkeypatch, "cifar10", archive)
    tfds.builder("cifar10", data_dir=data_dir).download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
    )
    message = refused(sources.check, "cifar10", data_dir, manual_dir)
    assert message.startswith(f"data.data_dir = {data_dir!r}: ")
    assert "in another format than ArrayRecord" in message
    assert "give another folder" in message


# Fashion-MNIST


def fashion_folder():
    given_folder = os.environ.get("EC_JAX_FASHION_MNIST")
    return Path(given_folder or ROOT.parent / "shared" / "data" / "fashion_mnist")


@pytest.mark.slow
@pytest.mark.skipif(
    not (fashion_folder() / "train-images-idx3-ubyte.gz").is_file(),
    reason="no archives of Fashion-MNIST; EC_JAX_FASHION_MNIST names their folder",
)
def test_fashion_mnist_from_the_original_archives(tmp_path, offline):
    data_dir, manual_dir = str(tmp_path), str(fashion_folder())
    sources.check("fashion_mnist", data_dir, manual_dir)
    data = sources.load("fashion_mnist", data_dir=data_dir, manual_dir=manual_dir)
    assert data.train_images.shape == (60_000, 28, 28, 1)
    assert data.test_images.shape == (10_000, 28, 28, 1)
    assert np.bincount(data.train_labels).tolist() == [6000] * 10
    assert np.bincount(data.test_labels).tolist() == [1000] * 10
    assert abs(data.train_images.mean() - 72.94) < 0.01  # the set's well-known 0.2860 of 255
    part = sources.load("fashion_mnist", data_dir=data_dir, subset=1000)
    assert np.bincount(part.train_labels).tolist() == [100] * 10
    whole = set(rows(data.train_images, data.train_labels))
    assert set(rows(part.train_images, part.train_labels)) <= whole
    assert offline == []


# What cannot be loaded


@pytest.mark.parametrize(("name", "near"), [("cifra10", "cifar10"), ("Digits", "digits")])
def test_an_unknown_set_is_told_its_nearest(name, near):
    message = refused(sources.check, name)
    assert message.startswith(f"data.name = {name!r}: no such set; did you mean {near!r}?")
    assert all(known in message for known in sources.names())


@pytest.mark.parametrize("field", ["data_dir", "manual_dir"])
@pytest.mark.parametrize("name", ["digits", "cifar10"])
@pytest.mark.parametrize("folder", ["no/such/folder", "~no_such_user/folder"])
def test_a_missing_folder_is_named(field, name, folder):
    message = refused(sources.check, name, **{field: folder})
    assert message.startswith(f"data.{field} = {folder!r}: no such folder")


def test_a_missing_archive_is_named(folders):
    data_dir, manual_dir = folders
    message = refused(sources.check, "cifar10", data_dir, manual_dir)
    assert message.startswith(f"data.manual_dir = {manual_dir!r}: lacks cifar-10-binary.tar.gz")
    (Path(manual_dir) / "train-images-idx3-ubyte.gz").touch()
    message = refused(sources.check, "fashion_mnist", data_dir, manual_dir)
    assert "train-labels-idx1-ubyte.gz" in message
    assert "train-images-idx3-ubyte.gz" not in message


def test_without_a_network_the_way_round_is_told(folders, offline):
    message = refused(sources.check, "cifar100", folders[0])
    assert offline == [("www.cs.toronto.edu", 443)]
    assert message.startswith(f"data.name = 'cifar100': not prepared in {folders[0]}, ")
    assert "no network to www.cs.toronto.edu" in message
    assert "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz" in message
    assert "--config.data.manual_dir" in message


def test_a_host_that_answers_is_enough(folders, monkeypatch, offline):
    class Connection:
        def close(self):
            pass

    monkeypatch.setattr(socket, "create_connection", lambda *_: Connection())
    sources.check("cifar10", folders[0])


@pytest.mark.parametrize("variable", PROXIES)
def test_behind_a_proxy_no_host_is_tried(variable, folders, monkeypatch, offline):
    monkeypatch.setenv(variable, "http://proxy.example:3128")
    sources.check("cifar10", folders[0])
    assert offline == []


def test_a_failed_download_is_told_as_such(folders, monkeypatch, offline):
    import tensorflow_datasets as tfds

    def fail(*_, **__):
        raise ConnectionError("host\nunreachable")

    monkeypatch.setattr(tfds.builder_cls("cifar10"), "download_and_prepare", fail)
    message = refused(sources.load, "cifar10", data_dir=folders[0])
    assert message.startswith("data.name = 'cifar10': not prepared in ")
    assert "(host unreachable)" in message
