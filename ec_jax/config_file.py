"""The flags of a command that reads a config file, and one line for every mistake in them.

A command declares its own flags by name; ``--config=FILE`` and the fields of the config,
``--config.FIELD=VALUE``, come with them.
"""

import contextlib
import inspect
import io
import os
import re
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from ec_jax import command, recipes
from ec_jax import config as config_lib
from ec_jax.errors import InputError, nearest

# Config files import one another as `configs.NAME`, from whatever folder they are started.
sys.path.append(str(Path(__file__).resolve().parent.parent))

_HELP = {"help", "helpshort", "helpfull", "helpxml", "?"}
_PARSERS = {
    int: (flags.IntegerParser(), "an integer"),
    float: (flags.FloatParser(), "a number"),
    bool: (flags.BooleanParser(), "true or false"),
}


def run(
    work: Callable[[Any, Any], None],
    own: Mapping[str, tuple[str, str]],
    interrupted: str,
    *,
    complete: bool = True,
    lists: dict[str, list[Any]] | None = None,
) -> None:
    """Parses the command line, does the work, and ends the process as ``command.finish`` does.

    Args:
      work: called with the locked config and with absl's values of the command's own flags.
      own: {flag: (what it is, an example of a value)}.
      interrupted: the line for Ctrl-C.
      complete: the config has its method's recipe; else that is left to the work (``overridden``).
      lists: of a command that takes several values of a field, ``--config.FIELD=A,B``: they are put
        in here, {field: values}, and the config keeps its own.
    """
    command.take_huge_pages()  # before the config's file is run, which is so run once
    # TFDS and XLA speak on stderr, where a user looks for errors.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    def main(argv: Sequence[str]) -> None:
        command.finish(lambda: _work(argv, work, complete), interrupted=interrupted)

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            return _parse(argv, own, lists)
        except KeyboardInterrupt:  # a config file may take its time
            command.end(130, interrupted)

    _define(own)
    app.run(main, flags_parser=parse)


def overridden() -> list[str]:
    """The fields of the config that the command line sets."""
    found = config_flags.get_override_values(flags.FLAGS["config"])
    return [re.sub(r'\["(\w+)"\]', r".\1", field) for field in found]  # see _parse on lambda


def _work(argv: Sequence[str], work: Callable[[Any, Any], None], complete: bool) -> None:
    if len(argv) > 1:
        raise InputError("argument", argv[1], "not understood; flags are written --name=value")
    config = flags.FLAGS.config
    work(recipes.complete(config, overridden()) if complete else config, flags.FLAGS)


def _define(own: Mapping[str, tuple[str, str]]) -> None:
    """The command's own flags; ml_collections adds the config's fields when it has read it."""
    said = io.StringIO()
    try:  # ml_collections reads --flagfile already here, and of one that names itself absl says so
        with contextlib.redirect_stderr(said):
            config_flags.DEFINE_config_file(
                "config",
                None,
                "A file with get_config(), e.g. configs/digits.py.",
                flags.FLAGS,
                lock_config=True,
            )
    except (flags.Error, ValueError) as error:
        command.end(2, f"--flagfile: {error}")
    if said.getvalue():
        command.end(2, f"--flagfile: {said.getvalue()}")
    for name, (meaning, _) in own.items():
        flags.DEFINE_string(name, None, meaning, flags.FLAGS)


def _parse(
    argv: Sequence[str],
    own: Mapping[str, tuple[str, str]],
    lists: dict[str, list[Any]] | None,
) -> list[str]:
    """absl's parser, answering mistakes with one line and exit status 2."""
    try:
        argv = flags.FLAGS.read_flags_from_files(list(argv))
        given = _given(argv)
        if not _HELP & dict(given).keys():
            _check(given, own, lists)
            argv = _without(argv, lists or {})
        # ml_collections reads a field's name as Python, to which lambda is no name.
        sys.argv = [re.sub(r"^(--?config\.ec)\.lambda\b", r'\1["lambda"]', a) for a in argv]
        return flags.FLAGS(sys.argv)
    except SystemExit:  # of --help
        sys.exit(0)
    except flags.UnrecognizedFlagError as error:
        name = error.flagname
        command.end(2, str(_unknown(name, dict(given).get(name), own)))
    except Exception as error:  # what else absl and ml_collections find wrong
        command.end(2, str(error))


def _given(arguments: Sequence[str]) -> list[tuple[str, str | None]]:
    """(flag, value) of each as written, in either form: ``--name=value`` and ``--name value``."""
    found = []
    for argument, following in zip(arguments, [*arguments[1:], None], strict=True):
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-"):
            continue
        if name == "config" and name in dict(found):  # ml_collections would define its fields twice
            raise InputError("--config", value or following, "given twice; give one file")
        found.append((name, value if equals else following))
    return found


