"""What a config says of its data: the set, what is to be forgotten, and what it is measured on.

Nothing here needs JAX, so that a mistake is answered at once.
"""

import os
from collections.abc import Sequence
from typing import Any

from ec_jax import rules
from ec_jax.data import groups, sources, splits
from ec_jax.errors import InputError


def check(config: Any) -> None:
    """Refuses what cannot work by what is known of the set before its files are looked at.

    Raises:
      InputError: names the first field that cannot work, its value and the remedy.
    """
    found = about(config)
    _check_sizes(config, len(found.class_names), found.train_size)
    _check_cut(config.data, found.image_shape)
    _check_patch(config.model, found.image_shape)
    _check_merges(config.model, found.image_shape)
    label_groups(config)
    requests(config)
    _check_samples(config, found.train_size)


def check_there(config: Any) -> None:
    """Refuses sets that are not there, or not whole, and other sets that do not fit the network.

    Raises:
      InputError: as for ``sources.check``.
    """
    sources.check(config.data.name, config.data.data_dir, config.data.manual_dir)
    sources.check_folder("evaluation.transfer_dir", config.evaluation.transfer_dir)
    shape = about(config).image_shape
    field, spec = "evaluation.transfer", config.evaluation.transfer
    sets = transfer_sets(config)
    for title in {title for title, _, _ in sets if [t for t, _, _ in sets].count(title) > 1}:
        remedy = f"two sets would be called {title}; rename a folder, or measure one at a time"
        raise InputError(field, spec, remedy)
    for _, name, where in sets:
        if shape[0] != shape[1] or shape[2] != 3:
            remedy = (
                f"the network takes images of {'x'.join(map(str, shape))}, not coloured squares"
            )
            raise InputError(field, spec, f"{remedy}; leave it empty")
        try:
            sources.about(name, where, shape[0])
            sources.check(name, where, config.data.manual_dir)
        except InputError as error:
            raise InputError(field, spec, f"{name}: {error.remedy}") from error


def about(config: Any) -> Any:
    """What is known of a config's set before it is read (``ec_jax.data.sources.About``)."""
    return sources.about(config.data.name, config.data.data_dir, config.data.image_size)


def requests(config: Any) -> tuple[tuple[int, ...], ...]:
    """The ids of the classes that each request forgets, ascending; most configs have one."""
    names, forget = about(config).class_names, config.forget
    return splits.parse_requests(forget.classes, names, forget.seed, earlier_classes(config))


def earlier_classes(config: Any) -> tuple[int, ...]:
    """The ids of the classes that were forgotten before, ascending."""
    return splits.parse_earlier(config.forget.earlier, about(config).class_names)


def forget_classes(config: Any) -> tuple[int, ...]:
    """The ids of the classes to forget, ascending.

    Raises:
      InputError: they are a sequence's, of which a run is one request.
    """
    found = requests(config)
    if len(found) > 1:
        remedy = "is a sequence, which only ec_jax.main runs; give one of its requests"
        raise InputError("forget.classes", config.forget.classes, remedy)
    return found[0]


def label_groups(config: Any) -> Any:
    """Groups of classes that are the labels, and their names; None: classes are."""
    return groups.parse(config.data.groups, config.data.name, about(config).class_names)


def labels(config: Any, classes: Sequence[int]) -> tuple[int, ...]:
    """The ids of the labels that classes have, ascending: their own, or those of their groups."""
    found = label_groups(config)
    if not found:
        return tuple(classes)
    return tuple(i for i, group in enumerate(found[0]) if set(group) & set(classes))


def transfer_sets(config: Any) -> list[tuple[str, str, str]]:
    """(what it is called, set, its data_dir) of every set that ``evaluation.transfer`` names."""
    found = []
    for entry in filter(None, map(str.strip, config.evaluation.transfer.split(","))):
        kind, colon, path = entry.partition(":")
        if colon:
            found.append((os.path.basename(os.path.abspath(path)), kind, path))
        else:  # a slash would cut a metric's key
            found.append((kind.replace("/", "-"), kind, config.evaluation.transfer_dir))
    return found


def _check_sizes(config: Any, classes: int, images: int | None) -> None:
    """A subset has images of every class and is one, and k-NN has enough neighbours."""
    subset, neighbors = config.data.subset, config.evaluation.neighbors
    if 0 < subset < classes:
        raise InputError(
            "data.subset", subset, f"leaves classes without an image; at least {classes}, or 0"
        )
    if images is None:
        return  # they are counted when the set is read
    if subset > images:
        raise InputError("data.subset", subset, f"the set has {images} training images; 0 for all")
    gallery = min(filter(None, (subset, images, config.evaluation.train_images)))
    if neighbors > gallery:
        remedy = f"there are {gallery} training images; at most that"
        raise InputError("evaluation.neighbors", neighbors, remedy)


def _check_cut(data: Any, shape: Sequence[int]) -> None:
    """Pictures are not smaller than what is cut out of them; channels have their moments."""
    if data.damaged == "skip" and not data.image_size:
        remedy = "is for pictures that are cut to data.image_size; give one, or use refuse"
        raise InputError("data.damaged", "skip", remedy)
    if data.image_size > data.resize:
        remedy = f"a cut of {data.image_size} pixels is taken from it; at least that"
        raise InputError("data.resize", data.resize, remedy)
    rules.moments(data.normalize, shape[2])


def _check_patch(model: Any, shape: Sequence[int]) -> None:
    """Patches cut an image without remainder."""
    side = min(shape[:2])
    if model.name != "resnet" and any(edge % model.patch for edge in shape[:2]):
        near = [p for p in range(1, side + 1) if not any(edge % p for edge in shape[:2])]
        remedy = f"images of {shape[0]}x{shape[1]} need one of {', '.join(map(str, near))}"
        raise InputError("model.patch", model.patch, remedy)


def _check_merges(model: Any, shape: Sequence[int]) -> None:
    """A ConvNeXt halves its map three times, and something is left of it."""
    side = min(shape[:2]) // model.patch
    if model.name == "convnext" and side < 8:
        remedy = f"leaves a map of {side}x{side}, of which three halvings leave nothing; at most "
        raise InputError("model.patch", model.patch, f"{remedy}{max(min(shape[:2]) // 8, 1)}")


def _check_samples(config: Any, images: int | None) -> None:
    spec, subset = config.forget.classes, config.data.subset
    kind, _, rest = spec.strip().partition(":")
    if kind != "samples":
        return
    if config.data.damaged == "skip" and not rest.isdecimal():
        remedy = "indices are those of all pictures; with a file of them use refuse, or samples:N"
        raise InputError("data.damaged", "skip", remedy)
    for part in ("subset", "validation"):
        if config.data[part] and not rest.isdecimal():
            remedy = "indices are those of the whole set; with a file of them use 0, or samples:N"
            raise InputError(f"data.{part}", config.data[part], remedy)
    if subset or images:
        splits.parse_samples(spec, subset or images, config.forget.seed)
