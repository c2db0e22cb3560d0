"""TFDS's own builders of sets of pictures, on small archives in their real format."""

import functools
import http.server
import io
import tarfile
import threading
import zipfile

import jpegs
import numpy as np
import pytest

from ec_jax.data import pictures, sources, tfds_sets
from ec_jax.errors import InputError

WNIDS = ("n01440764", "n02102040", "n02979186", "n03000684")  # the first of imagenette's
ALL = (*WNIDS, "n03028079", "n03394916", "n03417042", "n03425413", "n03445777", "n03888257")


@pytest.fixture
def folders(tmp_path):
    """A folder for prepared sets, and one for archives."""
    out = tmp_path / "data", tmp_path / "archives"
    for folder in out:
        folder.mkdir()
    return out


@pytest.fixture
def served(folders, monkeypatch):
    """A host, and the folder whose files it gives."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    handler = functools.partial(QuietHandler, directory=str(folders[1]))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folders[1]
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def expect(monkeypatch, name, *archives):
    """Makes the builder of ``name`` know these archives in place of the real ones."""
    import tensorflow_datasets as tfds

    builder, mine = tfds.builder_cls(name), {path.name: path for path in archives}
    infos = {
        url: tfds.download.checksums.compute_url_info(mine[info.filename])
        for url, info in builder.url_infos.items()
        if info.filename in mine
    }
    monkeypatch.setattr(builder, "url_infos", infos)


def load(name, folders, **options):
    data_dir, manual_dir = map(str, folders)
    sources.about.cache_clear()
    sources.load.cache_clear()
    sources.check(name, data_dir, manual_dir)
    return sources.load(name, data_dir=data_dir, manual_dir=manual_dir, **options)


def shown(data, part):
    images, labels = getattr(data, f"{part}_images"), getattr(data, f"{part}_labels")
    return sorted(
        (int(y), x.tobytes()) for x, y in zip(images[0 : len(labels)], labels, strict=True)
    )


def still(data):
    """A JPEG's bytes as evaluation sees them."""
    files = pictures.Files(lambda _: data, str, str, 1, "")
    return pictures.Pictures(files, size=16, resize=20)[0:1][0].tobytes()


@pytest.mark.slow
def test_imagenet(folders, capsys):
    data_dir, manual_dir = folders
    jpegs.imagenet(manual_dir, WNIDS)
    data = load("imagenet2012", folders, image_size=16, resize=20)
    assert len(data.class_names) == 1000
    assert [data.class_names[i] for i in np.unique(data.train_labels)] == [
        "tench",
        "English springer",
        "cassette player",
        "chain saw",
    ]
    ids = np.unique(data.train_labels)
    assert shown(data, "train") == sorted(
        (int(ids[label]), still(jpegs.jpeg(label, i, classes=4)))
        for label in range(4)
        for i in range(5)
    )
    assert len(data.test_labels) == 2  # of the validation images, whose labels TFDS knows
    assert "preparing imagenet2012" in capsys.readouterr().out

    # Prepared, it needs no archive, and its labels are read once.
    for archive in manual_dir.iterdir():
        archive.unlink()
    again = load("imagenet2012", (data_dir, data_dir), image_size=16, resize=20)
    np.testing.assert_array_equal(again.train_labels, data.train_labels)
    builder = tfds_sets.open_builder("imagenet2012", str(data_dir))
    kept = builder.data_path / ".train-labels.npy"
    np.save(kept, np.zeros(20, np.int32))
    assert not tfds_sets.read_labels(builder, "train", keep=True).any()
    assert tfds_sets.read_labels(builder, "train").any()
    np.save(kept, np.zeros(19, np.int32))  # of another set: not believed
    assert tfds_sets.read_labels(builder, "train", keep=True).any()


def test_imagenet_is_to_be_had_by_hand(folders):
    data_dir, manual_dir = map(str, folders)
    with pytest.raises(InputError, match=r"by hand alone; put ILSVRC2012_img_train.tar and ILSV"):
        sources.check("imagenet2012", data_dir)
    with pytest.raises(InputError, match=r"data.manual_dir = '.*': lacks ILSVRC2012_img_train.tar"):
        sources.check("imagenet2012", data_dir, manual_dir)


