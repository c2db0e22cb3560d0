"""The records of a run: ``events.jsonl``, a line an event, and the certificate made of it.

Every line carries the SHA-256 of the line before, so that a line that is changed, taken out or put
in later shows. What an event holds, and what the records prove and what not: docs/audit.md.

Nothing here needs JAX.
"""

import contextlib
import datetime
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ec_jax import digests
from ec_jax.config import flatten
from ec_jax.errors import InputError
from ec_jax.workdir import FREE, writes

EVENTS, CERTIFICATE = "events.jsonl", "certificate.json"
SCHEMA = 1
TOLD = ("forgotten", "data", "models", "metrics", "verdict")  # of a certificate: what it is about
# Of these fields a model's record tells which it is, wherever it lies.
_PLACES = ("original.checkpoint", "oracle.checkpoint")
_MODELS = {"original": "original", "oracle": "oracle", "unlearned": "unlearn"}  # model: stage


class Records:
    """The events of one workdir, read and appended to."""

    def __init__(self, workdir: Path, start: Callable[[], Mapping[str, Any]]):
        """Reads what is there; nothing is written.

        Args:
          workdir: of the run.
          start: gives what the event ``start`` says, which is written before the first other
            event: a start of a run that has nothing to do leaves no record.

        Raises:
          InputError: ``events.jsonl`` is damaged.
        """
        self._path, self._start = workdir / EVENTS, start
        self.events, self._last, self._torn = _read(self._path)
        self._begun = False

    @contextlib.contextmanager
    def watch(self, config: str = "") -> Iterator[None]:
        """Adds ``end`` or, with what was raised inside, ``fault``.

        Args:
          config: digest of the config: another one than that of the last start is news.
        """
        before = self.last("start")
        try:
            if before and config and before.get("config") != config:
                self.begin()
            yield
        except BaseException as error:
            if self._begun:
                with contextlib.suppress(OSError):  # the first error is the one to see
                    stage = (self.events or [{}])[-1].get("stage")
                    reason = f"{type(error).__name__}: {error}"
                    self.add("fault", stage=stage, reason=reason)
            raise
        if self._begun:
            self.add("end")

    def begin(self) -> None:
        """Adds ``start``, once."""
        if not self._begun and writes():
            facts = self._start()
            self._begun = True
            self.add("start", **facts)

    def add(self, event: str, **facts: Any) -> None:
        """Appends a line, and has it on the disk before it returns.

        Args:
          event: start, stage start, resume, stage end, fault or end.
          **facts: what JSON can say.
        """
        if not writes():
            return
        self.begin()
        if self._torn:  # what a killed start was writing
            with self._path.open("r+b") as file:
                file.truncate(file.seek(0, os.SEEK_END) - self._torn)
            self._torn = 0
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        found = {"time": now, "event": event, **facts, "previous": self._last}
        line = json.dumps(found).encode()
        try:
            with self._path.open("ab") as file:
                file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
            self.events.append(found)
            self._last = _digest(line)
        except BaseException:  # how much of it was written, the file says
            self.events, self._last, self._torn = _read(self._path)
            raise

    def last(self, event: str, stage: str | None = None) -> dict[str, Any] | None:
        """The newest event of a kind, of any stage or of one."""
        return last(self.events, event, stage)

    def note(self, stage: str, made: bool, **facts: Any) -> None:
        """Adds what a stage left; what is only found there is news where no record tells its end.

        Args:
          stage: that ended.
          made: in this start.
          **facts: as for ``add``.
        """
        told = [e["event"] for e in self.events if e.get("stage") == stage]
        if made or told[-1:] != ["stage end"]:
            self.add("stage end", stage=stage, made=made, **facts)

    def check_data(self, found: Mapping[str, Any]) -> None:
        """Refuses data (``data``) that are not those with which the run began.

        Raises:
          InputError: names the first split that differs.
        """
        before = next((e["data"] for e in self.events if e.get("data")), found)
        for split in before:
            if before[split] != found.get(split):
                remedy = f"began on other data ({split} differs); restore them, or choose a new one"
                raise InputError("workdir", str(self._path.parent), remedy)


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _read(path: Path) -> tuple[list[dict[str, Any]], str | None, int]:
    """(events, SHA-256 of the last whole line, bytes of a line after it that was cut off)."""
    content = path.read_bytes() if path.is_file() else b""
    *lines, torn = content.split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(_record(line))
        except ValueError as error:
            remedy = f"line {number} of {path.name} is no record; move that file away"
            raise InputError("workdir", str(path.parent), remedy) from error
    return found, _digest(lines[-1]) if lines else None, len(torn)


