"""The two ways in which a run ends on purpose, and parts of what it says."""

import difflib
import errno
import os
from collections.abc import Iterable

_VALUE = 400  # characters of a value that a message repeats
_COMPARED = 100  # characters of a name by which the nearest is found


class InputError(ValueError):
    """The user's input cannot be used; the message names field, value and remedy.

    The command line prints it as one line and exits with status 2.
    """

    def __init__(self, field: str, value: object, remedy: str):
        super().__init__(
            f"{shortened(str(field), _VALUE)} = {shortened(repr(value), _VALUE)}: {remedy}"
        )
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


def nearest(name: object, names: Iterable[object]) -> str:
    """A question that offers the nearest name; empty where there is none."""
    near = difflib.get_close_matches(str(name)[:_COMPARED], list(map(str, names)), 1, 0.0)
    return f"did you mean {near[0]!r}?" if near else ""


def shortened(text: str, limit: int) -> str:
    """The text with an ellipsis for its middle, if it is longer than so many characters.

    >>> shortened("abcdefghij", 5)
    'ab…ij'
    """
    half = (limit - 1) // 2
    return text if len(text) <= limit else f"{text[:half]}…{text[-half:]}"


def printable(text: str) -> str:
    r"""The text with escapes for what a terminal would act on: control and format characters.

    Names in files may hold them, and what they make of a terminal is not what is written.

    >>> print(printable("a" + chr(27) + "[31m"))
    a\x1b[31m
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
