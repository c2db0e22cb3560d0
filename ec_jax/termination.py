"""SIGTERM, by which schedulers say that they take a machine back: what is done is kept.

A training saves its step and then ends (``deferred``); everything else ends at once, as it does at
Ctrl-C. Either way the process ends with status 143, and the same command goes on from there.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from ec_jax.errors import InputError

STATUS = 128 + signal.SIGTERM  # 143, as shells report it
# Seconds after which a process ends as it is. Python acts on a signal between two of its own
# instructions only, and a program that is being compiled, or an array that is awaited, may take
# minutes.
GRACE_OF = "EC_JAX_GRACE"  # in the environment: how many, from who gives more or less
_GRACE = 25.0  # of the 30 that schedulers commonly give


class Terminated(BaseException):
    """SIGTERM came. No Exception, so that nothing takes it for a failure and goes on."""


class _Handler:
    asked = deferred = False

    def __call__(self, *_: object) -> None:
        # Schedulers and parents may each send one: a second must not disturb what the first began.
        again, self.asked = self.asked, True
        if not again and not self.deferred:
            raise Terminated


_handler = _Handler()


def install() -> None:
    """Has SIGTERM raise ``Terminated`` in this process, and end it after some seconds.

    Raises:
      InputError: the environment does not say how many.
    """
    if signal.getsignal(signal.SIGTERM) is _handler:
        return
    seconds = _grace()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # The number of the signal is written at once, whatever Python is waiting for.
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _handler)
    threading.Thread(target=_end_late, args=(reading, seconds), daemon=True).start()


def _grace() -> float:
    given = os.environ.get(GRACE_OF, str(_GRACE))
    try:
        found = float(given)
        if not 0 <= found <= threading.TIMEOUT_MAX:
            raise ValueError
    except ValueError as error:
        remedy = "give the seconds between SIGTERM and SIGKILL, a number >= 0"
        raise InputError(GRACE_OF, given, remedy) from error
    return found


def _end_late(reading: int, seconds: float) -> None:
    while signal.SIGTERM not in os.read(reading, 1):
        pass
    threading.Event().wait(seconds)
    os._exit(STATUS)


def asked() -> bool:
    """SIGTERM came; the caller of ``deferred`` ends soon."""
    return _handler.asked


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within, SIGTERM sets ``asked`` alone; it takes effect at the end."""
    _handler.deferred = True
    try:
        yield
    finally:
        _handler.deferred = False
    if _handler.asked:
        raise Terminated
