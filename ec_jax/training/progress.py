"""What a training shows while it runs: a bar, or log lines where there is no terminal."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import tqdm

from ec_jax import processes


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
        # Imported by trainings alone: where PyTorch is installed, tensorboardX imports it.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        (folder / name).mkdir(parents=True, exist_ok=True)
        # Not SummaryWriter: it writes from a queue, and a killed run would lose what its newest
        # checkpoint will not let it write again.
        self._events = EventsWriter(str(folder / name / "events"), f".from{start}")
        began = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(step=start + 1, wall_time=time.time(), session_log=began))

    def advance(self, step: int) -> None:
        """Moves the bar to step ``step`` (steps done)."""
        self._bar.update(step - self._bar.n)

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows and records the metrics of step ``step`` (steps done)."""
        if not self._events:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for key, value in metrics.items():
            summary = scalar(key, value)
            self._events.write_event(Event(step=step, wall_time=time.time(), summary=summary))
        self._events.flush()
        text = f"loss {metrics['loss']:.4f}"
        if self._bar.disable:
            print(f"{self._name}: step {step}/{self._steps}, {text}", flush=True)
        else:
            self._bar.set_postfix_str(text, refresh=False)

    def close(self) -> None:
        """Ends the bar and the event file."""
        self._bar.close()
        if self._events:
            self._events.close()
