"""The verdict: erased, superficial, damaged or not forgotten, by thresholds stated here.

Rules, the first that holds decides:

1. ``damaged``: a number is not finite, the retain set is predicted much worse, or the features
   of a split have collapsed to a point. First, as a ruined model forgets everything.
2. ``not forgotten``: the forget set is predicted better than the oracle does.
3. ``superficial``: the logits forget, but the features keep: at the last points they have moved
   less than half the way from the original's to the oracle's.
4. ``erased``: none of these.

What the verdict cannot say:

- Small forget sets: with n test images an accuracy moves in steps of 100 / n points, so that
  below 20 images a single one crosses a limit of 5 points, and differences of k-NN or of a probe
  are mostly chance below about 100. More seeds, or ``gap/representation``, are then better.
- Far from the original is not yet near the oracle: features that move past the oracle's count as
  moved all the way. ``gap/representation``, ``rus/to_oracle`` and recovery tell them apart.
- The retain side is judged by accuracy and spread alone; features of the retain set that have
  changed under an unchanged accuracy show in ``rus``.
- One oracle is one draw: a second one, trained from another seed, shows how much it varies.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

ERASED = "erased"
SUPERFICIAL = "superficial"
DAMAGED = "damaged"
NOT_FORGOTTEN = "not forgotten"


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
        "forget_excess",
        5.0,
        "points of accuracy",
        "Not forgotten if accuracy/forget_test is higher than the oracle's (without an oracle: "
        "than 0) by more: as much as may be lost on the retain side.",
    ),
    Threshold(
        "least_difference",
        0.05,
        "fraction",
        "An indicator counts only where the original's exceeds the oracle's by more: CKA, or "
        "k-NN and probe accuracy / 100. Shares of a smaller difference are noise.",
    ),
    Threshold(
        "moved_share",
        0.5,
        "share of the way",
        "Superficial if the features have moved by less of the way from the original's to the "
        "oracle's, as a mean over the indicators: nearer to what was to be forgotten.",
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
_LIMIT = {threshold.name: threshold.value for threshold in THRESHOLDS}

# What is compared at the last points on forget_test: key, words, and what makes a fraction of it.
_INDICATORS = (
    ("cka_to_original", "similarity of the features to the original's (CKA)", 1.0),
    ("knn", "accuracy of nearest neighbours on the features (k-NN)", 100.0),
    ("probe", "accuracy of a new linear head on the features (probe)", 100.0),
)
# Numbers that are not finite only where the network is not: a ratio of others may well be.
_OF_THE_NETWORK = ("accuracy", "variance", *(key for key, _, _ in _INDICATORS))


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What an unlearned model is called, and why.

    Attributes:
      name: ``erased``, ``superficial``, ``damaged`` or ``not forgotten``.
      reasons: sentences; what decided comes first, then what else was looked at, then which
        reference is lost.
      numbers: what was compared with the thresholds. ``retain_loss`` and ``forget_excess`` in
        points, ``variance_share/SPLIT``, ``moved_share`` and ``moved_share/METRIC/POINT`` as
        shares, ``similarity`` as CKA. Only those that the rules came to; all are finite.
    """

    name: str
    reasons: tuple[str, ...]
    numbers: dict[str, float]


@dataclasses.dataclass(frozen=True)
class _Case:
    original: Mapping[str, float]
    oracle: Mapping[str, float]  # empty: there is none
    unlearned: Mapping[str, float]
    points: Sequence[str]


@dataclasses.dataclass(frozen=True)
class _Finding:
    holds: bool
    sentences: tuple[str, ...] = ()
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)


