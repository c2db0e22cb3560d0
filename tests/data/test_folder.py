"""A folder of pictures as a set: its classes, its parts, and what may be wrong with it."""

import jpegs
import numpy as np
import pytest

from ec_jax.data import folder, sources, splits, wordnet
from ec_jax.data.pictures import Pictures
from ec_jax.errors import InputError

NAMES = ("ant", "bee", "cow", "dog")


def load(root, **options):
    sources.load.cache_clear()  # a test changes what is there
    sources.about.cache_clear()
    sources.check(sources.FOLDER, str(root))
    return sources.load(sources.FOLDER, data_dir=str(root), image_size=16, resize=20, **options)


def refused(root, **options):
    with pytest.raises(InputError) as caught:
        load(root, **options)
    return str(caught.value)


def test_a_folder_is_read_as_torchvision_reads_it(tmp_path):
    import torch_models

    torch_models.torchvision()
    from torchvision import datasets, transforms

    root = jpegs.folder(tmp_path)
    data = load(root)
    cut = transforms.Compose([transforms.Resize(20), transforms.CenterCrop(16)])
    for part, images, labels in (
        ("train", data.train_images, data.train_labels),
        ("val", data.test_images, data.test_labels),
    ):
        theirs = datasets.ImageFolder(str(root / part), cut)
        assert data.class_names == tuple(theirs.classes) == NAMES
        assert labels.tolist() == theirs.targets
        assert labels.dtype == np.int32
        shown = np.stack([np.asarray(image) for image, _ in theirs])
        np.testing.assert_array_equal(images[0 : len(labels)], shown)
    assert data.image_shape == (16, 16, 3)
    rows = np.array([5, 2])
    images, labels = data.images_and_labels("retain_train", rows)
    np.testing.assert_array_equal(images[0:2], data.train_images[rows])
    assert labels.tolist() == data.train_labels[rows].tolist()


def test_a_part_can_be_held_out_and_a_subset_drawn(tmp_path):
    whole = load(jpegs.folder(tmp_path))
    held = splits.hold_out(whole, 0.34)
    assert (len(held.train_labels), len(held.test_labels)) == (16, 8)
    assert len(held.test_images) == 8
    few = load(tmp_path, subset=8, seed=1)
    assert np.bincount(few.train_labels).tolist() == [2, 2, 2, 2]
    assert len(few.train_images) == 8


def test_a_folder_without_parts_is_cut_always_alike(tmp_path):
    jpegs.folder(tmp_path, train=10, test=0, parts=("all", "none"))
    (tmp_path / "all" / "ant" / "deeper").mkdir()
    (tmp_path / "all" / "ant" / "0.jpg").rename(tmp_path / "all" / "ant" / "deeper" / "0.JPG")
    (tmp_path / "all" / "ant" / "about.txt").write_text("no picture")
    data = load(tmp_path / "all")
    assert np.bincount(data.train_labels).tolist() == [8, 8, 8, 8]
    assert np.bincount(data.test_labels).tolist() == [2, 2, 2, 2]
    train, test = (
        {image.tobytes() for image in images[0 : len(images)]}
        for images in (data.train_images, data.test_images)
    )
    assert len(train | test) == 40  # none is in both


def test_a_class_may_be_called_train(tmp_path):
    jpegs.folder(tmp_path, names=("bus", "train"), train=5, test=0, parts=("all", "none"))
    data = load(tmp_path / "all")
    assert data.class_names == ("bus", "train")
    assert np.bincount(data.train_labels).tolist() == [4, 4]


def test_a_test_part_without_labels_is_passed_over(tmp_path):
    jpegs.folder(tmp_path)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "0.jpg").write_bytes(jpegs.jpeg(0, 0))
    assert len(load(tmp_path).test_labels) == 8  # those of val


