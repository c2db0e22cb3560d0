"""``report.html``: a run on one page, for readers who do not know the field."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ec_jax.config import flatten
from ec_jax.evaluation import verdict
from ec_jax.evaluation.target import TRAIN
from ec_jax.evaluation.thresholds import THRESHOLDS
from ec_jax.report import charts, page, sections, table, words
from ec_jax.report.page import Cell, Column, Section, escape
from ec_jax.report.sections import Run

_LOOKS = {  # verdict: (class of the banner, drawing of its icon)
    verdict.ERASED: ("good", '<circle cx="12" cy="12" r="10"/><path d="M7 12.5l3.5 3.5L17 9"/>'),
    verdict.SUPERFICIAL: (
        "warn",
        '<circle cx="12" cy="12" r="10"/><path class="solid" d="M2 12a10 10 0 0 0 20 0z"/>',
    ),
    verdict.DAMAGED: ("bad", '<path d="M12 2.5L22.5 21h-21z"/><path d="M12 9v6M12 17.5v.5"/>'),
    verdict.NOT_FORGOTTEN: (
        "bad",
        '<circle cx="12" cy="12" r="10"/><path d="M8 8l8 8M16 8l-8 8"/>',
    ),
    None: ("none", '<circle cx="12" cy="12" r="10"/><path d="M7 12h10"/>'),
}
_FEW = 100  # images below which differences of k-NN and probe are mostly chance (docs/metrics.md)


def write(
    metrics: Mapping[str, Any],
    details: Mapping[str, Any],
    config: Mapping[str, Any],
    path: Path,
    *,
    certificate: Mapping[str, Any] | None = None,
) -> None:
    """Writes the page; see ``document`` for the arguments."""
    path.write_text(document(metrics, details, config, certificate), encoding="utf-8")


def document(
    metrics: Mapping[str, Any],
    details: Mapping[str, Any],
    config: Mapping[str, Any],
    certificate: Mapping[str, Any] | None = None,
) -> str:
    """A run as one HTML page that needs nothing else.

    Args:
      metrics: the contents of ``metrics.json``. The oracle, costs and any number may be missing;
        the page then says so.
      details: the contents of ``details.json``; any key may be missing.
      config: the resolved config, nested; may be empty.
      certificate: the contents of the ``certificate.json`` beside the page; None: there is none.

    Returns:
      HTML5. The same arguments give the same text.
    """
    run = Run(metrics, details, config)
    s = run.scenario
    facts = (s["dataset"], s.get("model"), f"method {s['method']}" if "method" in s else None)
    lead = " · ".join(str(fact) for fact in facts if fact)
    if "seed" in s:
        lead += f" · seed {s['seed']}"
    parts = [
        _verdict(run),
        _models(run),
        _numbers(run),
        sections.layers(run),
        sections.features(run),
        sections.recovery(run),
        sections.heat_maps(run),
        sections.embedding(run),
        sections.predictions(run),
        sections.cost(run),
        _rerun(run),
        *([_certificate(certificate)] if certificate else []),
        _glossary(),
        _everything(run),
    ]
    return page.document(f"Unlearning {_forgotten(run)}", parts, lead=lead)


def _forgotten(run: Run) -> str:
    names = [f"“{name}”" for name in run.scenario["forget_names"]]
    names = names or [run.scenario["forget"]]
    if len(names) > 4:
        names = [*names[:3], f"{len(names) - 3} more"]
    listed = " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
    return f"{listed} in {run.scenario['dataset']}"


# The verdict.


def _verdict(run: Run) -> Section:
    found, why = table.judged(run.metrics)
    name = found.name if found else None
    look, icon = _LOOKS[name]
    meanings = words.VERDICTS if "oracle" in run.models else words.VERDICTS_ALONE
    if run.forget == TRAIN:
        meanings = meanings | words.VERDICTS_OF_SAMPLES
    meaning = meanings[name] if found else f"{words.NO_VERDICT} ({why})"
    body = [
        f'<div class="banner {look}"><svg class="icon" viewBox="0 0 24 24" aria-hidden="true">',
        f'{icon}</svg><p class="word">{escape((name or "no verdict").capitalize())}</p>',
        f"<p>{escape(meaning)}</p></div>",
        _tiles(run, found),
    ]
    if found:
        reasons = "".join(f"<li>{escape(reason)}</li>" for reason in found.reasons)
        limits = "".join(f"<dt>{t.name}</dt><dd>{escape(t.meaning)}</dd>" for t in THRESHOLDS)
        body += [
            page.table("What decided, and its limits", _CHECK_COLUMNS, _checks(found)),
            page.collapsible("The reasons in full", f"<ul>{reasons}</ul>"),
            page.collapsible("Where the limits come from", f"<dl>{limits}</dl>"),
        ]
    body.append(_care(run))
    return Section("verdict", "Verdict", "\n".join(body))


def _tiles(run: Run, found: verdict.Verdict | None) -> str:
    tiles = []
    for key, label in (
        (f"accuracy/{run.forget}", "Images to be forgotten, still recognised"),
        ("accuracy/retain_test", "Images to be kept, recognised"),
    ):
        values = {m: v[0] for m, v in run.series([key]).items()}
        if "unlearned" in values:
            others = [f"{m} {v:.1f} %" for m, v in values.items() if m != "unlearned"]
            tiles.append((label, f"{values['unlearned']:.1f} %", " · ".join(others[::-1])))
    numbers = found.numbers if found else {}
    for name in ("moved_share", "similarity"):  # with an oracle, without one
        if name not in numbers:
            continue
        big, needed = _measure(name, numbers[name]), f"needed: {_limit(name)}"
        label = words.MOVED_MEMBERSHIP if run.forget == TRAIN else words.CHECKS[name][0]
        tiles.append((label, big, needed))
    inner = "".join(
        f"<div><dt>{escape(label)}</dt><dd><b>{_tied(big)}</b> {_tied(small)}</dd></div>"
        for label, big, small in tiles
    )
    return f'<dl class="tiles">{inner}</dl>' if tiles else ""


def _tied(text: str) -> str:
    """Markup in which no line breaks before a unit."""
    return escape(text).replace(" %", "&nbsp;%")


_CHECK_COLUMNS = [
    Column("What was compared"),
    Column("Measured", numeric=True),
    Column("Limit", numeric=True),
    Column("Met"),
]
_THRESHOLDS = {threshold.name: threshold for threshold in THRESHOLDS}


def _checks(found: verdict.Verdict) -> Iterator[list[Cell | str]]:
    for key, value in found.numbers.items():
        name, _, rest = key.partition("/")
        label, rule = words.CHECKS[name]
        measured = Cell(_measure(name, value), value)
        if name == "moved_share" and rest not in words.FAMILIES and rest:
            metric, _, point = rest.partition("/")
            where = f" at {point}" if point not in ("", "head") else ""
            part = f"Part of a mean: by {words.METRICS[metric][0]}{where}"
            yield [part, measured, page.MISSING, page.MISSING]
            continue
        if name == "moved_share" and not rest:  # the lesser of two that follow
            continue
        label += f", {(words.SPLITS | words.FAMILIES)[rest]}" if rest else ""
        limit = _THRESHOLDS[name].value
        met = {"at most": value <= limit, "at least": value >= limit, "below": value < limit}[rule]
        yield [label, measured, Cell(_limit(name), limit), "✓\u00a0yes" if met else "✗\u00a0no"]


def _limit(name: str) -> str:
    return f"{words.CHECKS[name][1]} {_measure(name, _THRESHOLDS[name].value)}"


def _measure(name: str, value: float) -> str:
    """A number as its limit is given: in points, percent or as CKA."""
    if _THRESHOLDS[name].unit.startswith("points"):
        return f"{value:.1f} points".replace("-", "−")
    return f"{value:.2f}" if name == "similarity" else f"{100 * value:,.0f} %"


def _care(run: Run) -> str:
    notes = []
    images = (run.scenario.get("images") or {}).get("forget_test")
    if images and images < _FEW:
        notes.append(
            f"Only {images} test images are to be forgotten: each is {100 / images:.1f} points of "
            "accuracy, and differences of k-NN and probe are mostly chance."
        )
    if "oracle" in run.models:
        notes += [
            "The oracle is one training; another seed would give somewhat other numbers.",
            "Far from the original is not yet near the oracle: see the gap and the similarity to "
            "the oracle below.",
        ]
    notes.append("Images to be kept are judged by accuracy and spread alone.")
    aside = (
        "The features do" if run.forget == TRAIN else "Relearning, membership inference and IDI do"
    )
    notes.append(f"{aside} not enter it: see them below.")
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<h3>What the verdict cannot say</h3><ul class="muted">{items}</ul>'


# The models and their numbers.


def _models(run: Run) -> Section:
    names = [f"“{name}”" for name in run.scenario["forget_names"]]
    classes = f"the class {names[0]}" if len(names) == 1 else f"the classes {', '.join(names)}"
    if not names:
        classes = str(run.scenario["forget"])
    intro = (
        f"Unlearning should make a trained network forget {classes}, as if its images had "
        "never been seen, and keep the rest, for less than training it anew. So these networks are "
        "compared:"
    )
    items = "".join(
        f"<dt>{charts.swatch(m)}{escape(m)}</dt><dd>{escape(words.MODELS[m])}</dd>"
        for m in run.models
    )
    body = page.paragraphs(intro) + f'<dl class="models">{items}</dl>'
    if "oracle" not in run.models:
        body += page.paragraphs(
            "There is no oracle (the network trained anew without the forget set) in this run, so "
            "that the target of most numbers is not known."
        )
    images = run.scenario.get("images")
    if images:
        rows = [
            [words.SPLITS[split].capitalize(), Cell(f"{count:,}", count)]
            for split, count in images.items()
        ]
        columns = [Column("Images"), Column("Number", numeric=True)]
        body += f'<div class="narrow">{page.table("Images used", columns, rows)}</div>'
    return Section("models", "What was compared", body)


def _numbers(run: Run) -> Section:
    models = list(run.models)
    both = {"oracle", "unlearned"} <= set(models)
    columns = [Column("Number"), *(Column(m, numeric=True) for m in models)]
    columns += [Column("difference to oracle", numeric=True)] if both else []
    columns.append(Column("unlearned should be close to"))
    rows = []
    for label, key, digits, goal in table.rows(run.points, run.forget):
        values = {m: run.models[m].get(key) for m in models}
        if all(v is None for v in values.values()):
            continue
        row = [label, *(page.number(values[m], digits) for m in models)]
        if both:
            known = goal == table.ORACLE and None not in (values["unlearned"], values["oracle"])
            apart = values["unlearned"] - values["oracle"] if known else None
            row.append(page.number(apart, digits, sign=True))
        rows.append([*row, goal])
    body = page.paragraphs(
        "The target is the oracle's number, not zero: a network that never saw a class still "
        "describes its images somehow. Percentages are of images, CKA is from 0 to 1."
    )
    body += page.table("Original, oracle and unlearned model", columns, rows)
    body += _not_measured(run)
    body += page.collapsible("What each number means", page.definitions(_meanings(run)))
    return Section("numbers", "The numbers", body)


def _metrics_of(run: Run) -> set[str]:
    return {key.partition("/")[0] for values in run.models.values() for key in values}


def _not_measured(run: Run) -> str:
    absent = [name for metric, (name, _) in words.METRICS.items() if metric not in _metrics_of(run)]
    return sections.missing(f"{', '.join(absent)}:") if absent else ""


def _meanings(run: Run) -> list[tuple[str, str]]:
    found = _metrics_of(run)
    return [told for metric, told in words.METRICS.items() if metric in found]


def _everything(run: Run) -> Section:
    keys = dict.fromkeys(key for values in run.models.values() for key in values)
    columns = [Column("Key"), *(Column(m, numeric=True) for m in run.models)]
    rows = [[key, *(page.number(v.get(key), 4) for v in run.models.values())] for key in keys]
    found = page.table(
        "Keys as in the JSON file beside this page; docs/metrics.md defines them", columns, rows
    )
    body = page.collapsible(f"{len(keys)} numbers a model", found)
    return Section("everything", "Every number", body)


# How it was made.


def _rerun(run: Run) -> Section:
    command = run.details.get("command")
    body = page.paragraphs("The same command, versions and devices give the same numbers.")
    body += (
        f"<pre><code>{escape(command)}</code></pre>"
        if command
        else page.paragraphs("The command was not recorded.")
    )
    columns = [Column("Field"), Column("Value")]
    fields = [[name, str(value)] for name, value in flatten(run.config).items()]
    body += (
        page.collapsible("The config", page.table("The config as resolved", columns, fields))
        if fields
        else page.paragraphs("The config was not recorded.")
    )
    found = run.details.get("environment") or {}
    facts = [
        [k.capitalize(), str(found[k])] for k in ("python", "platform", "devices") if k in found
    ]
    facts += [[name, str(version)] for name, version in (found.get("packages") or {}).items()]
    columns = [Column("Part"), Column("Version")]
    body += (
        page.collapsible("The environment", page.table("Where it ran", columns, facts))
        if facts
        else page.paragraphs("The environment was not recorded.")
    )
    return Section("rerun", "How to run it again", body)


def _certificate(found: Mapping[str, Any]) -> Section:
    body = page.paragraphs(
        "Which model was made from which data, by the digests (SHA-256) that the run recorded. "
        "They show a later change of one part; they are not signed, and prove nothing against "
        "someone who writes all parts anew."
    )
    body += '<p>In full: <a href="certificate.json">certificate.json</a>, made of events.jsonl; '
    body += "verified by <code>python -m ec_jax.audit --verify FOLDER</code>.</p>"
    rows = [
        [f"{words.SPLITS[split].capitalize()}, {part['images']:,} images", part["sha256"]]
        for split, part in (found["data"] or {}).items()
    ]
    rows += [
        [f"Parameters of the {name} model", model["parameters"]]
        for name, model in found["models"].items()
    ]
    rows.append(["Metrics, on which the verdict rests", found["metrics"]["sha256"] or "–"])
    columns = [Column("What"), Column("SHA-256")]
    body += page.collapsible("The digests", page.table("What was recorded", columns, rows))
    return Section("certificate", "The record", body)


def _glossary() -> Section:
    items = "".join(
        f"<div><dt>{escape(term)}</dt><dd>{escape(meaning)}</dd></div>"
        for term, meaning in words.GLOSSARY.items()
    )
    return Section("glossary", "Glossary", f'<dl class="glossary">{items}</dl>')
