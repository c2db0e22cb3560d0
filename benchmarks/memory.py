"""Peak memory of streaming CKA: ``python -m benchmarks.memory ROWS [--hold]`` measures once."""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import data, timing
from ec_jax.evaluation import cka

BATCH_SIZE = 500


def streaming(smoke: bool) -> dict[str, Any]:
    """Growth of the peak for more and more rows, each in a process of its own."""
    sizes = (1_000, 30_000) if smoke else (5_000, 15_000, 50_000)
    growth = {str(rows): measured(rows) for rows in sizes}
    first, last = growth[str(sizes[0])], growth[str(sizes[-1])]
    return {
        "what": "peak memory of minibatch CKA, two models of 4 stages",
        "against": f"{sizes[-1]} rows against {sizes[0]}",
        "growth_mib": growth,
        "features_held_mib": measured(sizes[-1], hold=True),
        "growth_ratio": round(last / first, 3),
    }


def measured(rows: int, hold: bool = False) -> float:
    """MiB by which ``stream`` raises the peak of a fresh process."""
    return timing.child("benchmarks.memory", str(rows), *["--hold"] * hold)


def stream(rows: int, hold: bool) -> np.ndarray:
    """CKA of all stage pairs over minibatches that are made when needed; ``hold`` keeps them."""
    state = cka.init(len(data.WIDTHS), len(data.WIDTHS))
    held = []
    for seed in range(rows // BATCH_SIZE):
        xs, ys = data.stages(seed, BATCH_SIZE)
        # Awaited: JAX else lets some minibatches queue, as many as the machine is busy.
        state = jax.block_until_ready(cka.update(state, tuple(xs), tuple(ys)))
        held += [(xs, ys)] * hold
    return np.asarray(cka.result(state))


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    # Linux counts what a process was before it became this program into getrusage's maximum:
    # the memory of whoever started it. /proc does not.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main(rows: int, hold: bool) -> None:
    """The growth, in MiB, from before the first minibatch, compilation included."""
    before = peak_mib()
    assert np.isfinite(stream(rows, hold)).all()
    print(round(peak_mib() - before, 1))


if __name__ == "__main__":
    main(int(sys.argv[1]), "--hold" in sys.argv)