def test_links_to_folders_and_pictures_are_followed(tmp_path):
    jpegs.folder(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "9.jpg").write_bytes(jpegs.jpeg(0, 9))
    (tmp_path / "train" / "ant" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train" / "bee" / "9.jpg").symlink_to(tmp_path / "elsewhere" / "9.jpg")
    assert np.bincount(load(tmp_path).train_labels).tolist() == [7, 7, 6, 6]


def test_folders_named_by_wordnet_ids_get_imagenets_names(tmp_path):
    wnids = ("n01440764", "n02085620", "n02110341")
    jpegs.folder(tmp_path, names=wnids, train=2, test=1)
    names = load(tmp_path).class_names
    assert names == ("tench", "Chihuahua", "dalmatian")
    for entry in ("n02085620", "Chihuahua", "chihuahua", "1"):
        assert splits.parse_forget(entry, names, 0) == (1,)
    with pytest.raises(InputError, match="no class is named 'n02086240'"):
        splits.parse_forget("n02086240", names, 0)


def test_a_name_that_may_be_two_classes_is_to_be_written_as_it_is():
    names = ("Cardigan", "cardigan", "tench")  # a dog and a jacket of ImageNet
    assert [splits.parse_forget(name, names, 0) for name in names] == [(0,), (1,), (2,)]
    with pytest.raises(InputError, match="'CARDIGAN' may be Cardigan and cardigan; write it as"):
        splits.parse_forget("CARDIGAN", names, 0)


def test_imagenets_names_are_distinct_and_in_its_order():
    import tensorflow_datasets as tfds
    import torch_models

    torch_models.torchvision()
    from torchvision.models import _meta

    wnids = tfds.builder("imagenet2012").info.features["label"].names
    names = wordnet.titles(wnids)
    assert list(names) == _meta._IMAGENET_CATEGORIES
    assert len(set(names)) == 1000
    assert wordnet.titles(("n01440764", "tench")) == ("n01440764", "tench")  # would be two tenches
    assert wordnet.name("n00000000") == "n00000000"


# What may be wrong.


def test_what_is_no_folder_of_classes_is_refused(tmp_path):
    assert refused(tmp_path / "none") == (
        f"data.data_dir = '{tmp_path / 'none'}': no such folder; make it, or correct the path"
    )
    assert "data.data_dir = '': no such folder" in refused("")
    assert "it has 0 folders of classes; at least two" in refused(tmp_path)
    jpegs.folder(tmp_path, names=("ant",))
    assert "train has 1 folders of classes" in refused(tmp_path)


def test_a_missing_test_part_is_refused_before_a_picture_is_listed(tmp_path):
    jpegs.folder(tmp_path, parts=("train", "elsewhere"))
    with pytest.raises(InputError, match="has no folder test or val or validation beside train"):
        sources.check(sources.FOLDER, str(tmp_path))


def test_a_class_that_is_not_trained_on_is_refused(tmp_path):
    jpegs.folder(tmp_path)
    (tmp_path / "val" / "dog").rename(tmp_path / "val" / "dgo")
    assert "val/dgo is no class of train; rename or remove it" in refused(tmp_path)


def test_a_class_without_pictures_is_refused(tmp_path):
    jpegs.folder(tmp_path)
    for file in (tmp_path / "train" / "cow").iterdir():
        file.unlink()
    assert "train/cow has no picture" in refused(tmp_path)


def test_pictures_need_a_size(tmp_path):
    jpegs.folder(tmp_path)
    with pytest.raises(InputError, match=r"data.image_size = 0: the pictures of folder may differ"):
        sources.about(sources.FOLDER, str(tmp_path))
    with pytest.raises(InputError, match=r"data.image_size = 16: digits are taken as they are"):
        sources.about("digits", "", 16)


def test_a_picture_that_vanished_is_named(tmp_path):
    data = load(jpegs.folder(tmp_path))
    gone = tmp_path / "train" / "ant" / "3.jpg"
    gone.unlink()
    with pytest.raises(InputError) as caught:
        data.train_images[0:8]
    assert str(gone) in str(caught.value)
    assert "No such file" in str(caught.value)


def test_damaged_pictures_are_left_out_and_counted_if_the_config_says_so(tmp_path, capsys):
    jpegs.folder(tmp_path)
    broken = [tmp_path / "train" / "bee" / "1.jpg", tmp_path / "val" / "dog" / "0.jpg"]
    for file in broken:
        file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"bee/1\.jpg"):
        load(tmp_path).train_images[0:24]
    data = load(tmp_path, damaged="skip")
    assert np.bincount(data.train_labels).tolist() == [6, 5, 6, 6]
    assert np.bincount(data.test_labels).tolist() == [2, 2, 2, 1]
    assert len(data.train_images[0:23]) == len(data.train_images) == 23
    said = capsys.readouterr().out
    assert f"data: 1 damaged training picture left out: {broken[0]}" in said
    assert f"data: 1 damaged test picture left out: {broken[1]}" in said
    few = load(tmp_path, damaged="skip", subset=8)
    assert len(few.train_images[0:8]) == 8


def test_a_set_of_which_nothing_can_be_read_is_refused(tmp_path):
    jpegs.folder(tmp_path, train=1, test=1)
    for file in tmp_path.glob("train/*/*"):
        file.write_bytes(b"")
    assert "no training picture can be decoded" in refused(tmp_path, damaged="skip")


def test_every_class_of_two_pictures_has_a_test_picture():
    labels = np.repeat([0, 1, 2, 3], [1, 2, 4, 11])
    held = folder.held_out(labels)
    assert np.bincount(labels[held], minlength=4).tolist() == [0, 1, 1, 2]


def test_a_folder_without_a_test_picture_is_refused(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(jpegs.jpeg(0, 0))
    for damaged in ("refuse", "skip"):
        assert "test" in refused(tmp_path, damaged=damaged)


def test_a_wrong_label_is_named_by_its_picture_or_left_out(tmp_path, capsys):
    jpegs.folder(tmp_path)
    _, train, _ = folder.listing(tmp_path)
    labels = train.labels.copy()
    labels[2] = -1

    def images(rows):
        return Pictures(folder.files(train), rows, size=16, resize=20)

    part = sources._Part(labels, images)
    with pytest.raises(InputError, match=f"{train.paths[2]} has label -1; labels go from 0 to 3"):
        sources._check_labels(part, 4, "training", str(tmp_path))
    kept = sources._sound(part, 4, "training", str(tmp_path))
    assert f"1 damaged training picture left out: {train.paths[2]}" in capsys.readouterr().out
    np.testing.assert_array_equal(kept.labels, np.delete(labels, 2))
    np.testing.assert_array_equal(kept.images(np.array([2]))[0:1], images([3])[0:1])


def test_a_listing_opens_no_picture(tmp_path):
    jpegs.folder(tmp_path)
    for file in tmp_path.glob("*/*/*"):
        file.write_bytes(b"")
    names, train, test = folder.listing(tmp_path)
    assert (len(names), len(train.paths), len(test.paths)) == (4, 24, 8)


def test_a_link_to_a_folder_around_it_has_an_end(tmp_path):
    """Two of them had 2^40 paths."""
    root = jpegs.folder(tmp_path)
    usual = folder.listing(root)[1].paths
    for name in ("one", "two"):
        (root / "train" / "bee" / name).symlink_to(root / "train" / "bee")
    assert folder.listing(root)[1].paths == usual
