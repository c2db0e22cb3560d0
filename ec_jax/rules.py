"""What a field of the config may hold."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ec_jax import registry
from ec_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Number:
    """A range; ``low`` itself is allowed where ``closed``."""

    low: float
    high: float = math.inf
    closed: bool = True
    below: bool = False  # high itself is not allowed
    integer: bool = False

    def check(self, field: str, value: Any) -> None:
        """Refuses, by an InputError, what is no number of this range."""
        kinds = int if self.integer else (int, float)
        # To Python a bool is an int; to a reader it is not a number.
        if not isinstance(value, kinds) or isinstance(value, bool) or not self._holds(value):
            raise InputError(field, value, f"give {self}")

    def _holds(self, value: float) -> bool:
        above = value >= self.low if self.closed else value > self.low
        under = value < self.high if self.below or math.isinf(self.high) else value <= self.high
        return above and under  # NaN and infinity are neither

    def __str__(self) -> str:
        kind = "an integer" if self.integer else "a number"
        low = f"{kind} {'>=' if self.closed else '>'} {self.low}"
        return (
            low if math.isinf(self.high) else f"{low} and {'<' if self.below else '<='} {self.high}"
        )


def check_candidates(field: str, value: str, labels: Sequence[int], others: str) -> None:
    """Refuses candidates of a contrast that are the forget images alone and all have one label.

    Args:
      field: of the config.
      value: its candidates.
      labels: that forget images have; none where single images are forgotten.
      others: the values that work.

    Raises:
      InputError: no candidate could ever have another label than an anchor.
    """
    if value == "forget" and len(labels) == 1:
        remedy = "all that is forgotten has one label: no candidate has another, and the loss is "
        remedy += f"identically zero; use {others}, or forget classes of several labels"
        raise InputError(field, value, remedy)


def of_methods(config: Any) -> dict[str, Any]:
    """Rules for the groups of the methods with a name, and for that of the chosen one."""
    rules = {}
    for name in {*registry.names(), config.method}:
        for field, (default, allowed, _) in registry.settings(name).items():
            rules[f"{registry.group(name)}.{field}"] = _of_setting(allowed, default)
    return rules


def _of_setting(text: str, default: Any) -> Any:
    """The rule of a method's setting, as its file states it: ``> 0``, ``[0, 1)``, ``a | b``."""
    if isinstance(default, bool):
        return (True, False)
    if isinstance(default, str):
        return tuple(choice.strip() for choice in text.split("|"))
    integer = isinstance(default, int)
    if text.startswith(">"):
        return Number(float(text.lstrip(">= ")), closed=">=" in text, integer=integer)
    low, high = (float(edge) for edge in text[1:-1].split(","))
    return Number(low, high, text[0] == "[", text[-1] == ")", integer)
