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
      work: ends the process. Threads do not go over into the child; here there may be the one
        that waits for SIGTERM (``termination``), which the child starts anew.

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
    sent: list[int] = []

    def send(number: int, _: object) -> None:
        sent.append(number)
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, send)
    _, status = os.waitpid(child, 0)
    os.close(writing)
    code = os.waitstatus_to_exitcode(status)
    # Told to end, it may have missed the first process, which was told so too and was faster.
    return -sent[0] if sent and code == -signal.SIGABRT else code


def _end_with_parent(reading: int) -> None:
    os.read(reading, 1)  # nothing is ever written: it ends when the parent does
    os._exit(1)
