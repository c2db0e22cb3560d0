"""What is known of TPUs: their sizes and speeds, the slices there are, and the roofline.

Nothing here needs JAX, so that a mistake is answered at once.
"""

import dataclasses
import math
from typing import Any

from ec_jax.errors import InputError, nearest

GIB = 2**30
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip, as its vendor describes it, and as libtpu's compiler does.

    Attributes:
      hbm: GiB that a program may use: what the compiler of libtpu 0.0.42 says is available where
        a program does not fit. The vendor's capacities are 32, 16, 95 and 32 GB.
      flops: bfloat16 operations a second at most.
      hbm_bandwidth: bytes a second.
      interconnect: bytes a second that the links of a chip send together; half of what the vendor
        calls bidirectional.
      slices: the topologies there are.
      options: of the compiler, to take both cores of a chip for one device.

    Sources: cloud.google.com/tpu/docs, pages v4, v5e, v5p and v6e. The interconnect of v4 is the
    all-reduce bandwidth of a pod, 1.1 PB/s, over its 4,096 chips.
    """

    hbm: float
    flops: float
    hbm_bandwidth: float
    interconnect: float
    slices: tuple[str, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


CHIPS = {
    "v4": Chip(30.75, 275e12, 1200e9, 1.1e15 / 4096, _DEEP, {"chip_config_name": "megacore"}),
    "v5e": Chip(15.75, 197e12, 819e9, 200e9, _FLAT),
    "v5p": Chip(95.74, 459e12, 2765e9, 600e9, _DEEP),
    "v6e": Chip(31.25, 918e12, 1600e9, 400e9, _FLAT),
}
KNOWN = tuple(f"{kind}:{shape}" for kind, chip in CHIPS.items() for shape in chip.slices)
BATCHES = ("batch_size", "retain_batch_size", "forget_batch_size", "eval_batch_size")
BOUNDS = ("compute", "hbm", "interconnect")


def chips(topology: str) -> int:
    """How many chips a topology has: ``chips("v5e:4x4")`` is 16.

    Raises:
      InputError: there is no such topology.
    """
    if topology not in KNOWN:
        remedy = f"no such topology; {nearest(topology, KNOWN)} there are {', '.join(KNOWN)}"
        raise InputError("--topology", topology, remedy)
    return math.prod(map(int, topology.partition(":")[2].split("x")))


def chip(topology: str) -> Chip:
    """The kind of chip of a known topology."""
    return CHIPS[topology.partition(":")[0]]


def larger(topology: str) -> str | None:
    """The next slice of the same chips; None after the largest."""
    kind, _, shape = topology.partition(":")
    slices = CHIPS[kind].slices
    after = slices.index(shape) + 1
    return f"{kind}:{slices[after]}" if after < len(slices) else None


def roofline(kind: Chip, flops: float, moved: float, sent: float) -> dict[str, Any]:
    """The shortest time of a step, and what keeps it from being shorter.

    Each of the three is busy all the time and at its peak, and they do not wait for one another:
    no step is faster, real ones are slower. All operations count at the rate of bfloat16, and a
    product in float32 as one pass of the matrix unit; at the highest precision it takes six.
    Latency counts nothing, so small messages look too cheap.

    Args:
      kind: the chip.
      flops: operations of a step on one chip.
      moved: bytes that a step reads and writes in a chip's memory.
      sent: bytes that a chip sends to others in a step.

    Returns:
      Seconds of ``compute``, ``hbm`` and ``interconnect``, and which ``binds``.
    """
    peaks = (kind.flops, kind.hbm_bandwidth, kind.interconnect)
    found = {n: w / p for n, w, p in zip(BOUNDS, (flops, moved, sent), peaks, strict=True)}
    return {**found, "binds": max(found, key=found.get)}
