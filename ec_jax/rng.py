"""Named random streams: a pure function of the seed, names and steps.

Nothing carries a generator's state from step to step, so a run that was killed
draws, after it is resumed, exactly what it would have drawn.
"""

import zlib

import jax
import numpy as np


def _number(part: str | int) -> int:
    # crc32 and not hash(): the latter differs from process to process.
    return zlib.crc32(part.encode()) if isinstance(part, str) else part


def key(seed: int, *parts: str | int) -> jax.Array:
    """A JAX key for the stream named by ``parts`` (names and non-negative integers).

    >>> bool((key(0, "augment", 3) == key(0, "augment", 3)).all())
    True
    """
    return fold(jax.random.key(seed), *parts)


def fold(base: jax.Array, *parts: str | int) -> jax.Array:
    """The sub-stream of ``base`` named by ``parts``."""
    for part in parts:
        base = jax.random.fold_in(base, _number(part))
    return base


def generator(seed: int, *parts: str | int) -> np.random.Generator:
    """A NumPy generator for the stream named by ``parts``.

    >>> int(generator(0, "order", 1).integers(100)) == int(generator(0, "order", 1).integers(100))
    True
    """
    return np.random.default_rng([seed, *map(_number, parts)])
