"""The names of ImageNet's classes, which its files call by their WordNet ids."""

import functools
import re
from collections.abc import Sequence
from importlib import resources

_ID = re.compile("n[0-9]{8}")


@functools.cache
def _names() -> dict[str, str]:
    text = resources.files("ec_jax.data").joinpath("imagenet.txt").read_text(encoding="utf-8")
    return dict(line.split(" ", 1) for line in text.splitlines())


def name(entry: str) -> str:
    """The name of a WordNet id such as ``n01440764``; what is none of ImageNet's stays.

    >>> name("n01440764"), name("cat")
    ('tench', 'cat')
    """
    return _names().get(entry, entry) if _ID.fullmatch(entry) else entry


def titles(entries: Sequence[str]) -> tuple[str, ...]:
    """Names in place of ids; all stay ids where a name would stand for two of them."""
    found = tuple(map(name, entries))
    return found if len(set(found)) == len(found) else tuple(entries)
