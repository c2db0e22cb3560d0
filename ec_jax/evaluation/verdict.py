"""The verdict: erased, superficial, damaged or not forgotten, by the limits in thresholds.py.

Rules, the first that holds decides:

1. ``damaged``: a number is not finite, the retain set is predicted much worse, the features of a
   split have collapsed to a point, or samples or a sub-class are, of which an oracle knows much,
   predicted much worse than the oracle does. First, as a ruined model forgets everything.
2. ``not forgotten``: the forget set is predicted better than the oracle does, or a class that an
   earlier request forgot has come back.
3. ``superficial``: the logits forget, but the features keep: at the last points they have moved
   less than half the way from the original's to the oracle's, by their similarity to the
   original's (CKA) or by how well they still tell the classes apart (k-NN, probe, recovery).
   The lesser of the two decides: features turned into others that hold as much are not erased.
   Of forgotten samples: the images that membership inference takes for trained on.
4. ``erased``: none of these.

What the verdict cannot say:

- Small forget sets: with n test images an accuracy moves in steps of 100 / n points, so that
  below 20 images a single one crosses a limit of 5 points. Differences of k-NN or of a probe that
  chance alone would give are not counted, so that CKA may decide alone. More seeds are better.
- Far from the original is not yet near the oracle: features that move past the oracle's count as
  moved all the way. ``gap/representation``, ``rus/to_oracle`` and recovery tell them apart.
- The retain side is judged by accuracy and spread alone; features of the retain set that have
  changed under an unchanged accuracy show in ``rus``.
- One oracle is one draw: a second one, of another seed, shows how much it varies.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from ec_jax.evaluation.indicators import (
    AT_POINTS,
    MEMBERSHIP,
    OF_SAMPLES,
    SEPARABILITY,
    SIMILARITY,
    Indicator,
    indicators,
    least_difference,
)
from ec_jax.evaluation.target import BEFORE, TEST, TRAIN, forget_split
from ec_jax.evaluation.thresholds import LIMIT

ERASED = "erased"
SUPERFICIAL = "superficial"
DAMAGED = "damaged"
NOT_FORGOTTEN = "not forgotten"


# Numbers that are not finite only where the network is not: a ratio of others may well be.
_OF_THE_NETWORK = ("accuracy", "variance", *(metric for metric, *_ in AT_POINTS))


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What an unlearned model is called, and why.

    Attributes:
      name: ``erased``, ``superficial``, ``damaged`` or ``not forgotten``.
      reasons: sentences; what decided comes first, then what else was looked at, then which
        reference is lost.
      numbers: what was compared with the thresholds. ``retain_loss``, ``forget_loss``,
        ``forget_excess`` and, of what was forgotten before, ``forget_excess/earlier_test`` in
        points, ``variance_share/SPLIT`` as shares, ``similarity`` as CKA. ``moved_share``, a share,
        is the lesser of ``moved_share/similarity`` and ``moved_share/separability``, the means of
        ``moved_share/METRIC/POINT``. Only those that the rules came to; all are finite.
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
    images: int  # of forget_test; 0: not known
    split: str  # on which forgetting is judged
    whole: bool  # every label that is forgotten is so wholly: an oracle does not know it


@dataclasses.dataclass(frozen=True)
class _Finding:
    holds: bool
    sentences: tuple[str, ...] = ()
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)


def judge(
    models: Mapping[str, Mapping[str, float]],
    points: Sequence[str],
    images: int = 0,
    *,
    whole: bool = True,
) -> Verdict:
    """Applies the module's rules to the numbers of one run.

    Where samples are forgotten, ``forget_train`` takes the place of ``forget_test``, and in place
    of CKA, k-NN and probe ``mia/forget_train`` tells what is kept: their class stays, and with it
    the features that describe it.

    Read are ``accuracy/forget_test``, ``accuracy/retain_test``, and, where they are there,
    ``accuracy/earlier_test``, ``variance/SPLIT/LAST``, the ``cka_to_original``, ``knn`` and
    ``probe`` of ``forget_test`` at the last two points, and ``recovery/head/forget_test``.

    Without an oracle the references are weaker, and a sentence says so: the original for the
    retain set, 0 for the forget set, and CKA to the original at the last point alone, as nobody
    knows how much of the class k-NN and a probe would find in an oracle.

    Args:
      models: flat keys of "original", "unlearned" and, if there is one, "oracle".
      points: the supervision points, first to last, at least one.
      images: of what is forgotten, on which it is judged; 0: not known, and chance is not allowed
        for.
      whole: every label that is to be forgotten is forgotten whole. Of a sub-class or of samples
        an oracle may know as much as the original: what they share with others stays.

    Returns:
      The verdict.

    Raises:
      ValueError: a number that the rules need is missing, one of a reference is not finite, or the
        oracle predicts the forget set about as well as the original: it is none.

    >>> def model(forget, cka):
    ...     retain = {"accuracy/retain_test": 98.0}
    ...     return retain | {"accuracy/forget_test": forget, "cka_to_original/forget_test/s": cka}
    >>> models = {"original": model(97.0, 1.0), "oracle": model(0.0, 0.4)}
    >>> [judge(models | {"unlearned": model(0.0, c)}, ["s"]).name for c in (1.0, 0.6)]
    ['superficial', 'erased']
    """
    case = _case(models, points, images, whole)
    if case.oracle and whole:
        _check_oracle(case)
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


def _case(
    models: Mapping[str, Mapping[str, float]], points: Sequence[str], images: int, whole: bool
) -> _Case:
    missing = [name for name in ("original", "unlearned") if not models.get(name)]
    if missing or not points:
        raise ValueError(f"without {', '.join(missing) or 'supervision points'}")
    oracle = models.get("oracle") or {}
    split = forget_split(models["original"])
    case = _Case(models["original"], oracle, models["unlearned"], points, images, split, whole)
    needed = [f"accuracy/{split}", "accuracy/retain_test"]
    if not case.oracle and split == TEST:
        needed.append(f"cka_to_original/{split}/{points[-1]}")
    _check(case.unlearned, "unlearned", needed)
    for numbers, name in ((case.original, "original"), (case.oracle, "oracle")):
        _check(numbers, name, needed if numbers else ())
        for key in _not_finite(numbers):
            raise ValueError(f"{key} of the {name} model is {numbers[key]}")
    return case


def _check_oracle(case: _Case) -> None:
    """A network that knows the forget set as the original does is none: all would be erased."""
    key = f"accuracy/{case.split}"
    known, original = case.oracle[key], case.original[key]
    if known > 0 and known >= original - LIMIT["forget_excess"]:
        raise ValueError(
            f"the oracle is right on {known:.1f} % of the images to be forgotten, the "
            f"original on {original:.1f} %: it was trained on them, or on other classes"
        )


def _check(numbers: Mapping[str, float], name: str, needed: Iterable[str]) -> None:
    for key in needed:
        if key not in numbers:
            raise ValueError(f"without {key} of the {name} model")


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
    key, limit = "accuracy/retain_test", LIMIT["retain_loss"]
    loss = reference[key] - case.unlearned[key]
    outcome = "lost" if loss > limit else "kept"
    sentence = (
        f"On test images to be kept the model is right on {case.unlearned[key]:.1f} %, {name} on "
        f"{reference[key]:.1f} %: {outcome} (a loss of at most {limit:g} points is allowed)."
    )
    return _Finding(loss > limit, (sentence,), {"retain_loss": loss})


def _too_much_forgotten(case: _Case) -> _Finding:
    """What an oracle knows without having seen it is not to be lost."""
    if case.whole or not case.oracle:
        return _Finding(False)
    key, limit = f"accuracy/{case.split}", LIMIT["forget_loss"]
    loss = case.oracle[key] - case.unlearned[key]
    sentence = (
        f"On {_IMAGES[case.split]} to be forgotten the model is right on {case.unlearned[key]:.1f} "
        f"%, the oracle, which never saw them, on {case.oracle[key]:.1f} %: too much is lost (at "
        f"most {limit:g} points are allowed)."
    )
    return _Finding(loss > limit, (sentence,) * (loss > limit), {"forget_loss": loss})


def _collapsed(case: _Case) -> _Finding:
    limit, numbers = LIMIT["variance_share"], {}
    for split in (case.split, "retain_test"):
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
    # Without an oracle: a class never seen is never named, a sample as often as a test image.
    alone = 0.0 if case.split == TEST else case.unlearned["accuracy/retain_test"]
    outcomes = ("not forgotten", "the logits have forgotten")
    images = f"{_IMAGES[case.split]} to be forgotten"
    return _excess(case, case.split, images, alone, outcomes, "forget_excess")


def _come_back(case: _Case) -> _Finding:
    """A network that was asked twice must have forgotten both."""
    if f"accuracy/{BEFORE}" not in case.unlearned:
        return _Finding(False)
    outcomes = ("they have come back", "they have stayed forgotten")
    images = "test images of classes that were forgotten before"
    return _excess(case, BEFORE, images, 0.0, outcomes, f"forget_excess/{BEFORE}")


def _excess(
    case: _Case, split: str, images: str, alone: float, outcomes: tuple[str, str], name: str
) -> _Finding:
    """Whether a split is predicted better than the oracle does; ``alone``: where there is none."""
    key, limit = f"accuracy/{split}", LIMIT["forget_excess"]
    target = case.oracle.get(key, alone)
    excess = case.unlearned[key] - target
    holds = excess > limit
    unseen = "the oracle" if case.oracle else "a model that never saw them, it is assumed,"
    sentence = (
        f"On {images} the model is right on {case.unlearned[key]:.1f} %, {unseen} on "
        f"{target:.1f} %: {outcomes[0] if holds else outcomes[1]} "
        f"(at most {limit:g} points more are allowed)."
    )
    return _Finding(holds, (sentence,), {name: excess})


def _features_kept(case: _Case) -> _Finding:
    if not case.oracle and case.split == TRAIN:
        return _Finding(False, (_NO_MEMBERSHIP,))
    return _moved_too_little(case) if case.oracle else _too_similar(case)


def _too_similar(case: _Case) -> _Finding:
    key, limit = f"cka_to_original/{case.split}/{case.points[-1]}", LIMIT["similarity"]
    similarity = case.unlearned[key]
    outcome = "almost unchanged" if similarity >= limit else "changed"
    sentence = (
        f"On images to be forgotten the features at {case.points[-1]} have a similarity (CKA) of "
        f"{similarity:.2f} to the original's: {outcome} (unchanged from {limit:g} on)."
    )
    return _Finding(similarity >= limit, (sentence,), {"similarity": similarity})


def _moved_too_little(case: _Case) -> _Finding:
    shares, sentences, equal = {SIMILARITY: {}, SEPARABILITY: {}, MEMBERSHIP: {}}, [], []
    for indicator in _measured(case):
        original, oracle, unlearned = (
            indicator.of(m) for m in (case.original, case.oracle, case.unlearned)
        )
        if original - oracle <= least_difference(indicator, original, oracle, case.images):
            equal.append(f"{indicator.words} ({original:.2f} and {oracle:.2f})")
            continue
        # Past the oracle is moved all the way; away from it, not at all.
        share = min(max((original - unlearned) / (original - oracle), 0.0), 1.0)
        shares[indicator.family][f"moved_share/{indicator.name}"] = share
        sentences.append(
            f"{indicator.words[0].upper()}{indicator.words[1:]}: {unlearned:.2f}, where the "
            f"original has {original:.2f} and the oracle {oracle:.2f}, {100 * share:.0f} % of the "
            "way."
        )
    if equal:
        sentences.append(
            f"Not counted, as the oracle is not clearly below the original: {'; '.join(equal)}."
        )
    if not any(shares.values()):
        sentences.insert(0, _NOTHING_TO_TELL)
        return _Finding(False, tuple(sentences))
    return _lesser_share(shares, sentences)


def _counted(shares: Mapping[str, float]) -> str:
    return "1 measure" if len(shares) == 1 else f"mean of {len(shares)} measures"


_FAMILIES = {
    SIMILARITY: "by their similarity to the original's",
    SEPARABILITY: "by how well they tell the forgotten classes apart",
    MEMBERSHIP: "by the images that are taken for trained on",
}


def _lesser_share(shares: Mapping[str, Mapping[str, float]], sentences: Iterable[str]) -> _Finding:
    limit = LIMIT["moved_share"]
    means = {f: math.fsum(s.values()) / len(s) for f, s in shares.items() if s}
    parts = [
        f"{_FAMILIES[family]} {100 * mean:.0f} % ({_counted(shares[family])})"
        for family, mean in sorted(means.items(), key=lambda item: item[1])
    ]
    first = (
        "On images to be forgotten the features are away from the original's, in shares of the way "
        f"that the oracle's are: {', '.join(parts)}; at least {100 * limit:g} % is needed, and "
        "further counts as 100 %. That is not how near they are to the oracle's."
    )
    lesser = min(means.values())
    numbers = {"moved_share": lesser} | {f"moved_share/{f}": mean for f, mean in means.items()}
    numbers |= {key: value for family in shares.values() for key, value in family.items()}
    return _Finding(lesser < limit, (first, *sentences), numbers)


def _measured(case: _Case) -> list[Indicator]:
    """The indicators that all three models have."""
    models = (case.original, case.oracle, case.unlearned)
    found = [i for i in indicators(case.points, case.split) if all(i.key in m for m in models)]
    if not found and case.split == TRAIN:
        raise ValueError(f"without {OF_SAMPLES.key}")
    if not found:
        names = ", ".join(metric for metric, *_ in AT_POINTS)
        raise ValueError(f"without one of {names} on {case.split} at the last points")
    return found


def _reference(case: _Case) -> tuple[Mapping[str, float], str]:
    if case.oracle:
        return case.oracle, "the oracle (trained without the images to be forgotten)"
    return case.original, "the original"


_RULES: tuple[tuple[str, Callable[[_Case], _Finding]], ...] = (
    (DAMAGED, _broken),
    (DAMAGED, _retain_lost),
    (DAMAGED, _collapsed),
    (DAMAGED, _too_much_forgotten),
    (NOT_FORGOTTEN, _still_known),
    (NOT_FORGOTTEN, _come_back),
    (SUPERFICIAL, _features_kept),
)
_IMAGES = {TEST: "test images", TRAIN: "the training images"}
_LOST = (
    "There is no oracle (a network trained without the images to be forgotten), so this is weaker: "
    "the retain accuracy is compared with the original's, the forget accuracy with 0, and how far "
    "the features should have moved is not known, only that they should not be the original's."
)
_NO_MEMBERSHIP = (
    "How often membership inference takes images that were never trained on for such is not known "
    "without an oracle; the logits alone decided."
)
_NOTHING_TO_TELL = (
    "The oracle's own features keep what is to be forgotten as well as the original's, so that "
    "they cannot tell erased from superficial here; the logits alone decided."
)