def _without(argv: Sequence[str], lists: Mapping[str, Any]) -> list[str]:
    """The arguments but those that give a field several values, in either form."""
    kept: list[str] = []
    rest = iter(argv)
    for argument in rest:
        name, equals, _ = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or name.removeprefix("config.") not in lists:
            kept.append(argument)
        elif not equals:
            next(rest)
    return kept


def _check(
    given: Sequence[tuple[str, str | None]],
    own: Mapping[str, tuple[str, str]],
    lists: dict[str, list[Any]] | None,
) -> None:
    """Refuses what absl and ml_collections answer with a traceback or without a remedy."""
    path = dict(given).get("config")
    if not path:
        for name, value in given:
            if name.removeprefix("no") not in flags.FLAGS and not name.startswith("config."):
                raise _unknown(name, value, own)
        raise InputError("--config", path, "give a file, e.g. configs/digits.py")
    config = load(path)
    defaults = config_lib.flatten(config)
    listed = config_lib.without_commas(config) if lists is not None else ()
    names = [name.removeprefix("no") for name, _ in given]
    for name, (_, value) in zip(names, given, strict=True):
        if name in own and value is None:
            raise missing(name, value, own)
        if not name.startswith("config."):
            continue
        if names.index(name) < names.index("config"):
            raise InputError(f"--{name}", value, "give it after --config=FILE, which it changes")
        field = name.removeprefix("config.")
        several = field in listed and "," in (value or "")
        if several and names.count(name) > 1:
            raise InputError(field, value, "given twice; give all its values at once, with commas")
        values = value.split(",") if several else [value]
        for one in values:
            _check_override(field, one, defaults)
        if several:
            lists[field] = _typed(field, values, defaults[field])


def _typed(field: str, values: list[str], default: Any) -> list[Any]:
    """The values of a list, each once, in the type of the field."""
    parser, _ = _PARSERS.get(type(default), (flags.ArgumentParser(), ""))
    found = [parser.parse(value) for value in values]
    if len(set(found)) < len(found):
        raise InputError(field, ",".join(values), "holds a value twice; give each one once")
    return found


def _unknown(name: str, value: str | None, own: Mapping[str, tuple[str, str]]) -> InputError:
    """The error of a flag that there is not; one with a dot is meant for the config."""
    near = f"write --config.{name}:" if "." in name else nearest(name, ("config", *own))
    remedy = f"no such flag; {near} fields of the config are --config.FIELD=VALUE"
    return InputError(f"--{name}", value, remedy)


def missing(name: str, value: str | None, own: Mapping[str, tuple[str, str]]) -> InputError:
    """The error of a flag of the command's own that has no value."""
    what = "a file" if own[name][1].endswith(".py") else "a folder"
    return InputError(f"--{name}", value, f"give {what}, e.g. --{name}={own[name][1]}")


def _check_override(field: str, value: str | None, defaults: dict[str, Any]) -> None:
    if field not in defaults:
        inside = [f for f in defaults if f.startswith(f"{field}.")]
        near = f"set one of {', '.join(inside)}" if inside else nearest(field, defaults)
        raise InputError(field, value, f"no such field; {near}")
    switch = isinstance(defaults[field], bool)
    # --config.FIELD alone, before another flag: true
    if switch and (value is None or re.match("--?[a-z]", value)):
        return
    parser, kind = _PARSERS.get(type(defaults[field]), (flags.ArgumentParser(), "a value"))
    try:
        parser.parse(value)
    except (TypeError, ValueError):
        raise InputError(field, value, f"give {kind}, as in --config.{field}=VALUE") from None


def load(spec: str) -> ConfigDict:
    """The config that ``--config=FILE`` or ``--config=FILE:SCENARIO`` names.

    Raises:
      InputError: no such file, or no config in it; ml_collections would answer with a traceback.
    """
    path, colon, scenario = spec.partition(":")
    if not os.path.isfile(path):
        known = [*Path(path).parent.glob("*.py"), *Path("configs").glob("*.py")]
        hint = nearest(path, map(str, known)) if known else "give a file, e.g. configs/digits.py"
        raise InputError("--config", spec, f"no such file; {hint}")
    try:
        get_config = runpy.run_path(path).get("get_config")
        if colon and get_config and not inspect.signature(get_config).parameters:
            raise InputError("--config", spec, "this file has no scenarios; leave the colon out")
        config = get_config and get_config(*([scenario] if colon else []))
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        wrong = "what follows the colon" if colon else "the file"
        raise InputError(
            "--config", spec, f"{type(error).__name__}: {error}; correct {wrong}"
        ) from error
    if not isinstance(config, ConfigDict):
        remedy = "has no get_config() that returns a ConfigDict; write one as in configs/default.py"
        raise InputError("--config", spec, remedy)
    return config
