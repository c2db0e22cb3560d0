"""Forget specs, good and bad, and the four splits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_run import small

from ec_jax.data import sources, splits
from ec_jax.data.splits import EARLIER, SPLITS, parse_forget, parse_requests, split
from ec_jax.errors import InputError
from ec_jax.pipeline import Experiment

NAMES = sources.about("fashion_mnist").class_names  # some with a space or a slash
DIGITS = sources.about("digits").class_names  # named by numbers


def dataset(labels, test_labels):
    """A set whose image i is filled with i."""
    images = [np.full((len(part), 2, 2, 1), 0, np.uint8) for part in (labels, test_labels)]
    for part in images:
        part += np.arange(len(part), dtype=np.uint8)[:, None, None, None]
    train, test = (np.asarray(part, np.int32) for part in (labels, test_labels))
    return sources.Dataset("digits", DIGITS, images[0], train, images[1], test, train, test)


# parse_forget


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("3", (3,)),
        ("+3", (3,)),
        ("007", (7,)),
        ("5,3", (3, 5)),
        (" 5 , 3 ,", (3, 5)),
        ("3,3,Dress", (3,)),
        ("Ankle boot", (9,)),
        ("T-shirt/top, Bag", (0, 8)),
        ("Sneaker,0", (0, 7)),
        ("0,1,2,3,4,5,6,7,8", tuple(range(9))),
    ],
)
def test_lists_of_ids_and_names(spec, expected):
    assert parse_forget(spec, NAMES, seed=0) == expected


def test_a_name_that_is_a_number_wins_over_an_id():
    assert parse_forget("0", ["1", "0", "2"], seed=0) == (1,)
    assert parse_forget("8", DIGITS, seed=0) == (8,)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "names no class"),
        (" , ,", "names no class"),
        ("0,1,2,3,4,5,6,7,8,9", "forgets all classes"),
        ("10", "class 10 is out of range; ids go from 0 to 9"),
        ("-1", "class -1 is out of range"),
        ("123456789", "class 123456789 is out of range"),
        ("9" * 5000, "no class is named"),  # more digits than Python reads
        ("Snaeker", "no class is named 'Snaeker'; did you mean 'Sneaker'?"),
        ("dresss", "did you mean 'Dress'?"),
        ("ANKLE BOOTS", "did you mean 'Ankle boot'?"),
        ("3.0", "no class is named '3.0'"),
        ("+-3", "no class is named '+-3'"),
        ("--3", "no class is named '--3'"),
        ("-", "no class is named '-'"),
        ("²", "no class is named '²'"),
        ("٣", "no class is named '٣'"),
        ("3;5", "no class is named '3;5'"),
        ("random:", "takes an integer K from 1 to 9"),
        ("random:0", "takes an integer K from 1 to 9"),
        ("random:10", "takes an integer K from 1 to 9"),
        ("random:-1", "takes an integer K from 1 to 9"),
        ("random:two", "takes an integer K from 1 to 9"),
        ("random:1.5", "takes an integer K from 1 to 9"),
        ("random:²", "takes an integer K from 1 to 9"),
        ("random:" + "9" * 5000, "takes an integer K from 1 to 9"),
        ("file:", "Is a directory; give a text file"),
        ("file:no/such/file", "No such file or directory; give a text file"),
        ("file:~no_such_user/file", "No such file or directory; give a text file"),
        ("file:\0", "not a text file"),
    ],
    ids=lambda text: text[:20] or "nothing",
)
def test_a_bad_spec_is_named_with_its_reason(spec, reason):
    with pytest.raises(InputError) as caught:
        parse_forget(spec, NAMES, seed=0)
    message = str(caught.value)
    assert message.startswith(f"forget.classes = {repr(spec)[:100]}")  # a long one is cut
    assert reason in message


def test_random_is_deterministic_and_in_range():
    drawn = [parse_forget("random:4", NAMES, seed) for seed in range(30)]
    assert drawn == [parse_forget("random:4", NAMES, seed) for seed in range(30)]
    assert all(len(set(d)) == 4 and list(d) == sorted(d) for d in drawn)
    assert {c for d in drawn for c in d} == set(range(10))  # every class has its turn
    assert len(set(drawn)) > 20
    # Ids are plain integers: they go into JSON.
    assert all(type(c) is int for d in drawn for c in d)


def test_space_around_a_spec_means_nothing():
    assert parse_forget(" random:4 ", NAMES, seed=1) == parse_forget("random:4", NAMES, seed=1)


def test_random_with_two_classes_forgets_one():
    assert parse_forget("random:1", ["a", "b"], seed=0) in ((0,), (1,))


@pytest.mark.parametrize(
    "content",
    [
        b"Ankle boot\n2\n",
        b"# what goes\n\n  Ankle boot  # a shoe\n2\n2",
        b"2\r\nAnkle boot\r\n",
        b"\xef\xbb\xbfAnkle boot\n2\n",  # as some editors begin a text
    ],
    ids=["plain", "comments", "windows", "mark"],
)
def test_a_file_of_classes(tmp_path, content):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    assert parse_forget(f"file:{path}", NAMES, seed=0) == (2, 9)


def test_a_files_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "classes.txt").write_text("4\n")
    assert parse_forget("file:~/classes.txt", NAMES, seed=0) == (4,)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "names no class"),
        (b"# 3\n\n", "names no class"),
        (b"\xff\xfe\x00\x01", "not a text file"),
        (b"3\nSnaeker\n", "did you mean 'Sneaker'?"),
        (b"3\n12\n", "class 12 is out of range"),
    ],
    ids=["empty", "comments", "binary", "unknown", "range"],
)
def test_a_bad_file_of_classes(tmp_path, content, reason):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        parse_forget(f"file:{path}", NAMES, seed=0)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)


def test_a_folder_is_no_file_of_classes(tmp_path):
    with pytest.raises(InputError, match="Is a directory; give a text file"):
        parse_forget(f"file:{tmp_path}", NAMES, seed=0)


@settings(deadline=None)
@given(st.text(max_size=20))
def test_any_text_is_parsed_or_refused_as_input(spec):
    try:
        ids = parse_forget(spec, NAMES, seed=0)
    except InputError:
        return
    assert 1 <= len(ids) < len(NAMES) or spec.strip().startswith("samples:")
    assert set(ids) < set(range(len(NAMES)))


# Several requests, one after the other.


def test_requests_one_after_the_other():
    assert parse_requests("3", NAMES, seed=0) == ((3,),)
    assert parse_requests("Bag; 5,1 ;0", NAMES, seed=0) == ((8,), (1, 5), (0,))


def test_every_draw_is_of_what_is_left():
    for seed in range(20):
        found = parse_requests("7;random:2;random:3;random:2", NAMES, seed, earlier=(9,))
        assert [len(request) for request in found] == [1, 2, 3, 2]
        assert len({9, *(c for request in found for c in request)}) == 9
        assert found[1] == parse_forget("random:2", NAMES, seed, earlier=(9, 7))


def test_a_draw_without_earlier_classes_is_the_one_it_was():
    drawn = [parse_forget("random:4", NAMES, seed=s, earlier=()) for s in range(5)]
    assert drawn == [parse_forget("random:4", NAMES, seed=s) for s in range(5)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("", ()), (" , ", ()), ("5,3,3", (3, 5)), ("Ankle boot, 0", (0, 9))],
)
def test_earlier_classes(spec, expected):
    assert splits.parse_earlier(spec, NAMES) == expected


def test_an_earlier_class_that_there_is_not():
    with pytest.raises(InputError, match=r"^forget.earlier = 'Snaeker': .*mean 'Sneaker'"):
        splits.parse_earlier("Snaeker", NAMES)


# parse_samples


def test_samples_are_drawn_once_for_all_seeds_of_a_run():
    found = splits.parse_samples("samples:50", 1437, seed=0)
    assert len(np.unique(found)) == 50
    assert found.min() >= 0
    assert found.max() < 1437
    np.testing.assert_array_equal(found, splits.parse_samples(" samples:50 ", 1437, seed=0))
    assert not np.array_equal(found, splits.parse_samples("samples:50", 1437, seed=1))
    assert splits.parse_samples("3,5", 1437, seed=0) is None


def test_a_file_of_samples(tmp_path):
    path = tmp_path / "images.txt"
    path.write_text("7  # an image\n\n3\n7\n")
    assert splits.parse_samples(f"samples:{path}", 10, seed=0).tolist() == [3, 7]


@pytest.mark.parametrize("line", ["10", "-1", "3.0", "dog", "²"])
def test_a_file_with_what_is_no_image(tmp_path, line):
    path = tmp_path / "images.txt"
    path.write_text(f"3\n{line}\n")
    with pytest.raises(InputError, match="is no index of a training image; they go from 0 to 9"):
        splits.parse_samples(f"samples:{path}", 10, seed=0)


def test_neither_none_nor_all_images_are_forgotten(tmp_path):
    path = tmp_path / "images.txt"
    for text in ("", "0\n1\n2\n"):
        path.write_text(text)
        with pytest.raises(InputError, match="of 3 training images; at least one, and not all"):
            splits.parse_samples(f"samples:{path}", 3, seed=0)


def test_forgotten_samples_leave_the_test_images_alone():
    data = sources.load("digits")
    samples = splits.parse_samples("samples:100", len(data.train_labels), seed=0)
    found = splits.split(data, (), samples)
    assert sorted(found["forget_train"]) == samples.tolist()
    assert len(found["forget_test"]) == 0
    assert len(found["retain_test"]) == len(data.test_labels)
    both = np.concatenate([found["forget_train"], found["retain_train"]])
    assert sorted(both) == list(range(len(data.train_labels)))


def test_more_samples_than_are_left_are_refused_before_any_work(tmp_path):
    left = len(splits.hold_out(sources.load("digits"), 0.2).train_labels)
    Experiment(small(forget__classes=f"samples:{left - 1}", data__validation=0.2), tmp_path)
    with pytest.raises(
        InputError, match=rf"'samples:{left}': .* an integer N from 1 to {left - 1}$"
    ):
        Experiment(small(forget__classes=f"samples:{left}", data__validation=0.2), tmp_path)


# split

LABELS = st.lists(st.integers(0, 9), min_size=1, max_size=60)


@settings(deadline=None)
@given(LABELS, LABELS, st.sets(st.integers(0, 9), min_size=1, max_size=9))
def test_the_splits_partition_train_and_test_by_class(train, test, forget):
    data = dataset(train, test)
    out = split(data, sorted(forget))
    assert tuple(out) == SPLITS
    for part, labels in (("train", data.train_labels), ("test", data.test_labels)):
        both = np.concatenate([out[f"forget_{part}"], out[f"retain_{part}"]])
        assert sorted(both) == list(range(len(labels)))
        assert set(labels[out[f"forget_{part}"]]) <= forget
        assert not set(labels[out[f"retain_{part}"]]) & forget
    for name, rows in out.items():
        images, labels = data.images_and_labels(name, rows)
        assert images.shape == (len(rows), 2, 2, 1)
        assert images.ravel()[::4].tolist() == rows.tolist()
        assert np.isin(labels, sorted(forget)).all() == (name.startswith("forget") or not len(rows))


@settings(deadline=None)
@given(LABELS, LABELS, st.permutations(range(10)), st.integers(1, 4), st.integers(1, 4))
def test_earlier_classes_are_in_splits_of_their_own(train, test, order, count, before):
    forget, earlier = order[:count], order[count : count + before]
    data = dataset(train, test)
    out, plain = split(data, forget, earlier=earlier), split(data, forget)
    assert tuple(out) == (*SPLITS, *EARLIER)
    for part, labels in (("train", data.train_labels), ("test", data.test_labels)):
        parts = [out[f"{kind}_{part}"] for kind in ("forget", "retain", "earlier")]
        assert sorted(np.concatenate(parts)) == list(range(len(labels)))
        assert set(labels[out[f"earlier_{part}"]]) <= set(earlier)
        assert not set(labels[out[f"retain_{part}"]]) & {*forget, *earlier}
        np.testing.assert_array_equal(out[f"forget_{part}"], plain[f"forget_{part}"])
        kept = plain[f"retain_{part}"]
        np.testing.assert_array_equal(out[f"retain_{part}"], kept[~np.isin(labels[kept], earlier)])


def test_a_sets_order_by_class_does_not_survive():
    labels = np.repeat(np.arange(10), 20)
    data = dataset(labels, labels)
    out = split(data, (1, 2, 3, 4, 5))
    for name, rows in out.items():
        _, got = data.images_and_labels(name, rows)
        # Of 100 examples in a fair order, about 80 have a neighbour of another class.
        assert np.count_nonzero(np.diff(got)) > 60
        assert set(got[:30]) == set(got)
    again = split(data, (1, 2, 3, 4, 5))
    assert all(np.array_equal(out[name], again[name]) for name in SPLITS)


# hold_out


def test_a_part_of_every_class_takes_the_test_images_place():
    whole = sources.load("digits")
    made = splits.hold_out(whole, 0.2)
    again = splits.hold_out(whole, 0.2)
    for c in range(10):
        count = (whole.train_labels == c).sum()
        assert (made.test_labels == c).sum() == round(0.2 * count)
        assert (made.train_labels == c).sum() == count - round(0.2 * count)
    np.testing.assert_array_equal(made.test_images, again.test_images)

    def rows(images):
        return sorted(image.tobytes() for image in images)

    # All of the training images, and none of the test images.
    both = np.concatenate([made.train_images, made.test_images])
    assert rows(both) == rows(whole.train_images)
    np.testing.assert_array_equal(made.test_classes, made.test_labels)


def test_a_class_of_one_image_cannot_be_divided():
    few = sources.load("digits", subset=10)
    with pytest.raises(InputError, match=r"data\.validation = 0\.5: class 0 has 1 training image"):
        splits.hold_out(few, 0.5)
