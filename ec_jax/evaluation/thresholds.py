"""The limits that a verdict rests on: the one home of each."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A limit that a verdict rests on.

    Attributes:
      name: how the rules and the documents call it.
      value: the limit itself, in ``unit``.
      unit: of the value.
      meaning: what is compared with it, and why it stands where it stands.
    """

    name: str
    value: float
    unit: str
    meaning: str


# Ours, by reasoning; no published convention exists.
THRESHOLDS = (
    Threshold(
        "retain_loss",
        5.0,
        "points of accuracy",
        "Damaged if accuracy/retain_test is lower than the oracle's (without an oracle: than the "
        "original's) by more. Two trainings of one network differ by about a point on some "
        "hundred images; unlearning that costs one image in twenty is of little use.",
    ),
    Threshold(
        "variance_share",
        0.01,
        "share of the variance",
        "Damaged if the variance of the last point's features on forget_test or retain_test is "
        "below this share of the original's (of the oracle's, where that is smaller): a spread "
        "of less than a tenth. Training anew changes it by a factor of two or three.",
    ),
    Threshold(
        "forget_loss",
        5.0,
        "points of accuracy",
        "Where samples or a sub-class are forgotten, damaged if the accuracy on them is lower than "
        "the oracle's by more: an oracle is right on most of them by what it knows of their class.",
    ),
    Threshold(
        "forget_excess",
        5.0,
        "points of accuracy",
        "Not forgotten if accuracy/forget_test is higher than the oracle's (without an oracle: "
        "than 0) by more: as much as may be lost on the retain side. The same of "
        "accuracy/earlier_test, where classes were forgotten before.",
    ),
    Threshold(
        "least_difference",
        0.05,
        "fraction",
        "An indicator counts only where the original's exceeds the oracle's by more: CKA, or an "
        "accuracy / 100. Shares of a smaller difference are noise.",
    ),
    Threshold(
        "standard_errors",
        2.0,
        "standard errors",
        "An accuracy counts as an indicator only where the original's exceeds the oracle's by more "
        "of these, too: those of a difference between two shares of the images to be forgotten. "
        "Between two trainings a smaller one is chance, in one case of twenty even a larger one.",
    ),
    Threshold(
        "moved_share",
        0.5,
        "share of the way",
        "Superficial if the features have moved by less of the way from the original's to the "
        "oracle's, as a mean over the indicators of similarity or over those of separability, "
        "whichever is less: nearer to what was to be forgotten.",
    ),
    Threshold(
        "similarity",
        0.9,
        "CKA",
        "Without an oracle, superficial if CKA to the original on forget_test at the last point "
        "is at least this: almost the original's features. A change of the head alone gives 1; "
        "the oracles of docs/results lie well below the limit.",
    ),
)
LIMIT = {threshold.name: threshold.value for threshold in THRESHOLDS}