def judge(models: Mapping[str, Mapping[str, float]], points: Sequence[str]) -> Verdict:
    """Applies the module's rules to the numbers of one run.

    The forget set is one of classes. Read are ``accuracy/forget_test``, ``accuracy/retain_test``,
    and, where they are there, ``variance/SPLIT/LAST`` and the ``cka_to_original``, ``knn`` and
    ``probe`` of ``forget_test`` at the last two points.

    Without an oracle the references are weaker, and a sentence says so: the original for the
    retain set, 0 for the forget set, and CKA to the original at the last point alone, as nobody
    knows how much of the class k-NN and a probe would find in an oracle.

    Args:
      models: flat keys of "original", "unlearned" and, if there is one, "oracle".
      points: the supervision points, first to last, at least one.

    Returns:
      The verdict.

    Raises:
      ValueError: a number that the rules need is missing, or one of a reference is not finite.

    >>> def model(forget, cka):
    ...     retain = {"accuracy/retain_test": 98.0}
    ...     return retain | {"accuracy/forget_test": forget, "cka_to_original/forget_test/s": cka}
    >>> models = {"original": model(97.0, 1.0), "oracle": model(0.0, 0.4)}
    >>> [judge(models | {"unlearned": model(0.0, c)}, ["s"]).name for c in (1.0, 0.6)]
    ['superficial', 'erased']
    """
    case = _case(models, points)
    passed, numbers, name = [], {}, ERASED
    for verdict, rule in _RULES:
        finding = rule(case)
        numbers |= finding.numbers
        if finding.holds:
            name, passed = verdict, [*finding.sentences, *passed]
            break
        passed += finding.sentences
    lost = () if case.oracle else (_LOST,)
    finite = {key: float(value) for key, value in numbers.items() if math.isfinite(value)}
    return Verdict(name, (*passed, *lost), finite)


def _case(models: Mapping[str, Mapping[str, float]], points: Sequence[str]) -> _Case:
    missing = [name for name in ("original", "unlearned") if not models.get(name)]
    if missing or not points:
        raise ValueError(f"no verdict without {', '.join(missing) or 'supervision points'}")
    case = _Case(models["original"], models.get("oracle") or {}, models["unlearned"], points)
    needed = ["accuracy/forget_test", "accuracy/retain_test"]
    if not case.oracle:
        needed.append(f"cka_to_original/forget_test/{points[-1]}")
    _check(case.unlearned, "unlearned", needed)
    for numbers, name in ((case.original, "original"), (case.oracle, "oracle")):
        _check(numbers, name, needed if numbers else ())
        for key in _not_finite(numbers):
            raise ValueError(f"no verdict: {key} of the {name} model is {numbers[key]}")
    return case


def _check(numbers: Mapping[str, float], name: str, needed: Iterable[str]) -> None:
    for key in needed:
        if key not in numbers:
            raise ValueError(f"no verdict without {key} of the {name} model")


def _not_finite(numbers: Mapping[str, float]) -> list[str]:
    return [
        key
        for key, value in numbers.items()
        if key.partition("/")[0] in _OF_THE_NETWORK and not math.isfinite(value)
    ]


def _broken(case: _Case) -> _Finding:
    keys = _not_finite(case.unlearned)
    return _Finding(
        bool(keys),
        tuple(
            f"{key} is not a finite number ({case.unlearned[key]}): the network or its features "
            "are broken, and a broken network forgets everything."
            for key in keys[:1]
        ),
    )


def _retain_lost(case: _Case) -> _Finding:
    reference, name = _reference(case)
    key, limit = "accuracy/retain_test", _LIMIT["retain_loss"]
    loss = reference[key] - case.unlearned[key]
    outcome = "lost" if loss > limit else "kept"
    sentence = (
        f"On test images to be kept the model is right on {case.unlearned[key]:.1f} %, {name} on "
        f"{reference[key]:.1f} %: {outcome} (a loss of at most {limit:g} points is allowed)."
    )
    return _Finding(loss > limit, (sentence,), {"retain_loss": loss})


def _collapsed(case: _Case) -> _Finding:
    limit, numbers = _LIMIT["variance_share"], {}
    for split in ("forget_test", "retain_test"):
        key = f"variance/{split}/{case.points[-1]}"
        # The smaller of the two: an oracle may well put classes it never saw close together.
        references = [m[key] for m in (case.original, case.oracle) if key in m]
        if key in case.unlearned and references and min(references) > 0:
            numbers[f"variance_share/{split}"] = case.unlearned[key] / min(references)
    lost = {key: share for key, share in numbers.items() if share < limit}
    sentences = tuple(
        f"The last features of {key.partition('/')[2]} have {100 * share:.2g} % of the variance "
        f"of the original's (or the oracle's, if less): collapsed (below {100 * limit:g} %)."
        for key, share in lost.items()
    )
    return _Finding(bool(lost), sentences, numbers)


