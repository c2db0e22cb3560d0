"""``compare.html``: runs side by side on one page."""

from collections.abc import Mapping, Sequence

from ec_jax.report import inline, page, styles, tradeoff, words
from ec_jax.report.comparison import Comparison, Row, Table, cell, cells, judged, numbers_of, titles
from ec_jax.report.tradeoff import Plot

MARK = "python -m ec_jax.compare"  # by which a page of ours is known
LEAD = (
    "Every method is compared with the oracle, a network that never saw what was to be forgotten. "
    "The target of every number is the oracle's, not zero. Cells are the mean ± the standard "
    "deviation over n seeds; with one seed there is no ±. A dash: not measured in every run."
)
COST = "Shares of the oracle's cost count the training of a method's modules, too."
# The page's own colours in the place of the plots': text, lines around marks, references.
_COLOURS = {
    tradeoff.INK: "currentColor",
    "#ffffff": "var(--page)",
    **{s.light.lower(): f"var(--{m})" for m, s in styles.MODELS.items() if m != "unlearned"},
}


def document(found: Sequence[Comparison], plots: Sequence[Mapping[str, Plot]]) -> str:
    """The page.

    Args:
      found: a comparison a scenario, at least one.
      plots: of each, by name.

    Returns:
      HTML5.
    """
    made = []
    for i, (comparison, mine) in enumerate(zip(found, plots, strict=True)):
        start = f"s{i + 1}-"
        parts = _parts(comparison, mine, start)
        if len(found) == 1:
            made += [page.Section(f"{start}{id_}", title, body) for id_, title, body in parts]
        else:
            body = "\n".join(f"<h3>{page.escape(title)}</h3>\n{body}" for _, title, body in parts)
            made.append(page.Section(f"{start}all", comparison.name, body))
    title = "Methods compared" if len(found) > 1 else f"Methods compared: {found[0].name}"
    return page.document(title, made, lead=f"{LEAD} Made by {MARK}.")


def _parts(
    comparison: Comparison, plots: Mapping[str, Plot], start: str
) -> list[tuple[str, str, str]]:
    """[(id, title, markup)] of a scenario's parts."""
    notes = "".join(f"<li>{page.escape(note)}</li>" for note in comparison.notes)
    tables = "".join(_html_table(table, comparison.rows) for table in comparison.tables)
    found = [("table", "The methods", f"<ul>{notes}</ul>{tables}" if notes else tables)]
    for id_, title, names, note in (
        ("trade-offs", "Trade-offs", tradeoff.TRADE_OFFS, ""),
        ("stages", "Stage by stage", tradeoff.STAGES, page.paragraphs(tradeoff.STAGE_NOTE)),
    ):
        drawn = [_figure(f"{start}{n}", plots[n]) for n in names if n in plots]
        if drawn:
            found.append((id_, title, note + page.panels(*drawn, across=2)))
    found.append(("runs", "The runs", _runs(comparison)))
    found.append(("meanings", "What the numbers mean", _meanings(comparison)))
    found.append(("numbers", "Every number", _everything(comparison)))
    return found


def _html_table(table: Table, rows: Sequence[Row]) -> str:
    columns = [
        page.Column(title or "method", i > table.verdicts) for i, title in enumerate(titles(table))
    ]
    return page.table(table.title, columns, [cells(row, table) for row in rows])


def _figure(name: str, plot: Plot) -> str:
    return page.figure(inline.svg(plot.figure, name, _COLOURS), plot.title, plot.alt, plot.note)


def _runs(comparison: Comparison) -> str:
    keys = {"accuracy/forget_test": 1, "accuracy/retain_test": 1}
    keys |= {"gap/logit": 1, "gap/representation": 3}
    columns = [page.Column("run"), page.Column("method"), page.Column("seed", True)]
    columns += [page.Column("verdict"), *(page.Column(key, True) for key in keys)]
    rows = []
    for group in comparison.groups:
        for run in group.runs:
            numbers = run.models["unlearned"]
            cells = [page.number(numbers.get(key), digits) for key, digits in keys.items()]
            seed = page.Cell(str(run.seed), run.seed)
            rows.append([run.source, group.label, seed, judged(run), *cells])
    return page.table("One row a run; the numbers are the unlearned model's.", columns, rows)


def _meanings(comparison: Comparison) -> str:
    there = {key.partition("/")[0] for row in comparison.rows for key in numbers_of(row)}
    told = (told for metric, told in words.METRICS.items() if metric in there)
    return page.paragraphs(COST) + page.definitions(told)


def _everything(comparison: Comparison) -> str:
    spreads = [numbers_of(row) for row in comparison.rows]
    keys = dict.fromkeys(key for found in spreads for key in found)
    columns = [page.Column("key"), *(page.Column(row.label, True) for row in comparison.rows)]
    rows = [[key, *(cell(found.get(key), 3) for found in spreads)] for key in keys]
    caption = "Keys as in metrics.json; those of cost are percent of the oracle's."
    return page.collapsible(f"{len(keys)} numbers", page.table(caption, columns, rows))
