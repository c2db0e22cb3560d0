"""By what it is told whether features keep what was to be forgotten."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from ec_jax.evaluation.target import TEST, TRAIN
from ec_jax.evaluation.thresholds import LIMIT

SIMILARITY, SEPARABILITY, MEMBERSHIP = "similarity", "separability", "membership"


@dataclasses.dataclass(frozen=True)
class Indicator:
    """What is compared on the forget set.

    Attributes:
      key: of the number.
      words: what it is.
      unit: what makes a fraction of it.
      family: to which it belongs; the verdict takes the mean of each.
      of_others: the number is the share of images of which this is not said.
    """

    key: str
    words: str
    unit: float
    family: str
    of_others: bool = False

    def of(self, numbers: Mapping[str, float]) -> float:
        """A model's value, a fraction that forgetting lowers."""
        found = numbers[self.key] / self.unit
        return 1.0 - found if self.of_others else found

    @property
    def name(self) -> str:
        """The key without its split."""
        return self.key.replace(f"/{TEST}", "").replace(f"/{TRAIN}", "")


AT_POINTS = (
    (
        "cka_to_original",
        "similarity of the features to the original's (CKA)",
        1.0,
        SIMILARITY,
    ),
    ("knn", "accuracy of nearest neighbours on the features (k-NN)", 100.0, SEPARABILITY),
    ("probe", "accuracy of a new linear head on the features (probe)", 100.0, SEPARABILITY),
)
# Of forgotten samples their class stays: that features tell it apart, or stay as they are, is no
# sign of memory. That they are taken for trained on is one.
OF_SAMPLES = Indicator(
    "mia/forget_train",
    "share of the images taken for trained on (membership inference)",
    100.0,
    MEMBERSHIP,
    of_others=True,
)


def indicators(points: Sequence[str], split: str) -> list[Indicator]:
    """The indicators at the last two points, and those that have none; of samples, membership."""
    at_points = [
        Indicator(f"{metric}/{split}/{point}", f"{words} at {point}", unit, family)
        for metric, words, unit, family in AT_POINTS
        for point in points[-2:]
    ]
    if split == TRAIN:
        return [OF_SAMPLES]
    head = "accuracy of a new head trained on few images (recovery)"
    return [*at_points, Indicator("recovery/head/forget_test", head, 100.0, SEPARABILITY)]


def least_difference(indicator: Indicator, a: float, b: float, images: int) -> float:
    """How far apart the references must be for an indicator to count.

    Args:
      indicator: which.
      a: the original's value, a fraction.
      b: the oracle's.
      images: of what is forgotten; 0: not known, and chance is not allowed for.
    """
    least = LIMIT["least_difference"]
    if indicator.unit == 1.0 or not images:
        return least
    # One success and one failure more (Agresti and Caffo 2000): a share of 1 is not certain.
    shares = [(x * images + 1) / (images + 2) for x in (a, b)]
    error = math.sqrt(sum(x * (1 - x) for x in shares) / (images + 2))
    return max(least, LIMIT["standard_errors"] * error)
