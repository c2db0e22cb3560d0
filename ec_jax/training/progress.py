"""What a training shows while it runs: a bar, or log lines where there is no terminal."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import tqdm

from ec_jax import processes


def _tensorboardx() -> ModuleType:
    """The package, without PyTorch, which it imports where it is installed: seconds."""
    hide = not {"torch", "tensorboardX"} & sys.modules.keys()
    try:
        if hide:
            sys.modules["torch"] = None  # to Python: it cannot be imported
        import tensorboardX  # by trainings alone
    finally:
        if hide:
            sys.modules.pop("torch", None)
    return tensorboardX


class Progress:
    """Progress of one training, on the terminal and as TensorBoard scalars.

    Of several processes the first one alone shows and records it.
    """

    def __init__(self, name: str, start: int, steps: int, folder: Path):
        """``folder`` takes the event files; scalars after ``start`` replace older ones."""
        self._name, self._steps, self._events = name, steps, None
        seen = sys.stderr.isatty() and processes.primary()
        self._bar = tqdm.tqdm(desc=name, total=steps, initial=start, unit="step", disable=not seen)
        if not processes.primary():
            return
        board = self._board = _tensorboardx()
        (folder / name).mkdir(parents=True, exist_ok=True)
        # Not SummaryWriter: it writes from a queue, and a killed run would lose what its newest
        # checkpoint will not let it write again.
        prefix = str(folder / name / "events")
        self._events = board.event_file_writer.EventsWriter(prefix, f".from{start}")
        log = board.proto.event_pb2.SessionLog
        self._write(start + 1, session_log=log(status=log.START))

    def advance(self, step: int) -> None:
        """Moves the bar to step ``step`` (steps done)."""
        self._bar.update(step - self._bar.n)

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows and records the metrics of step ``step`` (steps done)."""
        if not self._events:
            return
        for key, value in metrics.items():
            self._write(step, summary=self._board.summary.scalar(key, value))
        self._events.flush()
        text = f"loss {metrics['loss']:.4f}"
        if self._bar.disable:
            print(f"{self._name}: step {step}/{self._steps}, {text}", flush=True)
        else:
            self._bar.set_postfix_str(text, refresh=False)

    def _write(self, step: int, **what: Any) -> None:
        event = self._board.proto.event_pb2.Event(step=step, wall_time=time.time(), **what)
        self._events.write_event(event)

    def close(self) -> None:
        """Ends the bar and the event file."""
        self._bar.close()
        if self._events:
            self._events.close()
