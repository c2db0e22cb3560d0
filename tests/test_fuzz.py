"""Overrides that nobody would write: each is taken or refused in one line, and nothing is written.

More of them, drawn anew: ``EXAMPLES=20000 python -m pytest -n 0 tests/test_fuzz.py``.
"""

import contextlib
import copy
import io
import json
import os
import sys

import pytest
from absl import flags
from command import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import metrics

from configs import digits
from ec_jax import command, config_file, main, pipeline, recipes
from ec_jax import config as config_lib
from ec_jax.data import network
from ec_jax.errors import InputError, printable
from ec_jax.report import comparison, comparison_files
from ec_jax.report import runs as runs_lib

FIELDS = sorted(f for f in config_lib.flatten(digits.get_config()) if "recipes" not in f)
CAMPAIGN = os.environ.get("EXAMPLES")
PROFILE = settings(
    derandomize=not CAMPAIGN,
    max_examples=int(CAMPAIGN or 250),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

EXTREMES = [
    *("0", "-1", "1e400", "-inf", "nan", "1e-320", "99999999999999999999", "2147483648", "-0"),
    *("0x10", "1_000", "٣", "²", "true", "True", "none", "[]", "{}", "()", ",", ";", ":", "|"),
    *(".", "..", "/", "../../x", "~", "~nobody", "*", "%s", "$HOME", "{0}", "\\", "'", '"', "`"),
    *("<", ">", "\x1b[31m", "\u202e", "\udcff", "\ufeff", "é", "漢字", "", " ", "\n", "\0"),
    *("random:3", "random:99", "samples:3", "file:", "file:/dev/null", "folder:..", "3,5", "3;5"),
    *("all", "stage1", "stage4,stage1", "1,1,1,1", "0.5;0.25", "mnist", "cifar10", "vit", "swin"),
]
WORDS = st.one_of(
    st.sampled_from([*EXTREMES, "9" * 5000, "x" * 20_000, "1," * 3000]),
    st.text(max_size=30),
    st.integers().map(str),
    st.floats().map(str),
    st.lists(st.sampled_from([*EXTREMES, "3", "stage1", "ec"]), max_size=4).map(",".join),
)
KNOWN = st.sampled_from(FIELDS)
NEARLY = st.builds(
    lambda field, at, new: field[: at % len(field)] + new + field[at % len(field) + 1 :],
    KNOWN,
    st.integers(0, 40),
    st.sampled_from(["", ".", "x", "[", '"', "=", " ", "é", "__class__"]),
)
OVERRIDES = st.lists(
    st.tuples(st.one_of(KNOWN, KNOWN, KNOWN, NEARLY, st.text(max_size=12)), WORDS), max_size=3
)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setattr(network, "reachable", lambda *_: False)


def _taken(arguments):
    """The line with which the command ends before it would start to work; empty: it would."""
    before, argv, said = flags.FLAGS, sys.argv, io.StringIO()
    flags.FLAGS, sys.argv = flags.FlagValues(), ["main", *arguments]
    try:
        with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
            config_file._define(main.FLAGS)
            config_file._parse(sys.argv, main.FLAGS, None)
            command.finish(_check)
    finally:
        flags.FLAGS, sys.argv = before, argv
    return said.getvalue()


def _check():
    config = recipes.complete(flags.FLAGS.config, config_file.overridden())
    config_lib.validate(config)
    pipeline.checked(config)


@settings(PROFILE)
@given(overrides=OVERRIDES)
def test_an_override_is_taken_or_refused_in_one_line(overrides):
    written = [f"--config.{field}={value}" for field, value in overrides]
    line = _taken([f"--config={ROOT / 'configs' / 'digits.py'}", "--workdir=x", *written])
    if not line:
        return
    assert line.startswith("error: ")
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert len(line) < 2100
    # Of several fields, or of one that another does not go with, any may be named.
    asked = {printable(" ".join(field.partition("=")[0].split())) for field, _ in overrides}
    assert any(name in line for name in asked | set(FIELDS)), line


JUNK = st.one_of(
    st.sampled_from([None, True, 0, -1, 1.5, 1e308, -1e308, 10**30, 10**400, float("nan")]),
    st.sampled_from([float("inf"), "", "<script>", "</script>", "a/b/c", "|", "$\\frac{$", []]),
    st.sampled_from([[1], {}, {"a": {}}, "transfer/a/b/c/d", "cka_to_original/forget_test/x"]),
    st.text(max_size=8),
)
PLACES = ("scenario", "models.unlearned", "models.original", "models", "cost", "cost.oracle", "")


@settings(PROFILE)
@given(
    st.lists(st.tuples(st.sampled_from(PLACES), st.integers(0, 200), JUNK), min_size=1, max_size=3)
)
def test_metrics_that_were_changed_are_compared_or_refused(tmp_path_factory, changes):
    found = metrics(0)
    for place, which, value in changes:
        inside = found
        for name in filter(None, place.split(".")):
            inside = inside[name] if isinstance(inside, dict) and name in inside else {}
        if isinstance(inside, dict):
            inside[[*inside, "x", "transfer/a|b/c/d"][which % (len(inside) + 2)]] = copy.deepcopy(
                value
            )
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_text(json.dumps(found))
    try:
        compared = comparison.compare([runs_lib.read(str(path))])
    except InputError:
        return
    for text in (comparison_files._metrics_csv, comparison_files._table_csv):
        text(compared)
    assert "\\frac" not in comparison_files._table_tex(compared)
