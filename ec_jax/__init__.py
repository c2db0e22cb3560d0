"""Machine unlearning that erases a class from the whole network, in JAX and Flax."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "unlearn":  # read when it is used: a mistake on a command line needs no JAX
        from ec_jax.own import unlearn

        return unlearn
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
