"""The config of a method: its own group, and what its recipe says of other fields."""

import re
from collections.abc import Collection
from typing import Any

from ec_jax import registry
from ec_jax.errors import InputError, nearest

# Of a method; ``ec_jax.tune`` names a folder by it.
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def add_methods(config: Any) -> None:
    """Gives a config the group of every method that has settings, with their defaults."""
    for name in registry.names():
        _add_group(config, name)


def _add_group(config: Any, name: str) -> None:
    if found := registry.settings(name):
        group = registry.group(name)
        if group not in config:
            config[group] = type(config)()
        for field, (default, _, _) in found.items():
            if field not in config[group]:
                config[group][field] = default


def complete(config: Any, kept: Collection[str] = ()) -> Any:
    """Fills in the method's recipe, then what the config file says of this method.

    The order, later ones first: the command line (``kept``), the config file's ``recipes``, the
    method's own ``RECIPE``, the config file.

    Args:
      config: as a file's ``get_config`` gives it; not changed.
      kept: dotted fields that stay as they are.

    Returns:
      The complete config, locked; its ``recipes`` are empty.

    Raises:
      InputError: there is no such method.
    """
    check_method(config.get("method"))
    out = config.copy_and_resolve_references().unlock()
    found = {**registry.recipe(config.method), **_of_file(out)}
    out.recipes = {}
    _add_group(out, config.method)
    for field, value in found.items():
        if field not in kept:
            _set(out, field, value)
    return out.lock()


def _of_file(config: Any) -> dict[str, Any]:
    """{dotted field: value} that the config file says of its method."""
    recipes = config.get("recipes", {})
    found = recipes.get(config.method, {}) if hasattr(recipes, "keys") else recipes
    if not hasattr(found, "keys"):
        raise InputError("recipes", found, "give {method: {field: value}}")
    return flatten(found)


def _set(config: Any, field: str, value: Any) -> None:
    try:
        config.update_from_flattened_dict({field: value})
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        remedy = f"a recipe cannot set it ({reason}); correct the config file"
        raise InputError(field, value, remedy) from error


def check_method(name: Any, field: str = "method") -> None:
    """Refuses a method that there is not.

    Args:
      name: its name, or a path.
      field: in which it was given.

    Raises:
      InputError: neither a name of ``registry.names()`` nor a path.
    """
    if isinstance(name, str) and (name in registry.names() or _PATH.fullmatch(name)):
        return
    near = f"{nearest(name, registry.names())} " if isinstance(name, str) else ""
    listed = ", ".join(registry.names())
    raise InputError(field, name, f"{near}one of {listed}, or a path module:object")


def flatten(config: Any) -> dict[str, Any]:
    """{dotted field: value}."""
    out: dict[str, Any] = {}

    def visit(group: Any, prefix: str) -> None:
        for key in group:
            value = group[key]
            if hasattr(value, "keys"):
                visit(value, f"{prefix}{key}.")
            else:
                out[prefix + key] = value

    visit(config, "")
    return out
