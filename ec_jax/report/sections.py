"""The parts of a run's page that are drawn: layers, features, recovery, predictions, cost."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ec_jax.report import charts, page, styles, table, words
from ec_jax.report.page import Cell, Column, Section

_RETAIN = "retain_test"
_MOST_CLASSES = 12  # drawn one by one


@dataclasses.dataclass(frozen=True)
class Run:
    """What a page is made of: the contents of three files, each of which may lack anything.

    Attributes:
      metrics: of ``metrics.json``.
      details: of ``details.json``.
      config: of ``config.json``.
    """

    metrics: Mapping[str, Any]
    details: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def models(self) -> dict[str, Mapping[str, float]]:
        """The numbers of the models that there are, in the order of a page."""
        found = self.metrics["models"]
        return {name: found[name] for name in styles.MODELS if found.get(name)}

    @property
    def scenario(self) -> Mapping[str, Any]:
        """What was forgotten, from what."""
        return self.metrics["scenario"]

    @property
    def points(self) -> list[str]:
        """The stages, first to last."""
        return list(self.scenario["points"])

    @property
    def forget(self) -> str:
        """The split on which forgetting is judged."""
        return table.forget_split(self.metrics)

    @property
    def cost(self) -> dict[str, Mapping[str, float]]:
        """{stage: steps, images, flops, seconds} of the stages whose cost is known."""
        return {stage: c for stage, c in (self.metrics.get("cost") or {}).items() if c}

    def series(self, keys: Sequence[str], skip: str = "") -> dict[str, list[float | None]]:
        """{model: a value or None a key} of the models that have one of them."""
        found = {m: [v.get(k) for k in keys] for m, v in self.models.items() if m != skip}
        return {m: values for m, values in found.items() if any(v is not None for v in values)}


def missing(what: str) -> str:
    """A sentence in the place of what was not measured."""
    return f'<p class="missing">{page.escape(what)} not measured in this run.</p>'


def how_to_read(run: Run, text: str) -> str:
    """What a reader should look for in the drawings below."""
    if "oracle" not in run.models:
        text += " There is no oracle here, so that only the distance to the original can be read."
    return f'<p class="read"><strong>How to read it.</strong> {page.escape(text)}</p>'


def legend(models: Sequence[str]) -> str:
    """Line and marker of every model."""
    items = "".join(f"<li>{charts.swatch(m)}{page.escape(m)}</li>" for m in models)
    return f'<ul class="legend">{items}</ul>'


# Curves.


def layers(run: Run) -> Section:
    """CKA of every stage to the original and to the oracle."""
    drawn = [
        _curve(
            run,
            (f"CKA to the {reference}", words.SPLITS[split]),
            {p: f"cka_to_{reference}/{split}/{p}" for p in run.points},
            skip=reference,  # its similarity to itself is 1 by definition
        )
        for reference in ("original", "oracle")
        for split in (run.forget, _RETAIN)
    ]
    text = (
        "First: on images to be forgotten the unlearned model should leave the original as far as "
        "the oracle does; going further is not better. Second: on the other images it should stay "
        "as similar as the oracle. Third and fourth: it should come nearer to the oracle than the "
        "original was, at best to 1."
    )
    intro = "CKA says how similar two networks describe the same images, stage by stage, from the "
    intro += "first (near the image) to the last (near the answer)."
    return Section(
        "layers", "Similarity, layer by layer", _curves(run, drawn, intro, text, "CKA was")
    )


def features(run: Run) -> Section:
    """k-NN and probe accuracy of every stage."""
    drawn = []
    for metric, name in (("knn", "Nearest neighbours"), ("probe", "New linear head (probe)")):
        for split in (run.forget, _RETAIN):
            keys = {p: f"{metric}/{split}/{p}" for p in [*run.points, "logits"]}
            if not run.series([keys["logits"]]):
                del keys["logits"]
            about = (name, words.SPLITS[split])
            drawn.append(_curve(run, about, keys, top=100, unit=" %"))
    text = (
        "On images to be forgotten the unlearned model should lie on the oracle's line, not at "
        "zero: features that never met a class still tell it apart. Where it lies on the "
        "original's line, it knows the class as well as before. On images to be kept it should "
        "stay high."
    )
    intro = "A model can refuse to name a class and still know it. These curves leave its own "
    intro += "answer aside and ask what can be read from the features of each stage."
    body = _curves(run, drawn, intro, text, "k-NN and probe accuracy were")
    return Section("features", "What the features still know", body)


def recovery(run: Run) -> Section:
    """Accuracy on the forget set after relearning."""
    start = "recovery/steps/"
    steps = {
        k[len(start) :] for values in run.models.values() for k in values if k.startswith(start)
    }
    keys = {s: start + s for s in sorted(steps, key=int)}
    about = ("Accuracy on test images to be forgotten", "by steps of training on the class again")
    drawn = [_curve(run, about, keys, top=100, unit=" %")] if keys else []
    text = (
        "The unlearned model should rise no faster than the oracle, which learns the class for the "
        "first time. A steep rise means that the knowledge was hidden, not gone. A flat curve "
        "alone proves nothing: an output layer that was pushed far from a class hides it from this "
        "curve, and the new output layer below brings it back."
    )
    body = _curves(run, drawn, words.METRICS["recovery"][1], text, "Recovery was")
    head = run.series(["recovery/head/forget_test"])
    if head:
        listed = ", ".join(f"{model} {values[0]:.1f} %" for model, values in head.items())
        body += page.paragraphs(f"After training a new output layer alone: {listed}.")
    return Section("recovery", "How fast it comes back", body)


def _curves(run: Run, drawn: Sequence[str], intro: str, text: str, what: str) -> str:
    found = [figure for figure in drawn if figure]
    if not found:
        return missing(what)
    head = page.paragraphs(intro) + how_to_read(run, text) + legend(list(run.models))
    return head + page.panels(*found, across=2)


def _curve(
    run: Run,
    about: tuple[str, str],
    keys: Mapping[str, str],
    *,
    top: float = 1,
    unit: str = "",
    skip: str = "",
) -> str:
    """A figure of ``{tick: key}``, or nothing where no model has one; ``about``: caption, note."""
    series = run.series(list(keys.values()), skip)
    if not series:
        return ""
    digits = 2 if top == 1 else 0
    told = [
        f"{model}: "
        + ", ".join(
            f"{t} {v:.{digits}f}" for t, v in zip(keys, values, strict=True) if v is not None
        )
        for model, values in series.items()
    ]
    alt = f"Line chart. {', '.join(about)}. {'; '.join(told)}."
    caption, note = about
    return page.figure(charts.lines(list(keys), series, top, unit), caption, alt, note)


# Heat maps.


def heat_maps(run: Run) -> Section:
    """CKA of every stage of one model with every stage of another."""
    title = "Every stage against every stage"
    found = run.details.get("cka_matrix") or {}
    rows = [
        [_heat_map(run, split, pair, matrix) for pair, matrix in found[split].items()]
        for split in (run.forget, _RETAIN)
        if found.get(split)
    ]
    if not rows:
        return Section("stages", title, missing("Similarity of every stage with every stage was"))
    intro = (
        "The same similarity (CKA) between all stages of two models: along the diagonal equal "
        "stages, away from it whether one stage has taken another's part."
    )
    text = (
        "Dark is similar. On images to be forgotten, “unlearned and original” should look like "
        "“oracle and original”: dark where the oracle's is dark, pale where it is pale. On images "
        "to be kept, the late stages should stay dark."
    )
    body = page.paragraphs(intro) + how_to_read(run, text)
    return Section("stages", title, body + "".join(page.panels(*row, across=3) for row in rows))


def _heat_map(run: Run, split: str, pair: str, matrix: Sequence[Sequence[float]]) -> str:
    down, across = pair.split("/")
    caption, note = f"{down} and {across}", words.SPLITS[split]
    equal = ", ".join(f"{p} {matrix[i][i]:.2f}" for i, p in enumerate(run.points))
    lines = [
        f"{p}: " + " ".join(f"{value:.2f}" for value in row)
        for p, row in zip(run.points, matrix, strict=True)
    ]
    alt = f"Heat map of CKA, {caption}, {note}. Equal stages: {equal}. "
    alt += f"Rows of {down}: {'; '.join(lines)}."
    return page.figure(charts.heat_map(matrix, run.points, down, across), caption, alt, note)


# Embedding.


def embedding(run: Run) -> Section:
    """Features of forget and retain images in a plane, a model a picture."""
    title = "A picture of the features"
    found = run.details.get("embedding")
    if not found:
        return Section("embedding", title, missing("An embedding of the features was"))
    intro = (
        f"Every mark is a test image; images that {found['point']} describes alike lie together. "
        f"{found['method']} flattens the features to two dimensions, for each model by itself: "
        "what lies together counts, not where."
    )
    text = (
        "In the original the forgotten images form a group of their own. The unlearned model's "
        "should lie as the oracle's do, often among other classes, and the other groups should "
        "stay apart."
    )
    marks = "".join(
        f"<li>{charts.dot(style)}{name}</li>"
        for style, name in (("forget", "to be forgotten"), ("retain", "to be kept"))
    )
    drawn = [_cloud(run, found, model) for model in styles.MODELS if model in found["models"]]
    body = page.paragraphs(intro) + how_to_read(run, text) + f'<ul class="legend">{marks}</ul>'
    return Section("embedding", title, body + page.panels(*drawn, across=3))


def _cloud(run: Run, found: Mapping[str, Any], model: str) -> str:
    points, forget = found["models"][model], np.asarray(found["forget"], bool)
    names = dict(enumerate(run.details.get("class_names") or []))
    share = _together(np.asarray(points, np.float64), forget)
    told = "" if share is None else f"forgotten next to forgotten: {_percent(share)}"
    alt = (
        f"{found['method']} of {found['point']} of the {model} model: {forget.sum()} images to be "
        f"forgotten and {(~forget).sum()} to be kept. {told}"
    )
    drawn = charts.scatter(points, found["label"], forget, names)
    return page.figure(drawn, model, alt, told)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _together(points: np.ndarray, forget: np.ndarray) -> float | None:
    """Share of the forget images whose nearest image is one, too; None where there are no two."""
    if forget.sum() < 2:
        return None
    from sklearn.neighbors import NearestNeighbors  # takes a second to import

    near = NearestNeighbors(n_neighbors=2).fit(points)
    nearest = near.kneighbors(points[forget], return_distance=False)
    mine = np.flatnonzero(forget)
    # Of two images in the same place, either may be found first.
    other = np.where(nearest[:, 0] == mine, nearest[:, 1], nearest[:, 0])
    return float(forget[other].mean())


# Predictions.


def predictions(run: Run) -> Section:
    """What images of the forget set are taken for."""
    title = "What the forgotten images are taken for"
    found = (run.details.get("predicted_as") or {}).get(run.forget) or {}
    models = [m for m in styles.MODELS if m in found and sum(found[m])]
    if not models:
        return Section("predictions", title, missing("The predicted classes were"))
    shares = {m: np.asarray(found[m], float) / sum(found[m]) for m in models}
    names = run.details.get("class_names") or [str(i) for i in range(len(found[models[0]]))]
    shown = _shown(shares, run.scenario["forget_classes"])
    drawn = [_prediction(run, m, shares[m], shown, names) for m in models]
    intro = "The model's answers for test images to be forgotten. It has to answer something: the "
    intro += "classes that it must not know any more are set in bold, at the top."
    text = "The unlearned model's bars should be distributed as the oracle's: on classes that look "
    text += "alike, and none in bold."
    body = page.paragraphs(intro) + how_to_read(run, text) + page.panels(*drawn, across=3)
    return Section("predictions", title, body)


def _shown(shares: Mapping[str, np.ndarray], forgotten: Sequence[int]) -> list[int]:
    """The classes drawn: the forgotten ones, then the others, the most frequent if many."""
    largest = np.max(list(shares.values()), axis=0)
    first = sorted(forgotten, key=lambda c: (-largest[c], c))[:_MOST_CLASSES]
    others = [c for c in range(len(largest)) if c not in forgotten]
    if len(first) + len(others) > _MOST_CLASSES:
        room = max(_MOST_CLASSES - len(first), 5)
        others = sorted(sorted(others, key=lambda c: -largest[c])[:room])
    return [*first, *others]


def _prediction(
    run: Run, model: str, shares: np.ndarray, shown: Sequence[int], names: Sequence[str]
) -> str:
    forgotten = run.scenario["forget_classes"]
    bars = [
        charts.Bar(names[c], shares[c], _percent(shares[c]), model, strong=c in forgotten)
        for c in shown
    ]
    rest = 1 - shares[list(shown)].sum()
    if len(shown) < len(shares):
        bars.append(charts.Bar("all others", max(rest, 0), _percent(max(rest, 0)), model))
    frequent = [c for c in np.argsort(-shares, kind="stable")[:3] if shares[c] > 0]
    told = ", ".join(f"{names[c]} {_percent(shares[c])}" for c in frequent)
    alt = f"Bar chart of the {model} model's answers. Most frequent: {told}."
    return page.figure(charts.bars(bars, 1.0), model, alt)


# Cost.

_STAGES = {
    "original": "Training the original",
    "oracle": "Training anew without the forget set (the oracle)",
    "proxy": "Training a proxy oracle for a short time",
    "modules": "Preparing the auxiliary modules, once for all forget sets",
    "unlearn": "Unlearning",
    "evaluate": "Evaluation",
}


def cost(run: Run) -> Section:
    """What unlearning took, against training anew."""
    title = "Cost against retraining"
    if not run.cost:
        return Section("cost", title, missing("The cost was"))
    shares = _shares(run.cost)
    told = ", ".join(f"{share:.0f} % of the oracle's {unit}" for unit, share in shares.items())
    # Older runs have no FLOPs; the others of a run are always there.
    units = [u for u in table.UNITS if u != "flops" or any(u in c for c in run.cost.values())]
    body = page.paragraphs(
        "Unlearning is worth its while where it is cheaper than training anew, the oracle."
        + (f" Here it took, with its preparation, {told}." if told else "")
    )
    if shares:
        top = max(100, *shares.values())
        bars = [charts.Bar(u, s, f"{s:.0f} %", "unlearned") for u, s in shares.items()]
        caption = "Unlearning and its preparation"
        note = "in percent of training anew, the dashed line"
        alt = f"Bar chart. {caption}: {told}."
        drawn = page.figure(charts.bars(bars, top, reference=100), caption, alt, note)
        body += page.panels(drawn, across=3)
    columns = [Column("Part"), *(Column(table.UNITS[u], numeric=True) for u in units)]
    rows = [
        [_STAGES[stage], *(_amount(run.cost[stage].get(unit)) for unit in units)]
        for stage in _STAGES
        if stage in run.cost
    ]
    return Section("cost", title, body + page.table("What every part took", columns, rows))


def _shares(spent: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """{unit: percent} of the units in which the cost of both is known and not nothing."""
    both = [spent.get(stage, {}) for stage in ("unlearn", "oracle")]
    shares = {
        name: table.share(spent, unit, modules=True)
        for unit, name in table.UNITS.items()
        if all(c.get(unit) for c in both)
    }
    return {name: share for name, share in shares.items() if share is not None}


def _amount(value: float | None) -> Cell:
    if value is None or not math.isfinite(value):
        return page.MISSING
    return Cell(f"{value:,.0f}" if value >= 10 else f"{value:.2g}", float(value))
