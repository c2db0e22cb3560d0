"""The result as a table: original, oracle and unlearned side by side."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ec_jax.evaluation import target, verdict
from ec_jax.report import markup

MODELS = ("original", "oracle", "unlearned")
_SPLIT_NAMES = {
    "forget_train": "forget, train",
    "retain_train": "retain, train",
    "forget_test": "forget, test",
    "retain_test": "retain, test",
}
ORACLE = "the oracle's"
# {stage: what it prepares unlearning by}
PREPARED = {"modules": "its modules' training", "proxy": "its proxy's training"}

# {unit of a cost: its name}
UNITS = {"steps": "steps", "images": "images", "flops": "FLOPs", "seconds": "seconds"}


def rows(points: Sequence[str], forget: str = target.TEST) -> Iterator[tuple[str, str, int, str]]:
    """The table's rows: (label, key, digits shown, what the unlearned number should be close to).

    Args:
      points: the supervision points, first to last.
      forget: the split on which forgetting is judged.
    """
    on = _SPLIT_NAMES[forget]
    for split, name in _SPLIT_NAMES.items():
        yield f"accuracy, {name} (%)", f"accuracy/{split}", 1, ORACLE
    yield "accuracy, forgotten before, test (%)", "accuracy/earlier_test", 1, ORACLE
    label = f"agreement with the oracle's predictions, {on} (%)"
    yield label, f"agreement/{forget}", 1, "100, and above the original's"
    for reference, goal in (("original", ORACLE), ("oracle", "1, and above the original's")):
        for point in points:
            key = f"cka_to_{reference}/{forget}/{point}"
            yield f"CKA to {reference}, {on}, {point}", key, 3, goal
        label = f"closeness to {reference} (mean CKA, {on}, without the first stage)"
        yield label, f"closeness/{reference}", 3, goal
    last = points[-1]
    for point in points:
        yield f"k-NN accuracy, forget, test, {point} (%)", f"knn/forget_test/{point}", 1, ORACLE
    yield f"k-NN accuracy, retain, test, {last} (%)", f"knn/retain_test/{last}", 1, ORACLE
    label = f"k-NN accuracy, forgotten before, test, {last} (%)"
    yield label, f"knn/earlier_test/{last}", 1, ORACLE
    label = f"linear probe accuracy, forget, test, {last} (%)"
    yield label, f"probe/forget_test/{last}", 1, ORACLE
    label = "accuracy of a new head from few images, forget, test (%)"
    yield label, "recovery/head/forget_test", 1, ORACLE
    yield "accuracy while relearning, mean, forget, test (%)", "recovery/area", 1, ORACLE
    if forget == target.TRAIN:
        yield "taken for never trained on (MIA), forget, train (%)", "mia/forget_train", 1, ORACLE
    yield "information difference index (IDI)", "idi/value", 2, "0"
    label = f"feature variance, {on}, {last}"
    yield label, f"variance/{forget}/{last}", 4, "not near 0"
    yield "gap to the oracle, logits (points)", "gap/logit", 1, "0"
    yield "gap to the oracle, representation", "gap/representation", 3, "0"


def _models(metrics: Mapping[str, Any]) -> list[str]:
    return [model for model in MODELS if model in metrics["models"]]


def _filled(metrics: Mapping[str, Any]) -> Iterator[tuple[str, list[str], str]]:
    """(label, one cell a model, goal) of every row that a model has a number for."""
    models = [metrics["models"][m] for m in _models(metrics)]
    known = rows(metrics["scenario"]["points"], forget_split(metrics))
    for label, key, digits, goal in (*known, *_transfer_rows(models)):
        if any(key in m for m in models):
            yield label, [f"{m[key]:.{digits}f}" if key in m else "–" for m in models], goal


def _transfer_rows(models: Sequence[Mapping[str, float]]) -> Iterator[tuple[str, str, int, str]]:
    """The rows of the other sets on which a run was measured."""
    for key in dict.fromkeys(k for m in models for k in m if k.startswith("transfer/")):
        _, name, point = key.split("/")
        yield f"k-NN accuracy on {name}, {point} (%)", key, 1, ORACLE


def _cost_line(metrics: Mapping[str, Any]) -> str:
    cost = metrics["cost"]
    parts = [
        f"{stage} {c['steps']} steps, {c['images']} images, {c['seconds']:.0f} s"
        for stage, c in cost.items()
        if c and "steps" in c
    ]
    costs = f"Cost: {'; '.join(parts)}." if parts else ""
    if share(cost, "steps") is None:
        return costs
    alone = {unit: share(cost, unit) for unit in UNITS if unit != "seconds"}
    shares = [f"{s:.1f} % of its {UNITS[u]}" for u, s in alone.items() if s is not None]
    *first, last = [shares[0].replace("its", ORACLE), *shares[1:]]
    taken = f"{', '.join(first)} and {last}" if first else last
    with_modules = ""
    if trained := [name for stage, name in PREPARED.items() if cost.get(stage)]:
        whole = {unit: share(cost, unit, modules=True) for unit in UNITS}
        shares = [f"{s:.0f} % of its {UNITS[u]}" for u, s in whole.items() if s is not None]
        with_modules = f" With {' and '.join(trained)}: {', '.join(shares)}."
    return f"{costs} Unlearning took {taken}.{with_modules}"


def share(cost: Mapping[str, Any], unit: str, *, modules: bool = False) -> float | None:
    """What unlearning took of the oracle's training, in percent.

    Args:
      cost: of a run, as in its ``metrics.json``.
      unit: ``steps``, ``images``, ``flops`` or ``seconds``.
      modules: what was trained to prepare it counts, too: the EC modules, of which one training
        serves all forget sets, and a proxy oracle.

    Returns:
      It; None where one of the two was not trained in this run, or its cost is not known.
    """
    spent, whole = ((cost.get(stage) or {}).get(unit) for stage in ("unlearn", "oracle"))
    prepared = [cost[stage].get(unit) for stage in PREPARED if modules and cost.get(stage)]
    if spent is None or not whole or None in prepared:
        return None
    return 100 * (spent + sum(prepared)) / whole


_FEATURES = {
    "gap": "of every stage's spatial mean",
    "map": "of every stage's spatial mean; cka_map of whole activations",
}


def scenario_name(scenario: Mapping[str, Any]) -> str:
    """Data set, what is forgotten, and network.

    Args:
      scenario: of a run, as in its ``metrics.json``.
    """
    names = class_list(scenario["forget_classes"], scenario["forget_names"])
    before = class_list(scenario.get("earlier_classes", ()), scenario.get("earlier_names", ()))
    before = f", before it: {before}" if before else ""
    model = f"; {scenario['model']}" if "model" in scenario else ""
    return f"{scenario['dataset']}, forgotten: {scenario.get('forget', names)}{before}{model}"


def class_list(ids: Sequence[int], names: Sequence[str]) -> str:
    """Classes in words.

    >>> class_list([3, 5], ["3", "dog"])
    '3, 5 (dog)'
    """
    pairs = zip(ids, names, strict=True)
    return ", ".join(f"{i} ({n})" if str(i) != n else n for i, n in pairs)


def forget_split(metrics: Mapping[str, Any]) -> str:
    """The split on which a run's forgetting is judged."""
    models = metrics["models"]  # the original's numbers are whole, if there is one
    return target.forget_split(models.get("original") or models["unlearned"])


