"""How a command ends."""

import pytest

from ec_jax import command, termination
from ec_jax.errors import InputError, TrainingError


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("a.b", 1, "give\n2"), 2, "error: a.b = 1: give 2\n"),
        (TrainingError("step 3: loss is nan"), 3, "error: step 3: loss is nan\n"),
    ],
)
def test_what_is_raised_on_purpose_ends_with_one_line(error, status, line, capsys):
    with pytest.raises(SystemExit) as end:
        command.finish(raising(error), interrupted="stopped")
    assert end.value.code == status
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted; it goes on\n"),
        (termination.Terminated(), 143, "error: terminated; it goes on\n"),
    ],
)
def test_what_is_ended_from_outside_ends_at_once(error, status, line, capsys):
    ended = []
    command.finish(raising(error), interrupted="interrupted; it goes on", leave=ended.append)
    assert ended == [status]
    assert capsys.readouterr() == ("", line)


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        command.finish(raising(ZeroDivisionError()))


def parser():
    made = command.Parser(prog="python -m x", description="It does x.\n\n  It does y.")
    made.add_argument("--out")
    made.add_argument("--count", type=int)
    made.add_argument("--twice", action="store_true")
    made.add_argument("run", nargs="*")
    return made


def test_arguments_in_any_order():
    for arguments in (["a", "--out=x", "b", "--twice"], ["--twice", "--out", "x", "a", "b"]):
        found = parser().parse(arguments)
        assert (found.run, found.out, found.twice) == (["a", "b"], "x", True), arguments


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--ou=x", "--ou = 'x': no such flag; did you mean '--out'?"),
        ("--tw", "--tw = None: no such flag; did you mean '--twice'?"),
        ("--out", "--out = None: expected one argument"),
        ("--count=x", "--count = 'x': invalid int value: 'x'"),
        ("--twice=x", "--twice = None: ignored explicit argument 'x'"),
    ],
)
def test_a_mistake_names_the_flag(argument, says):
    with pytest.raises(InputError) as error:
        parser().parse([argument])
    assert str(error.value) == says


def test_help_keeps_its_lines(capsys):
    with pytest.raises(SystemExit) as end:
        parser().parse(["--help"])
    assert end.value.code == 0
    assert "It does x.\n\n  It does y.\n" in capsys.readouterr().out
