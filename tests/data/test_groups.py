"""Groups of classes as labels."""

import numpy as np
import pytest

from ec_jax.data import groups, sources, splits
from ec_jax.errors import InputError

DIGITS = sources.about("digits").class_names


def test_cifar100_has_twenty_superclasses_of_five():
    names = sources.about("cifar100").class_names
    parts, titles = groups.parse("coarse", "cifar100", names)
    assert len(parts) == len(titles) == 20
    assert all(len(part) == 5 for part in parts)
    assert sorted(c for part in parts for c in part) == list(range(100))
    # Two rows of the table in the archive's own numbering.
    assert [names[c] for c in parts[titles.index("fish")]] == [
        "aquarium_fish",
        "flatfish",
        "ray",
        "shark",
        "trout",
    ]
    assert titles == tuple(sorted(titles))
    assert titles[0] == "aquatic_mammals"


def test_labels_become_groups_and_classes_stay():
    parts, names = groups.parse("1,3,5,7,9|0,2,4,6,8", "digits", DIGITS)
    plain = sources.load("digits")
    made = groups.grouped(plain, parts, names)
    assert made.class_names == ("1+3+5+7+9", "0+2+4+6+8")
    np.testing.assert_array_equal(made.train_labels, (plain.train_labels + 1) % 2)
    np.testing.assert_array_equal(made.test_classes, plain.test_labels)
    # A class is forgotten, not its group.
    rows = splits.split(made, [3])["forget_test"]
    assert set(plain.test_labels[rows]) == {3}
    assert set(made.test_labels[rows]) == {0}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("coarse", "digits has no superclasses"),
        ("0,1,2|3,4", "misses class 5"),
        ("0,1,2,3,4,5,6,7,8,9", "one group"),
        ("0,1,2,3,4,4|5,6,7,8,9", "a class twice"),
        ("0,1,2,3,4|5,6,7,8,nine", "'nine' is no class"),
    ],
)
def test_what_is_no_partition_is_refused(spec, reason):
    with pytest.raises(InputError, match=r"data\.groups") as caught:
        groups.parse(spec, "digits", DIGITS)
    assert reason in str(caught.value)
