"""Which workdirs are taken, and what the resolved config in them is."""

import json
import os
from pathlib import Path

import pytest
from test_config import OTHER, changed, refusal, set_field

from configs import default
from ec_jax import config as config_lib
from ec_jax import registry
from ec_jax import workdir as workdir_lib
from ec_jax.errors import InputError


@pytest.fixture
def config():
    return default.get_config()


def stranger(folder, content="{}"):
    folder.mkdir()
    (folder / "config.json").write_text(content)
    return folder


def test_a_workdir_that_is_new_empty_or_the_same_configs_is_taken(config, tmp_path):
    workdir_lib.check_workdir(config, tmp_path / "a" / "new")
    assert not (tmp_path / "a").exists()
    workdir_lib.check_workdir(config, tmp_path)
    assert not list(tmp_path.iterdir())
    workdir_lib.write_resolved(config, tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    workdir_lib.check_workdir(config, tmp_path)


def test_config_json_is_the_config(config, tmp_path):
    workdir_lib.write_resolved(config, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
    found = json.loads((tmp_path / "config.json").read_text())
    assert found == config_lib.resolved(config)
    other = {f"{name}." for name in registry.names() if name != config.method} - {"ec."}
    whole = config_lib.flatten(config).items()
    assert config_lib.flatten(found) == {k: v for k, v in whole if not k.startswith(tuple(other))}


def test_a_run_killed_while_it_wrote_config_json_can_start_again(config, tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(os, "replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            workdir_lib.write_resolved(config, tmp_path)
    (part,) = tmp_path.iterdir()
    part.rename(tmp_path / "config.json.other_host-7.part")  # a kill on another machine
    workdir_lib.check_workdir(config, tmp_path)
    workdir_lib.write_resolved(config, tmp_path)
    assert (tmp_path / "config.json").is_file()


def test_processes_that_write_one_file_at_once_take_names_of_their_own(tmp_path, monkeypatch):
    parts = []
    for process in (1, 2):
        monkeypatch.setattr(os, "getpid", lambda p=process: p)
        workdir_lib.write_whole(
            tmp_path / "a.json", lambda part: part.touch() or parts.append(part)
        )
    assert len(set(parts)) == 2


def test_a_run_killed_while_it_tried_to_write_can_start_again(config, tmp_path):
    (tmp_path / f"{workdir_lib._PROBE}abc").mkdir()
    workdir_lib.check_workdir(config, tmp_path)
    (tmp_path / "mine").mkdir()
    assert "holds other files" in refusal(config, workdir_lib.check_workdir, tmp_path)


def test_a_folder_of_other_files_is_refused(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    message = refusal(config, workdir_lib.check_workdir, tmp_path)
    assert message == f"workdir = {str(tmp_path)!r}: holds other files; choose an empty folder"


@pytest.mark.parametrize("content", ["", "{", "[5]", "3", "null", '"text"', "\0", "[[]]"])
def test_a_config_json_that_is_none_is_refused(config, tmp_path, content):
    folder = stranger(tmp_path / "run", content)
    assert "cannot be read; choose another" in refusal(config, workdir_lib.check_workdir, folder)


def test_a_config_json_that_is_no_text_is_refused(config, tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refusal(config, workdir_lib.check_workdir, tmp_path)


def test_the_workdir_of_another_config_is_refused_by_the_fields_that_differ(config, tmp_path):
    workdir_lib.write_resolved(config, tmp_path)
    other = changed(ec__temperature=0.7, seed=3)
    message = refusal(other, workdir_lib.check_workdir, tmp_path)
    assert f"ec.temperature is {config.ec.temperature} there and 0.7 here" in message
    assert "seed is 0 there and 3 here" in message
    assert "choose another folder, or set the field back" in message
    assert "unlearn" not in message


def test_what_is_measured_may_change_until_it_is_measured(config, tmp_path):
    workdir_lib.write_resolved(config, tmp_path)
    other = changed(evaluation__metrics="accuracy,cka", evaluation__neighbors=3)
    workdir_lib.check_workdir(other, tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    message = refusal(other, workdir_lib.check_workdir, tmp_path)
    assert "evaluation.metrics is 'all' there and 'accuracy,cka' here" in message


def test_a_field_that_the_caller_knows_of_may_differ(config, tmp_path):
    workdir_lib.write_resolved(config, tmp_path)
    other = changed(original__checkpoint="/moved/request1/checkpoints/unlearn", seed=3)
    message = refusal(other, workdir_lib.check_workdir, tmp_path)
    assert "original.checkpoint is '' there and '/moved/" in message
    free = ("original.checkpoint",)
    with pytest.raises(InputError, match="another config: seed is 0 there and 3 here; "):
        workdir_lib.check_workdir(other, tmp_path, free=free)


def test_of_many_differences_the_first_three_are_named(config, tmp_path):
    workdir_lib.write_resolved(config, tmp_path)
    other = changed(ec__temperature=0.7, seed=3, unlearn__steps=9, forget__classes="4")
    message = refusal(other, workdir_lib.check_workdir, tmp_path)
    assert message.count(" there and ") == 3
    assert "(and 1 more)" in message


def test_a_workdir_of_another_version_is_said_to_be_one(config, tmp_path):
    message = refusal(config, workdir_lib.check_workdir, stranger(tmp_path / "run"))
    assert "made by another version, without data.augment; choose another folder" in message


@pytest.mark.parametrize("field", sorted(OTHER))
def test_only_fields_without_effect_on_the_result_may_change(field, config, tmp_path):
    workdir_lib.write_resolved(config, tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    free = {
        *("stages", "data.data_dir", "data.manual_dir", "checkpoint.every", "checkpoint.keep"),
        *(f for f in OTHER if f.startswith("parallel.")),
        *("report.log_every", "report.profile"),
    }
    other = set_field(field, OTHER[field])
    if field in free:
        workdir_lib.check_workdir(other, tmp_path)
    else:
        assert f"{field} is " in refusal(other, workdir_lib.check_workdir, tmp_path)


def unwritable():
    yield "under a file", lambda tmp: _file(tmp) / "run"
    yield "a file", lambda tmp: _file(tmp)
    yield "a name too long", lambda tmp: tmp / ("x" * 300)
    if Path("/proc").is_dir():
        yield "no real file system", lambda tmp: Path("/proc/run")
    if os.geteuid():  # to root every folder is open
        yield "a closed folder", lambda tmp: _closed(tmp) / "run"


def _file(folder):
    (folder / "file").write_text("")
    return folder / "file"


def _closed(folder):
    (folder / "closed").mkdir(mode=0o555)
    return folder / "closed"


@pytest.mark.parametrize(("kind", "make"), unwritable(), ids=lambda v: v if type(v) is str else "")
def test_a_workdir_that_cannot_be_written_is_refused(kind, make, config, tmp_path):
    workdir = make(tmp_path)
    message = refusal(config, workdir_lib.check_workdir, workdir)
    assert message.startswith(f"workdir = {str(workdir)!r}: cannot be written (")
    assert message.endswith("choose another folder")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"scenario": {}, "models": []}'])
def test_numbers_that_are_damaged_are_told_with_a_remedy(content, tmp_path):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(InputError, match=r"its metrics.json is damaged .*run evaluate again"):
        workdir_lib.read_metrics(tmp_path)
