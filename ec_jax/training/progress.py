"""What a training shows while it runs: a bar, or log lines where there is no terminal."""

import sys
from collections.abc import Mapping
from pathlib import Path

import tqdm
from tensorboardX import SummaryWriter


class Progress:
    """Progress of one training, on the terminal and as TensorBoard scalars."""

    def __init__(self, name: str, start: int, steps: int, folder: Path):
        """``folder`` takes the event files; scalars from ``start`` on replace older ones."""
        self._name, self._steps = name, steps
        self._bar = tqdm.tqdm(
            desc=name, total=steps, initial=start, unit="step", disable=not sys.stderr.isatty()
        )
        self._writer = SummaryWriter(str(folder / name), purge_step=start)

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows and records the metrics of step ``step`` (steps done)."""
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)
        text = f"loss {metrics['loss']:.4f}"
        if self._bar.disable:
            print(f"{self._name}: step {step}/{self._steps}, {text}", flush=True)
        else:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Ends the bar and the event file."""
        self._bar.close()
        self._writer.close()