def _still_known(case: _Case) -> _Finding:
    key, limit = "accuracy/forget_test", _LIMIT["forget_excess"]
    target = case.oracle[key] if case.oracle else 0.0
    excess = case.unlearned[key] - target
    name = "the oracle" if case.oracle else "a model that never saw them, it is assumed,"
    outcome = "not forgotten" if excess > limit else "the logits have forgotten"
    sentence = (
        f"On test images to be forgotten the model is right on {case.unlearned[key]:.1f} %, "
        f"{name} on {target:.1f} %: {outcome} (at most {limit:g} points more are allowed)."
    )
    return _Finding(excess > limit, (sentence,), {"forget_excess": excess})


def _features_kept(case: _Case) -> _Finding:
    return _moved_too_little(case) if case.oracle else _too_similar(case)


def _too_similar(case: _Case) -> _Finding:
    key, limit = f"cka_to_original/forget_test/{case.points[-1]}", _LIMIT["similarity"]
    similarity = case.unlearned[key]
    outcome = "almost unchanged" if similarity >= limit else "changed"
    sentence = (
        f"On images to be forgotten the features at {case.points[-1]} have a similarity (CKA) of "
        f"{similarity:.2f} to the original's: {outcome} (unchanged from {limit:g} on)."
    )
    return _Finding(similarity >= limit, (sentence,), {"similarity": similarity})


def _moved_too_little(case: _Case) -> _Finding:
    shares, sentences, equal = {}, [], []
    for key, words, unit in _measured(case):
        original, oracle, unlearned = (
            m[key] / unit for m in (case.original, case.oracle, case.unlearned)
        )
        point = key.rpartition("/")[2]
        if original - oracle <= _LIMIT["least_difference"]:
            equal.append(f"{words} at {point} ({original:.2f} and {oracle:.2f})")
            continue
        # Past the oracle is moved all the way; away from it, not at all.
        share = min(max((original - unlearned) / (original - oracle), 0.0), 1.0)
        shares[f"moved_share/{key.replace('/forget_test', '')}"] = share
        sentences.append(
            f"{words[0].upper()}{words[1:]} at {point}: {unlearned:.2f}, where the original has "
            f"{original:.2f} and the oracle {oracle:.2f}, {100 * share:.0f} % of the way."
        )
    if equal:
        sentences.append(
            f"Not counted, as the oracle is not clearly below the original: {'; '.join(equal)}."
        )
    if not shares:
        sentences.insert(0, _NOTHING_TO_TELL)
        return _Finding(False, tuple(sentences))
    return _mean_share(shares, sentences)


def _mean_share(shares: Mapping[str, float], sentences: Iterable[str]) -> _Finding:
    mean, limit = sum(shares.values()) / len(shares), _LIMIT["moved_share"]
    first = (
        f"On images to be forgotten the features have moved {100 * mean:.0f} % of the way from the "
        f"original's to the oracle's, a mean of {len(shares)} (at least {100 * limit:g} % is "
        "needed; past the oracle counts as all the way)."
    )
    return _Finding(mean < limit, (first, *sentences), {"moved_share": mean, **shares})


def _measured(case: _Case) -> list[tuple[str, str, float]]:
    """(key, words, unit) of the indicators that all three models have."""
    found = [
        (key, words, unit)
        for metric, words, unit in _INDICATORS
        for point in case.points[-2:]
        for key in [f"{metric}/forget_test/{point}"]
        if all(key in m for m in (case.original, case.oracle, case.unlearned))
    ]
    if not found:
        names = ", ".join(metric for metric, _, _ in _INDICATORS)
        raise ValueError(f"no verdict without one of {names} on forget_test at the last points")
    return found


def _reference(case: _Case) -> tuple[Mapping[str, float], str]:
    if case.oracle:
        return case.oracle, "the oracle (trained without the images to be forgotten)"
    return case.original, "the original"


_RULES: tuple[tuple[str, Callable[[_Case], _Finding]], ...] = (
    (DAMAGED, _broken),
    (DAMAGED, _retain_lost),
    (DAMAGED, _collapsed),
    (NOT_FORGOTTEN, _still_known),
    (SUPERFICIAL, _features_kept),
)
_LOST = (
    "There is no oracle (a network trained without the images to be forgotten), so this is weaker: "
    "the retain accuracy is compared with the original's, the forget accuracy with 0, and how far "
    "the features should have moved is not known, only that they should not be the original's."
)
_NOTHING_TO_TELL = (
    "The oracle's own features keep what is to be forgotten as well as the original's, so that "
    "they cannot tell erased from superficial here; the logits alone decided."
)