def _record(line: bytes) -> dict[str, Any]:
    """One event.

    Raises:
      ValueError: the line is none.
    """
    try:
        found = json.loads(line)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict) or not isinstance(found.get("event"), str):
        raise ValueError("no record")
    if not {"time", "previous"} <= found.keys() or not isinstance(found.get("data", {}), dict):
        raise ValueError("no record")
    return found


def read(workdir: Path) -> list[dict[str, Any]]:
    """The events of a workdir, first to last.

    Raises:
      InputError: a line is no record.
    """
    return _read(workdir / EVENTS)[0]


def last(
    events: Sequence[Mapping[str, Any]], event: str, stage: str | None = None
) -> dict[str, Any] | None:
    """The newest event of a kind, of any stage or of one."""
    for found in reversed(events):
        if found["event"] == event and stage in (None, found.get("stage")):
            return dict(found)
    return None


def chain(path: Path) -> tuple[list[str], str]:
    """Looks through ``events.jsonl``.

    Returns:
      SHA-256 of every line, and what is wrong with the chain; empty where nothing is. A last line
      that was cut off, as by a kill, is nothing wrong.
    """
    lines, found, before = path.read_bytes().split(b"\n")[:-1], [], None
    for number, line in enumerate(lines, 1):
        try:
            named = _record(line)["previous"]
        except ValueError:
            return found, f"line {number} is no record"
        if named != before:
            return found, f"line {number} does not follow from the line before it"
        before = _digest(line)
        found.append(before)
    return found, ""


def config_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of a resolved config, without the fields that do not change what is computed."""
    fields = flatten(config)
    return digests.of_json(
        {k: v for k, v in fields.items() if not k.startswith(FREE) and k not in _PLACES}
    )


def start(config: Mapping[str, Any], command: str, environment: Mapping[str, Any]) -> dict:
    """What the event ``start`` says, but for the data.

    Args:
      config: resolved.
      command: by which the run was started.
      environment: of ``ec_jax.evaluation.details.environment``.
    """
    package = Path(__file__).parent
    code = {p.relative_to(package).as_posix(): digests.of_file(p) for p in package.rglob("*.py")}
    return {
        "schema": SCHEMA,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": command,
        "config": config_digest(config),
        "seed": config.get("seed"),
        "environment": environment,
        "code": digests.of_json(code),
    }


def data(scenario: Any) -> dict[str, dict[str, Any]]:
    """{split: ``images``, how many, and ``sha256``} of the data of a run.

    Args:
      scenario: an ``ec_jax.scenario.Scenario``.
    """
    found = {}
    for split, rows in scenario.splits.items():
        part = "train" if split.endswith("_train") else "test"
        images, labels = (getattr(scenario.data, f"{part}_{what}") for what in ("images", "labels"))
        found[split] = {"images": len(rows), "sha256": digests.of_images(images, labels, rows)}
    return found


def certificate(
    events: Sequence[Mapping[str, Any]],
    scenario: Mapping[str, Any],
    verdict: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What was forgotten, from which data, by which model, and how that was judged.

    Args:
      events: all until then.
      scenario: that of ``metrics.json``.
      verdict: ``name`` and ``reasons``; None where there is none.

    Returns:
      The contents of ``certificate.json``. Of what the events do not know it says None.
    """
    began = last(events, "start") or {}
    with_data = [e["data"] for e in events if e.get("data")]
    models = {}
    for model, stage in _MODELS.items():
        if found := last(events, "stage end", stage):
            models[model] = {k: v for k, v in found.items() if k not in ("event", "previous")}
    measured = last(events, "stage end", "evaluate") or {}
    return {
        "schema": SCHEMA,
        "forgotten": scenario,
        "data": with_data[-1] if with_data else None,
        "models": models,
        "metrics": {"path": "metrics.json", "sha256": measured.get("sha256")},
        "verdict": verdict,
        **{name: began.get(name) for name in ("config", "environment", "code")},
        "events": {"path": EVENTS, "lines": len(events), "sha256": _head(events)},
    }


def _head(events: Sequence[Mapping[str, Any]]) -> str | None:
    return _digest(json.dumps(events[-1]).encode()) if events else None
