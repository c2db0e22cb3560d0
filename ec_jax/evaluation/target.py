"""Which images tell whether something was forgotten."""

from collections.abc import Iterable

TEST, TRAIN = "forget_test", "forget_train"
BEFORE = "earlier_test"  # of classes that an earlier request forgot


def forget_split(keys: Iterable[str]) -> str:
    """The split on which forgetting is judged.

    Args:
      keys: flat keys of a model's numbers, ``accuracy/SPLIT`` among them.

    Returns:
      ``forget_test``, unseen images of what is forgotten; ``forget_train``, the forgotten images
      themselves, where samples are forgotten, of which there are no others.

    >>> forget_split(["accuracy/forget_train", "accuracy/retain_test"])
    'forget_train'
    """
    found = set(keys)
    return TRAIN if f"accuracy/{TRAIN}" in found and f"accuracy/{TEST}" not in found else TEST