def _scenario_line(metrics: Mapping[str, Any]) -> str:
    s = metrics["scenario"]
    return (
        f"{scenario_name(s)}, method {s['method']}, seed {s['seed']}\n"
        f"CKA and variance: {_FEATURES[s['features']]}"
    )


def judged(metrics: Mapping[str, Any]) -> tuple[verdict.Verdict | None, str]:
    """The verdict on a run; or None, and why a run that measured too little has none."""
    scenario = metrics["scenario"]
    images = scenario.get("images", {}).get(forget_split(metrics), 0)
    try:
        found = verdict.judge(
            metrics["models"], scenario["points"], images, whole="forget" not in scenario
        )
        return found, ""
    except ValueError as error:
        return None, str(error)


def _verdict(metrics: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The verdict's line, and its reasons."""
    found, why = judged(metrics)
    return (
        (f"Verdict: {found.name}", list(found.reasons)) if found else (f"Verdict: none ({why})", [])
    )


def markdown(metrics: Mapping[str, Any]) -> str:
    """The table in Markdown, with scenario, cost and verdict.

    Args:
      metrics: the contents of ``metrics.json``.
    """
    # A class name may hold what Markdown reads as markup.
    heading, _, features = map(markup.markdown_escape, _scenario_line(metrics).rpartition("\n"))
    escape = markup.markdown_escape  # points and sets have names of their own
    filled = [[escape(label), *cells, goal] for label, cells, goal in _filled(metrics)]
    title, reasons = _verdict(metrics)
    lines = [
        f"**{heading}**",
        "",
        features,
        "",
        markdown_table(_models(metrics), filled),
        _cost_line(metrics),
        "",
        f"**{title}**",
    ]
    return "\n".join([*lines, "", *(f"- {markup.markdown_escape(r)}" for r in reasons), ""])


def markdown_table(models: Sequence[str], filled: Iterable[Sequence[str]]) -> str:
    """Rows of label, one cell a model and goal as a table in Markdown."""
    head = ["", *models, "unlearned should be close to"]
    return markup.markdown(head, [False, *[True] * len(models), False], filled)


def text(metrics: Mapping[str, Any]) -> str:
    """The same table for a terminal."""
    filled = list(_filled(metrics))
    width = max((len(label) for label, _, _ in filled), default=0)
    head = (
        f"{'':{width}}"
        + "".join(f"{m:>11}" for m in _models(metrics))
        + "   unlearned should be close to"
    )
    body = [
        f"{label:{width}}" + "".join(f"{c:>11}" for c in cells) + f"   {goal}"
        for label, cells, goal in filled
    ]
    end = [_cost_line(metrics), "", verdict_text(metrics)]
    return "\n".join(["", _scenario_line(metrics), "", head, *body, "", *end, ""])


def verdict_text(metrics: Mapping[str, Any]) -> str:
    """The verdict and its reasons for a terminal."""
    title, reasons = _verdict(metrics)
    wrapped = [textwrap.fill(r, 100, initial_indent="- ", subsequent_indent="  ") for r in reasons]
    return "\n".join([title, *wrapped])


def write(metrics: Mapping[str, Any], path: Path) -> None:
    """Writes the Markdown table."""
    path.write_text(markdown(metrics), encoding="utf-8")