@pytest.mark.slow
def test_imagenette_and_a_damaged_picture_in_it(folders, monkeypatch, capsys):
    _, manual_dir = folders
    files = {
        f"imagenette2-160/{part}/{wnid}/{wnid}_{i + at}.JPEG": jpegs.jpeg(label, i + at)
        for part, count, at in (("train", 4, 0), ("val", 2, 50))
        for label, wnid in enumerate(ALL)
        for i in range(count)
    }
    broken = "imagenette2-160/train/n02102040/n02102040_2.JPEG"
    files[broken] = files[broken][:-250]
    archive = jpegs.tree(manual_dir / "imagenette2-160.tgz", files)
    expect(monkeypatch, "imagenette", archive)
    options = {"image_size": 16, "resize": 20}
    data = load("imagenette/160px-v2", folders, **options)
    assert data.class_names[:2] == ("tench", "English springer")
    assert np.bincount(data.train_labels).tolist() == [4] * 10
    assert np.bincount(data.test_labels).tolist() == [2] * 10
    expected = {still(content) for name, content in files.items() if "/val/" in name}
    assert {image.tobytes() for image in data.test_images[0:20]} == expected
    with pytest.raises(InputError, match=r"imagenette, train, example \d+': cannot be decoded"):
        data.train_images[0:40]
    whole = load("imagenette/160px-v2", folders, damaged="skip", **options)
    assert np.bincount(whole.train_labels).tolist() == [4, 3, *[4] * 8]
    assert "data: 1 damaged training picture left out: imagenette, tr" in capsys.readouterr().out
    assert len(whole.train_images[0:39]) == 39


@pytest.mark.slow
def test_svhn_is_read_into_memory(folders, monkeypatch):
    from scipy.io import savemat

    _, manual_dir = folders
    draw, truth = np.random.default_rng(0), {}
    for part, count in (("train", 30), ("test", 10), ("extra", 5)):
        labels = draw.permutation(np.arange(count) % 10) + 1  # the digit 0 is their 10
        images = draw.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        path = manual_dir / f"{part}_32x32.mat"
        savemat(path, {"X": images, "y": labels[:, None].astype(np.uint8)})
        truth[part] = sorted((int(y % 10), images[..., i].tobytes()) for i, y in enumerate(labels))
    expect(monkeypatch, "svhn_cropped", *manual_dir.glob("*.mat"))
    data = load("svhn_cropped", folders)
    assert data.class_names == tuple("0123456789")
    assert isinstance(data.train_images, np.ndarray)
    assert data.image_shape == (32, 32, 3)
    assert shown(data, "train") == truth["train"]
    assert shown(data, "test") == truth["test"]
    known = sources.about("svhn_cropped", str(folders[0]))
    assert (known.image_shape, known.train_size) == ((32, 32, 3), 30)
    cut = load("svhn_cropped", folders, image_size=24, resize=32)  # larger networks' pictures
    assert cut.image_shape == (24, 24, 3)


@pytest.mark.slow
def test_birds(folders, monkeypatch):
    pytest.importorskip("cv2", reason="TFDS reads the birds' outlines with OpenCV")
    from PIL import Image

    _, manual_dir = folders
    files, masks, lists = {}, {}, {"images": [], "train_test_split": [], "bounding_boxes": []}
    species = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "200.Common_Yellowthroat")
    for label, name in enumerate(species):
        for i in range(4):
            place, number = f"{name}/{name[4:]}_{i:04d}.jpg", len(files) + 1
            files[f"CUB_200_2011/images/{place}"] = jpegs.jpeg(label, i)
            outline = io.BytesIO()
            Image.fromarray(np.full((40, 52), 255, np.uint8)).save(outline, "PNG")
            masks[f"segmentations/{place[:-3]}png"] = outline.getvalue()
            lists["images"].append(f"{number} {place}")
            lists["train_test_split"].append(f"{number} {int(i < 3)}")
            lists["bounding_boxes"].append(f"{number} 2.0 3.0 20.0 30.0")
    files |= {f"CUB_200_2011/{n}.txt": "\n".join(v).encode() + b"\n" for n, v in lists.items()}
    archive = jpegs.tree(manual_dir / "CUB_200_2011.tgz", files)
    expect(
        monkeypatch,
        "caltech_birds2011",
        archive,
        jpegs.tree(manual_dir / "segmentations.tgz", masks),
    )
    data = load("caltech_birds2011", folders, image_size=16, resize=20)
    assert len(data.class_names) == 200
    assert sorted(data.train_labels.tolist()) == [0] * 3 + [1] * 3 + [199] * 3
    assert sorted(data.test_labels.tolist()) == [0, 1, 199]
    assert len(data.train_images[0:9]) == 9


