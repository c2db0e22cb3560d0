"""Are a run's files those that its records tell of? ``python -m ec_jax.audit --verify DIR``.

Every check is a line; what each of them proves and what not stands in docs/audit.md.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ec_jax import config as config_lib
from ec_jax import digests, records
from ec_jax.command import Parser
from ec_jax.errors import InputError, printable
from ec_jax.workdir import read_json

DIFFERS = 1
OK, BAD, OPEN = "verified", "DIFFERS", "not checked"
Check = tuple[str, str, str]  # OK, BAD or OPEN; of what; why, where it is not verified
_MODELS = ("original", "oracle", "proxy", "modules", "unlearn")


def main(arguments: Sequence[str]) -> None:
    """Prints the checks of a workdir and ends the process: 0 all verified, 1 something differs.

    Raises:
      InputError: there is no record.
    """
    parser = Parser(prog="python -m ec_jax.audit --verify", description=__doc__)
    parser.add_argument("--verify", metavar="DIR", required=True, help="the workdir of a run")
    given = parser.parse(arguments).verify
    workdir = Path(os.path.expanduser(given)).absolute()
    if not (workdir / records.EVENTS).is_file():
        remedy = f"holds no {records.EVENTS}; give the workdir of a run"
        raise InputError("--verify", given, remedy)
    found = []
    for check in checks(workdir):
        found.append(check[0])
        print(printable(": ".join(part for part in check if part)), flush=True)
    bad, left = found.count(BAD), found.count(OPEN)
    verdict = f"{bad} of {len(found)} checks found a difference" if bad else "verified"
    print(f"\nVerdict: {verdict}" + (f" ({left} could not be made)" if left else ""), flush=True)
    sys.exit(DIFFERS if bad else 0)


def checks(workdir: Path) -> Iterator[Check]:
    """Every check of a workdir, first to last.

    Args:
      workdir: with ``events.jsonl``.
    """
    lines, wrong = records.chain(workdir / records.EVENTS)
    yield BAD if wrong else OK, f"{records.EVENTS}, {len(lines)} lines", wrong
    if wrong:
        yield OPEN, "all that these lines tell of", "they cannot be relied on"
        return
    events = records.read(workdir)
    yield _config(workdir, events)
    for stage in _MODELS:
        if end := records.last(events, "stage end", stage):
            yield (_brought if end.get("brought") else _checkpoint)(workdir, stage, end)
    if end := records.last(events, "stage end", "evaluate"):
        yield _file(workdir, "metrics.json", end)
    if end := records.last(events, "stage end", "report"):
        yield _file(workdir, records.CERTIFICATE, end)
        yield _certificate(workdir, events)
    else:
        yield OPEN, records.CERTIFICATE, "the stage report has not made one"
    yield from _data(workdir, events)


def _result(what: str, wrong: str) -> Check:
    return BAD if wrong else OK, what, wrong


def _file(workdir: Path, name: str, end: Mapping[str, Any]) -> Check:
    path = workdir / name
    if not path.is_file():
        return BAD, name, "is not there"
    same = digests.of_file(path) == end.get("sha256")
    return _result(name, "" if same else "is not what the stage left")


def _checkpoint(workdir: Path, stage: str, end: Mapping[str, Any]) -> Check:
    name = str(end.get("path"))
    step = workdir / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        wrong = "lies outside the folder"
    elif not digests.sealed(step):
        wrong = f"has no {digests.SEAL}" if step.is_dir() else "is not there"
    elif digests.of_file(step / digests.SEAL) != end.get("sha256"):
        wrong = "is not the checkpoint that the stage left"
    else:
        wrong = digests.damage(step)
    return _result(f"{stage}, {name}", wrong)


def _brought(workdir: Path, stage: str, end: Mapping[str, Any]) -> Check:
    from ec_jax import checkpoint  # imports JAX, which the other checks do not need

    path = workdir / str(end.get("path"))
    what = f"{stage}, brought from {path}"
    try:
        shapes = checkpoint.stored_shapes(path, "checkpoint")
        found = checkpoint.identity(path, shapes, "checkpoint")
    except InputError as error:
        return OPEN, what, error.remedy
    same = found["parameters"] == end.get("parameters")
    return _result(what, "" if same else "is another model now")


def _config(workdir: Path, events: Sequence[Mapping[str, Any]]) -> Check:
    began = records.last(events, "start") or {}
    try:
        found = read_json(workdir / "config.json")
        same = records.config_digest(found) == began.get("config")
    except (OSError, ValueError, AttributeError) as error:
        return BAD, "config.json", f"cannot be read ({error})"
    return _result("config.json", "" if same else "is not the config of the last start")


def _certificate(workdir: Path, events: Sequence[Mapping[str, Any]]) -> Check:
    """Whether it says what the events say."""
    what = f"{records.CERTIFICATE} against {records.EVENTS}"
    try:
        found = read_json(workdir / records.CERTIFICATE)
        scenario = read_json(workdir / "metrics.json")["scenario"]
        until = events[: found["events"]["lines"]]
        same = records.certificate(until, scenario, found["verdict"]) == found
    except (OSError, ValueError, KeyError, TypeError) as error:
        return BAD, what, f"cannot be read ({type(error).__name__})"
    return _result(what, "" if same else "it does not say what they say")


def _data(workdir: Path, events: Sequence[Mapping[str, Any]]) -> Iterator[Check]:
    """Every split as it is read now against what was recorded."""
    told = [e["data"] for e in events if e.get("data")]
    if not told:
        return
    try:
        found = records.data(_scenario(workdir))
    except InputError as error:
        yield OPEN, "data", str(error)
        return
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        yield OPEN, "data", f"config.json is none of this version ({type(error).__name__}: {error})"
        return
    for split, wanted in told[-1].items():
        same = found.get(split) == wanted
        yield _result(f"data, {split}", "" if same else "is not what the run read")


def _scenario(workdir: Path) -> Any:
    """What the config of a run says of data and forget set, on whatever devices there are."""
    from ec_jax.scenario import Scenario

    found = read_json(workdir / "config.json")
    if found["data"]["name"] == "own":
        raise InputError("data", "own", "the arrays were given by a program, which has them")
    config = config_lib.defaults().unlock()
    for group in ("data", "forget"):
        config[group].update(found[group])
    config.seed = found["seed"]
    return Scenario(config.lock())
