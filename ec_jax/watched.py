"""Work in a child of this process, which tells what the child cannot tell itself.

JAX ends a process by SIGABRT when it misses the first process of a run, amid whatever Python does:
no ``except`` sees it.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import NoReturn


def run(work: Callable[[], NoReturn]) -> int:
    """Forks, does the work in the child and waits for it; signals to end are passed on.

    Args:
      work: ends the process. It must not have begun when threads were started.

    Returns:
      The child's exit status; of one that was killed, minus the signal. In the parent alone.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(writing)
        os.setpgid(0, 0)  # Ctrl-C comes to the parent alone, which passes it on
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Thread(target=_end_with_parent, args=(reading,), daemon=True).start()
        work()
    os.close(reading)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: _send(child, number))
    _, status = os.waitpid(child, 0)
    os.close(writing)
    return os.waitstatus_to_exitcode(status)


def _send(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
        os.kill(child, number)


def _end_with_parent(reading: int) -> None:
    os.read(reading, 1)  # nothing is ever written: it ends when the parent does
    os._exit(1)
