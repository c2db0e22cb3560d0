"""Models that ``ec_jax.convert`` imported: what they were made from, and whether a config fits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ec_jax import rules
from ec_jax.checkpoint import find_model
from ec_jax.errors import InputError
from ec_jax.workdir import read_json

ORIGIN = "origin.json"  # beside an imported model: what it was made from


def origin(path: str | Path, field: str) -> dict[str, Any]:
    """What an imported model was made from, as ``ec_jax.convert`` left it; else nothing."""
    folder = find_model(path, field)
    for place in (folder, folder.parent):
        if (place / ORIGIN).is_file():
            try:
                found = {"model": {}, "layout": "", "normalize": "", **read_json(place / ORIGIN)}
                _check_made(found)
            except ValueError as error:
                remedy = f"its {ORIGIN} cannot be used ({error}); import the model anew"
                raise InputError(field, str(path), remedy) from error
            return found
    return {}


def _check_made(found: Mapping[str, Any]) -> None:
    """Raises a ValueError where an import left nothing of this kind."""
    if (
        not isinstance(found["model"], dict)
        or not {f"model.{name}" for name in found["model"]} <= rules.MODEL.keys()
    ):
        raise ValueError("model does not hold fields of a model")
    if not all(isinstance(found[name], str) for name in ("layout", "normalize")):
        raise ValueError("layout and normalize are no text")


def check_origin(
    path: str | Path, field: str, config: Any, image_shape: tuple[int, int, int]
) -> None:
    """Refuses an imported model that the config would run in another way than it was made for.

    Args:
      path: as for ``find_model``.
      field: by which the path is given.
      config: whose groups ``model`` and ``data`` are looked at.
      image_shape: height, width and channels.

    Raises:
      InputError: a field of the model is another, which no shape need show, or the images'
        normalisation is, or its own program treats images of this size in another way.
    """
    found = origin(path, field)
    for name, value in found.get("model", {}).items():
        if config.model[name] != value:
            remedy = f"{path} was imported with {value}; set that"
            raise InputError(f"model.{name}", config.model[name], remedy)
    if found.get("model", {}).get("name") == "swin" and found["layout"] != "torchvision":
        rules.check_timm_size("data.image_size", min(image_shape[:2]), config.model["patch"])
    channels = image_shape[2]
    inside, given = found.get("normalize"), config.data.normalize
    if inside and rules.moments(inside, channels) != rules.moments(given, channels):
        remedy = f"{path} normalised its images by '{inside}' inside; set that"
        raise InputError("data.normalize", given, remedy)


def doubt(numbers: Mapping[str, float], classes: int) -> None:
    """Tells of an original that knows nothing of the classes.

    Args:
      numbers: what was measured of it.
      classes: how many.
    """
    kept = numbers.get("accuracy/retain_test")
    if kept is not None and kept <= 1.5 * 100 / classes:
        print(
            f"evaluate: the original is right on {kept:.1f} % of the images to be kept, as "
            "chance would be: do the classes of data stand in the order of its outputs?",
            flush=True,
        )
