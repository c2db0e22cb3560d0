"""Events: the chain, lines that were cut off, and what the command says of a folder."""

import json

import numpy as np
import pytest
from command import command, refused

from ec_jax import digests, records
from ec_jax.errors import InputError
from ec_jax.records import Records


def opened(folder):
    return Records(folder, lambda: {"config": "a digest", "data": {"forget_train": 1}})


def names(folder):
    return [e["event"] for e in records.read(folder)]


@pytest.fixture
def workdir(tmp_path):
    kept = opened(tmp_path)
    with kept.watch():
        kept.add("stage start", stage="original")
        kept.note("original", True, sha256="x")
    return tmp_path


def test_a_start_that_does_nothing_leaves_nothing(tmp_path):
    with opened(tmp_path).watch():
        pass
    with pytest.raises(KeyError), opened(tmp_path).watch():
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_every_line_names_the_line_before(workdir):
    lines, wrong = records.chain(workdir / records.EVENTS)
    assert not wrong
    assert names(workdir) == ["start", "stage start", "stage end", "end"]
    events = records.read(workdir)
    assert [e["previous"] for e in events] == [None, *lines[:-1]]
    assert records.certificate(events, {}, None)["events"]["sha256"] == lines[-1]


def test_a_fault_says_what_was_raised_and_where(tmp_path):
    kept = opened(tmp_path)

    def work():
        with kept.watch():
            kept.add("stage start", stage="oracle")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    last = records.read(tmp_path)[-1]
    assert (last["event"], last["stage"], last["reason"]) == (
        "fault",
        "oracle",
        "KeyboardInterrupt: ",
    )


def test_any_line_that_is_changed_or_taken_out_shows(workdir):
    path = workdir / records.EVENTS
    lines = path.read_text().splitlines(keepends=True)
    for i in range(3):  # after the last line nothing follows that could tell
        for edited in ("", lines[i].replace('"time": "', '"time": "1'), lines[i] + lines[i]):
            path.write_text("".join([*lines[:i], edited, *lines[i + 1 :]]))
            assert records.chain(path)[1], (i, edited)
    path.write_text("".join(lines))
    assert not records.chain(path)[1]


@pytest.mark.parametrize("line", ["5", "[]", "{", '{"event": 3}', '{"event": "end"}', "\0"])
def test_a_line_that_is_no_record_is_named(line, workdir):
    path = workdir / records.EVENTS
    path.write_text(path.read_text() + line + "\n")
    assert records.chain(path)[1] == "line 5 is no record"
    with pytest.raises(InputError, match=r"line 5 of events\.jsonl is no record; move that file"):
        opened(workdir)


def test_a_last_line_that_was_cut_off_is_no_fault_and_is_mended(workdir):
    path = workdir / records.EVENTS
    whole = path.read_bytes()
    for length in (1, 20):
        path.write_bytes(whole + whole[:length])
        assert not records.chain(path)[1]
        kept = opened(workdir)
        assert path.read_bytes() == whole + whole[:length]  # until there is something to say
        kept.add("stage start", stage="oracle")
        assert names(workdir)[4:] == ["start", "stage start"]
        assert not records.chain(path)[1]
        path.write_bytes(whole)


def test_what_is_only_found_is_recorded_once_unless_its_end_is_missing(workdir):
    kept = opened(workdir)
    kept.note("original", False, sha256="y")
    assert kept.last("stage end", "original")["sha256"] == "x"
    kept.add("resume", stage="original", step=3)  # then killed between checkpoint and record
    opened(workdir).note("original", False, sha256="z")
    assert names(workdir)[4:] == ["start", "resume", "start", "stage end"]


def test_a_start_with_another_config_is_news(workdir):
    for config, news in (("a digest", []), ("", []), ("another", ["start", "end"])):
        with opened(workdir).watch(config):
            pass
        assert names(workdir)[4:] == news


def test_other_data_are_refused(workdir):
    opened(workdir).check_data({"forget_train": 1})
    with pytest.raises(InputError, match=r"other data \(forget_train differs\)"):
        opened(workdir).check_data({"forget_train": 2})


def test_the_digest_of_a_split_is_of_rows_images_and_labels():
    images = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4, 1)
    labels, rows = np.array([0, 1, 0, 1, 2], np.int32), np.array([4, 0, 2])
    found = digests.of_images(images, labels, rows)
    assert found == digests.of_images(images.copy(), labels.astype(np.int64), rows.astype(np.int32))
    other = images.copy()
    other[2, 3, 3] ^= 1
    others = [
        digests.of_images(other, labels, rows),
        digests.of_images(images, np.where(labels == 2, 1, labels), rows),
        digests.of_images(images, labels, rows[::-1]),
        digests.of_images(images.reshape(5, 2, 8, 1), labels, rows),
    ]
    assert len({found, *others}) == 5
    other[1] = 0  # no row of the split
    assert digests.of_images(other, labels, rows) == others[0]


def test_the_config_digest_leaves_out_what_changes_nothing():
    one = {"seed": 1, "stages": "all", "original": {"checkpoint": ""}, "data": {"data_dir": "a"}}
    same = {"data": {"data_dir": "b"}, "original": {"checkpoint": "c"}, "stages": "", "seed": 1}
    assert records.config_digest(one) == records.config_digest(same)
    assert records.config_digest(one) != records.config_digest(one | {"seed": 2})


def test_the_command_refuses_a_folder_without_records(tmp_path):
    says = [f"--verify = {str(tmp_path)!r}: holds no events.jsonl; give the workdir of a run"]
    refused(f"--verify={tmp_path}", module="ec_jax.audit", says=says)
    refused("--verify", module="ec_jax.audit", says=["--verify = None: "])


def test_the_command_says_what_differs_by_its_exit_status(workdir):
    done = command(f"--verify={workdir}", module="ec_jax.audit")
    assert done.returncode == 1
    assert done.stderr == ""
    assert "verified: events.jsonl, 4 lines\n" in done.stdout
    assert "DIFFERS: config.json: cannot be read (No such file or directory)" in done.stdout
    assert "DIFFERS: original, None: is not there" in done.stdout
    assert done.stdout.endswith("checks found a difference (2 could not be made)\n")
    assert json.loads((workdir / records.EVENTS).read_text().splitlines()[0])["event"] == "start"


def test_an_interruption_amid_a_line_leaves_the_chain_whole(workdir, monkeypatch):
    kept = opened(workdir)

    def interrupted(_):
        monkeypatch.undo()
        raise KeyboardInterrupt  # the line is written, and not yet noted

    def work():
        with kept.watch():
            kept.add("stage start", stage="oracle")
            monkeypatch.setattr(records.os, "fsync", interrupted)
            kept.add("resume", stage="oracle")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert names(workdir)[-3:] == ["stage start", "resume", "fault"]
    assert records.chain(workdir / records.EVENTS)[1] == ""


def test_a_full_disk_at_the_first_line_is_what_is_told(tmp_path):
    (tmp_path / records.EVENTS).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"), opened(tmp_path).watch():
        opened(tmp_path).add("stage start", stage="original")
    kept = opened(tmp_path)
    with pytest.raises(OSError, match="No space left"), kept.watch():
        kept.add("stage start", stage="original")


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a":' * 100_000])
def test_lines_that_nest_without_end_are_no_records(line, workdir):
    with (workdir / records.EVENTS).open("a") as file:
        file.write(line + "\n")
    assert "line 5 is no record" in records.chain(workdir / records.EVENTS)[1]
    with pytest.raises(InputError, match=r"line 5 of events\.jsonl is no record"):
        opened(workdir)
