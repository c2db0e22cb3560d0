"""Operations of a program, read from its HLO text: what they compute, their tiles, their padding.

The text is that of a compiled program (``compiled.as_text()``) or of a traced one
(``lowered.as_text(dialect="hlo")``).
"""

import dataclasses
import math
import re

_LINE = re.compile(
    r"^\s*(?P<root>ROOT )?%?(?P<name>[\w.-]+) = (?P<type>.+?) (?P<kind>[a-z][a-z\d-]*)"
    r"\((?P<operands>[^)]*)\)(?P<rest>.*)$"
)
_ARRAY = re.compile(
    r"(?P<type>[a-z]+\d*)\[(?P<shape>[\d,]*)\](?:\{(?P<order>[\d,]*):?(?P<tiles>.*)\})?$"
)
_TILE = re.compile(r"T\(([\d,]+)\)")
_FROM = re.compile(r'op_name="([^"]*)"')
PRODUCTS = ("convolution", "dot")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
      name: unique in a program.
      kind: as HLO calls it.
      operands: their names.
      rest: its attributes, as they stand.
      type: of its elements; empty where it gives several arrays, and so the others.
      shape: of what it gives.
      order: its dimensions, from the one whose neighbours lie side by side.
      tiles: how a TPU cuts it: ``T(8,128)(2,1)S(1)``; empty elsewhere.
    """

    name: str
    kind: str
    operands: tuple[str, ...]
    rest: str
    type: str = ""
    shape: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    tiles: str = ""

    @property
    def source(self) -> str:
        """The names of the functions and modules that it comes from."""
        found = _FROM.search(self.rest)
        return found[1] if found else ""

    @property
    def backward(self) -> bool:
        """It is part of a gradient."""
        return "transpose(" in self.source

    @property
    def size(self) -> int:
        """Its numbers."""
        return math.prod(self.shape)

    @property
    def used(self) -> float:
        """The share of its tiles that holds its numbers; the rest is padding.

        >>> tiles = "T(8,128)(2,1)S(1)"
        >>> Operation("a", "add", (), "", "bf16", (48, 2, 2, 16), (0, 3, 2, 1), tiles).used
        0.375
        """
        tile = _TILE.match(self.tiles)
        if not tile:
            return 1.0
        sides = [int(n) for n in tile[1].split(",")][::-1]
        lengths = [self.shape[i] for i in self.order] + [1] * len(sides)
        return math.prod(
            n / (-(-n // side) * side) for n, side in zip(lengths, sides, strict=False)
        )


def filled(text: str) -> float | None:
    """The share of the tiles that products write which holds numbers; None where there are none.

    Args:
      text: of a program compiled for a TPU.
    """
    found = [o for o in operations(text).values() if o.kind in PRODUCTS and o.tiles and o.size]
    tiles = sum(o.size / o.used for o in found)
    return sum(o.size for o in found) / tiles if tiles else None


def operations(text: str) -> dict[str, Operation]:
    """{name: operation} of all computations of a program, each once."""
    found = {}
    for line in text.splitlines():
        if not (match := _LINE.match(line)):
            continue
        operands = tuple(re.findall(r"[\w.-]+(?=,|$)", match["operands"]))
        array, more = _ARRAY.match(match["type"]), {}
        if array:
            more = {"type": array["type"], "shape": _numbers(array["shape"])}
            more |= {"order": _numbers(array["order"]), "tiles": array["tiles"] or ""}
        name = match["name"]
        assert name not in found, name
        found[name] = Operation(name, match["kind"], operands, match["rest"], **more)
    return found


def _numbers(listed: str | None) -> tuple[int, ...]:
    return tuple(int(n) for n in (listed or "").split(",") if n)
