"""A profile of some steps of a training, for TensorBoard or Perfetto (``report.profile``)."""

from pathlib import Path
from typing import Any

import jax

from ec_jax import processes


class Profile:
    """What the devices and the host did in the first steps after the one that is compiled.

    Of several processes the first one alone records.
    """

    def __init__(self, folder: Path, steps: int):
        """Nothing is recorded yet.

        Args:
          folder: for the files.
          steps: that are recorded, at least; 0: none.
        """
        self._folder, self._left = folder, steps if processes.primary() else 0
        self._begun = False

    def advance(self, count: int, state: Any) -> None:
        """``count`` steps were sent to the devices, of which ``state`` is the result."""
        if not self._left:
            return
        jax.block_until_ready(state)  # what is compiled or still at work is no part of it
        if not self._begun:
            jax.profiler.start_trace(self._folder)
            self._begun = True
            return
        self._left = max(self._left - count, 0)
        if not self._left:
            self._end()

    def close(self) -> None:
        """Ends the record of a training that had fewer steps."""
        if self._left and self._begun:
            self._left = 0
            self._end()

    def _end(self) -> None:
        jax.profiler.stop_trace()
        print(f"profile: {self._folder}", flush=True)
