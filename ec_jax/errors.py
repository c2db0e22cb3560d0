"""The two ways in which a run ends on purpose, and parts of what it says."""

import difflib
import errno
import os
from collections.abc import Sequence


class InputError(ValueError):
    """The user's input cannot be used; the message names field, value and remedy.

    The command line prints it as one line and exits with status 2.
    """

    def __init__(self, field: str, value: object, remedy: str):
        super().__init__(f"{field} = {value!r}: {remedy}")
        self.remedy = remedy


class TrainingError(RuntimeError):
    """Training cannot go on (NaN, collapsed features); the message names stage, step and reason.

    The command line prints it as one line and exits with status 3.
    """


# What to do when one of several processes is missed.
MISSED = (
    "another process ended or cannot be reached; end all of them and give the same commands again: "
    "they go on from the newest checkpoint"
)


_FULL = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def no_space(error: BaseException) -> str:
    """What an error says of a file system that takes no more; empty: it is another error.

    >>> no_space(ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device [28]"))
    'No space left on device'
    """
    return next((text for text in _FULL if text in str(error)), "")


def nearest(name: str, names: Sequence[str]) -> str:
    """A question that offers the nearest name."""
    return f"did you mean {difflib.get_close_matches(name, list(names), 1, 0.0)[0]!r}?"
