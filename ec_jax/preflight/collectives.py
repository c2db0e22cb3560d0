"""What a program sends from chip to chip, read from its text."""

import dataclasses
import math
import re

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_CALL = re.compile(rf" = (?P<type>.+?) (?P<kind>{'|'.join(_KINDS)})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b(?P<type>pred|[a-z]+(?P<bits>\d+)\w*)\[(?P<shape>[\d,]*)\]")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]")  # [groups,size]<=[devices]
# Of one that is cut into pieces, between which a chip computes.
_CHAIN = re.compile(r'chain_id="(\d+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind in a program.

    Attributes:
      kind: as XLA calls it.
      group: chips that exchange.
      count: how many there are.
      bytes: of their whole arrays: what an all-reduce sums, an all-gather gives, a reduce-scatter
        reads.
    """

    kind: str
    group: int
    count: int
    bytes: int

    @property
    def sent(self) -> float:
        """Bytes that a chip sends, by the rings that send least.

        Of S bytes among n chips an all-reduce sends 2 (n−1)/n S, a permutation S, the others
        (n−1)/n S.

        Source: Thakur et al. 2005, "Optimization of Collective Communication Operations in MPICH".

        >>> Collective("all-reduce", 4, 1, 100).sent
        150.0
        """
        if self.kind == "collective-permute":
            return float(self.bytes)
        rounds = 2 if self.kind == "all-reduce" else 1
        return rounds * self.bytes * (self.group - 1) / self.group


def find(text: str, devices: int) -> list[Collective]:
    """The collectives of a program; those in the body of a loop count once.

    Args:
      text: HLO, of a compiled program or of one as it was traced: ``compiled.as_text()``,
        ``lowered.as_text(dialect="hlo")``.
      devices: on which it runs.

    Returns:
      One entry for each kind and size of group, the largest first.
    """
    sums: dict[tuple[str, int], tuple[int, int]] = {}
    chains = set()
    for line in text.splitlines():
        if not (call := _CALL.search(line)):
            continue
        kind, group = call["kind"], _group(line, devices)
        if chain := _CHAIN.search(line):
            if (kind, chain[1]) in chains:
                continue
            chains.add((kind, chain[1]))
        arrays = [_bytes(array) for array in _ARRAY.finditer(call["type"])]
        if call["start"] and kind == "all-gather":  # (what it reads, what it gives)
            arrays = arrays[len(arrays) // 2 :]
        elif call["start"] and kind == "collective-permute":  # and two words of its own
            arrays = arrays[1:2]
        size = sum(arrays) * (group if kind == "reduce-scatter" else 1)
        count, whole = sums.get((kind, group), (0, 0))
        sums[kind, group] = count + 1, whole + size
    found = [Collective(*key, *value) for key, value in sums.items()]
    return sorted(found, key=lambda c: (-c.bytes, c.kind, c.group))


def _group(line: str, devices: int) -> int:
    if listed := _LISTED.search(line):
        return len(listed[1].split(","))
    counted = _COUNTED.search(line)
    return int(counted[1]) if counted else devices


def _bytes(array: re.Match) -> int:
    """Of an array as XLA writes it, ``bf16[8,128]``; its layout and padding count nothing."""
    count = math.prod(int(n) for n in array["shape"].split(",") if n)
    bits = 8 if array["type"] == "pred" else int(array["bits"])
    return math.ceil(count * bits / 8)
