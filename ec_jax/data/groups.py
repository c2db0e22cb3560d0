"""Groups of classes as labels: a sub-class can then be forgotten under its coarse label."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ec_jax.data.sources import Dataset
from ec_jax.errors import InputError

FIELD = "data.groups"
# CIFAR-100's superclasses, as its authors list them: name, then its five classes.
_CIFAR100 = """
aquatic_mammals: beaver dolphin otter seal whale
fish: aquarium_fish flatfish ray shark trout
flowers: orchid poppy rose sunflower tulip
food_containers: bottle bowl can cup plate
fruit_and_vegetables: apple mushroom orange pear sweet_pepper
household_electrical_devices: clock keyboard lamp telephone television
household_furniture: bed chair couch table wardrobe
insects: bee beetle butterfly caterpillar cockroach
large_carnivores: bear leopard lion tiger wolf
large_man-made_outdoor_things: bridge castle house road skyscraper
large_natural_outdoor_scenes: cloud forest mountain plain sea
large_omnivores_and_herbivores: camel cattle chimpanzee elephant kangaroo
medium_mammals: fox porcupine possum raccoon skunk
non-insect_invertebrates: crab lobster snail spider worm
people: baby boy girl man woman
reptiles: crocodile dinosaur lizard snake turtle
small_mammals: hamster mouse rabbit shrew squirrel
trees: maple_tree oak_tree palm_tree pine_tree willow_tree
vehicles_1: bicycle bus motorcycle pickup_truck train
vehicles_2: lawn_mower rocket streetcar tank tractor
"""
_COARSE = {"cifar100": _CIFAR100}


def parse(
    spec: str, name: str, class_names: Sequence[str]
) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]] | None:
    """The groups of a spec, and their names.

    Args:
      spec: empty, for none; ``coarse``, the set's own superclasses; or groups of ids or names
        such as ``0,2,4|1,3,5``, which name every class once.
      name: of the set.
      class_names: of all its classes.

    Returns:
      (ids of each group, ascending; names), or None.

    Raises:
      InputError: the set has no superclasses, or the groups are no partition of the classes.

    >>> parse("a,c|b", "letters", ["a", "b", "c"])
    (((0, 2), (1,)), ('a+c', 'b'))
    """
    if not spec:
        return None
    if spec == "coarse":
        if name not in _COARSE:
            has = ", ".join(_COARSE)
            remedy = (
                f"{name} has no superclasses (of the sets, {has} has); give groups such as 0,1|2,3"
            )
            raise InputError(FIELD, spec, remedy)
        lines = [line.partition(": ") for line in _COARSE[name].split("\n") if line]
        groups = [[class_names.index(c) for c in members.split()] for _, _, members in lines]
        return tuple(tuple(sorted(g)) for g in groups), tuple(title for title, _, _ in lines)
    groups = [
        [_id(e.strip(), spec, class_names) for e in part.split(",")] for part in spec.split("|")
    ]
    named = [c for group in groups for c in group]
    if sorted(named) != list(range(len(class_names))) or len(groups) < 2:
        missing = sorted(set(range(len(class_names))) - set(named))
        wrong = (
            f"misses class {missing[0]}" if missing else "names a class twice, or makes one group"
        )
        remedy = f"{wrong}; put every class into one of two or more groups, as in 0,2|1,3"
        raise InputError(FIELD, spec, remedy)
    names = ["+".join(class_names[c] for c in sorted(group)) for group in groups]
    return tuple(tuple(sorted(g)) for g in groups), tuple(names)


def grouped(dataset: Dataset, groups: Sequence[Sequence[int]], names: Sequence[str]) -> Dataset:
    """The set with groups of classes as its labels; its classes stay what they are.

    Args:
      dataset: as ``load`` gives it.
      groups: of ids; every class in one of them.
      names: of the groups.
    """
    group_of = np.empty(len(dataset.class_names), np.int32)
    for i, ids in enumerate(groups):
        group_of[list(ids)] = i
    return dataclasses.replace(
        dataset,
        class_names=tuple(names),
        train_labels=group_of[dataset.train_classes],
        test_labels=group_of[dataset.test_classes],
    )


def _id(entry: str, spec: str, class_names: Sequence[str]) -> int:
    if entry in class_names:
        return list(class_names).index(entry)
    if entry.isdecimal() and int(entry) < len(class_names):
        return int(entry)
    last = len(class_names) - 1
    raise InputError(FIELD, spec, f"{entry!r} is no class; give ids from 0 to {last}, or names")
