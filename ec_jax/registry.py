"""Which unlearning methods there are, and their settings and recipes, without importing them.

A method is a module with ``build(config, points)``. Its name is that of a file in
``ec_jax/methods``, or of an entry point in the group ``ec_jax.methods``; the path
``module:object`` names one that is neither. The module may say, as plain literals::

    SETTINGS = {"alpha": (0.5, ">= 0", "weight of the divergence")}   # the group config.NAME
    RECIPE = {"unlearn.optimizer.learning_rate": 0.01}                # defaults of other fields
    SEARCH = [{"unlearn.steps": 100}, {"unlearn.steps": 200}]         # what ``ec_jax.tune`` tries

They are read from the source: a mistake in a command is answered before JAX is imported.
"""

import ast
import functools
import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ec_jax.errors import InputError

GROUP = "ec_jax.methods"
_FOLDER = Path(__file__).parent / "methods"
_OWN = "ec"  # its settings are a group of configs/default.py
# Groups and fields of configs/default.py, in which no other method writes.
_CORE = "seed stages method data forget model original oracle modules proxy unlearn ec evaluation "
CORE = frozenset((_CORE + "parallel checkpoint report recipes").split())


@functools.cache
def names() -> tuple[str, ...]:
    """The methods that have a name, own and installed ones."""
    own = {p.stem for p in _FOLDER.glob("[!_]*.py")}
    return tuple(sorted(own | {e.name for e in entry_points(group=GROUP)}))


def builder(name: str) -> Callable:
    """The function that makes a method: ``build(config, points)``.

    Raises:
      InputError: there is none by that name or path.
    """
    module, _, attribute = _path(name).partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
        inspect.signature(found).bind("config", "points")
    except Exception as error:  # whatever a module does when it is imported
        reason = f"{type(error).__name__}: {error}"
        remedy = f"cannot be imported as build(config, points): {reason}; correct it"
        raise InputError("method", name, remedy) from error
    return found


def settings(name: str) -> dict[str, tuple[Any, str, str]]:
    """{field of the method's group: (default, what is allowed, what it is)}.

    Raises:
      InputError: the module cannot be read, or its group is one that is there already.
    """
    found = {} if name == _OWN else _literals(name).get("SETTINGS", {})
    if found:
        _check_group(name)
    return found


def recipe(name: str) -> dict[str, Any]:
    """{dotted field: the method's default}."""
    return _literals(name).get("RECIPE", {})


def search(name: str) -> list[dict[str, Any]]:
    """[{dotted field: value}]: what ``ec_jax.tune`` tries; empty: nothing of its own."""
    return _literals(name).get("SEARCH", [])


def group(name: str) -> str:
    """The config's group of a method: its name, or the module's where it is a path."""
    return name.partition(":")[0].rpartition(".")[2]


def _check_group(name: str) -> None:
    """Refuses settings in a group of the config's own, or of a method by another module."""
    own = group(name)
    module, _, _ = _path(name).partition(":")
    if own in CORE or (own in names() and _path(own).partition(":")[0] != module):
        remedy = f"its settings would go into the config's group {own!r}, which is not its own; "
        raise InputError("method", name, remedy + "give the module or the method another name")


def _path(name: str) -> str:
    """module:object of a method's name."""
    if os.path.isfile(_FOLDER / f"{name}.py"):
        return f"{GROUP}.{name}:build"
    found = [e.value for e in entry_points(group=GROUP, name=name)] or [name]
    return found[0] if ":" in found[0] else f"{found[0]}:build"


@functools.cache
def _literals(name: str) -> dict[str, Any]:
    """The module's SETTINGS, RECIPE and SEARCH."""
    file = _FOLDER / f"{name}.py"
    if not os.path.isfile(file):
        file = _outside(name)
    try:
        assigned = {
            target.id: node.value
            for node in ast.parse(file.read_text(encoding="utf-8")).body
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        wanted = assigned.keys() & {"SETTINGS", "RECIPE", "SEARCH"}
        found = {key: ast.literal_eval(assigned[key]) for key in wanted}
        return {k: [dict(v) for v in f] if k == "SEARCH" else dict(f) for k, f in found.items()}
    except (OSError, SyntaxError, ValueError, TypeError) as error:
        must = "SETTINGS and RECIPE must be dictionaries of literals, SEARCH a list of such"
        remedy = f"{file.name}: {must} ({error})"
        raise InputError("method", name, remedy) from error


def _outside(name: str) -> Path:
    module = _path(name).partition(":")[0]
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # it imports the packages around the module
        raise InputError("method", name, f"cannot be imported: {error}") from error
    if spec is None or not spec.origin:
        remedy = f"there is no module {module!r}; install it, or name its folder in PYTHONPATH"
        raise InputError("method", name, remedy)
    return Path(spec.origin)
