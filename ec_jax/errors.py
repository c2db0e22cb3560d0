"""The two ways in which a run ends on purpose."""

import difflib
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


def nearest(name: str, names: Sequence[str]) -> str:
    """A question that offers the nearest name."""
    return f"did you mean {difflib.get_close_matches(name, list(names), 1, 0.0)[0]!r}?"