@pytest.mark.slow
def test_a_domain_of_domainnet(folders, served, monkeypatch):
    """TFDS knows no checksums of it, and so takes it from its host alone."""
    import tensorflow_datasets as tfds

    host, manual_dir = served
    place = "sketch/{0}/sketch_{1:03d}_{2:06d}.jpg"
    names, lists = {0: "aircraft_carrier", 1: "airplane", 344: "zigzag"}, {}
    with zipfile.ZipFile(manual_dir / "sketch.zip", "w") as out:
        for label, name in names.items():
            for i in range(4):
                path = place.format(name, label + 1, i)
                out.writestr(path, jpegs.jpeg(label % 4, i))
                lists.setdefault("test" if i == 3 else "train", []).append(f"{path} {label}")
    texts = manual_dir / "domainnet" / "txt"
    texts.mkdir(parents=True)
    for part, lines in lists.items():
        (texts / f"sketch_{part}.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(tfds.builder_cls("domainnet"), "_BASE_URL", host)
    data = load("domainnet/sketch", folders, image_size=16, resize=20)
    assert len(data.class_names) == 345
    assert sorted(data.train_labels.tolist()) == [0] * 3 + [1] * 3 + [344] * 3
    assert sorted(data.test_labels.tolist()) == [0, 1, 344]
    wanted = sorted((label, still(jpegs.jpeg(label % 4, 3))) for label in names)
    assert shown(data, "test") == wanted


@pytest.mark.slow
def test_any_set_of_tfds_with_images_and_labels_is_taken_by_its_name(folders, monkeypatch):
    _, manual_dir = folders
    archives = []
    for part, count in (("train", 5), ("validation", 2), ("test", 3)):
        path = manual_dir / f"{part}.zip"
        with zipfile.ZipFile(path, "w") as out:
            for label, name in enumerate(("angular_leaf_spot", "bean_rust", "healthy")):
                for i in range(count):
                    data = jpegs.jpeg(label, i, size=(500, 500), classes=3)
                    out.writestr(f"{part}/{name}/{name}_{part}.{i}.jpg", data)
        archives.append(path)
    expect(monkeypatch, "beans", *archives)
    data = load("beans", folders, image_size=32, resize=36)
    assert data.class_names == ("angular_leaf_spot", "bean_rust", "healthy")
    assert (len(data.train_labels), len(data.test_labels)) == (15, 9)
    assert data.train_images[0:2].shape == (2, 32, 32, 3)


def test_what_is_no_set_of_labelled_images_is_refused():
    sources.about.cache_clear()
    with pytest.raises(InputError, match=r"no set of images with one label each"):
        sources.check_name("imdb_reviews")
    with pytest.raises(
        InputError, match=r"data.name = 'cifar11': no such set; did you mean 'cifar10'"
    ):
        sources.check_name("cifar11")
    with pytest.raises(InputError, match=r"'imagenette/320': has no such configuration; one of "):
        sources.check_name("imagenette/320")


@pytest.mark.slow
def test_a_wrong_label_is_refused(folders, monkeypatch):
    _, manual_dir = folders
    path = manual_dir / "ILSVRC2012_img_val.tar"
    jpegs.imagenet(manual_dir, WNIDS, train=1)
    labels = tfds_sets.read_labels
    monkeypatch.setattr(
        tfds_sets, "read_labels", lambda *a, **k: np.where(labels(*a, **k) > 500, -1, 3)
    )
    assert tarfile.is_tarfile(path)
    with pytest.raises(InputError, match=r"example \d+ .* has label -1; labels go from 0 to 999"):
        load("imagenet2012", folders, image_size=16)
