"""The files of a comparison: a page, tables for spreadsheets and papers, plots."""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ec_jax import workdir as workdir_lib
from ec_jax.errors import InputError
from ec_jax.report import inline, markup, page, styles, tradeoff
from ec_jax.report import runs as runs_lib
from ec_jax.report.comparison import Row, Section, Table, judged, numbers_of, sections
from ec_jax.report.tradeoff import Plot

PAGE = "compare.html"
_MARK = "python -m ec_jax.compare"  # by which a page of ours is known
_NAMES = (PAGE, "metrics.csv", "table.csv", "table.md", "table.tex")
_LEAD = (
    "Every method is compared with the oracle, a network that never saw what was to be forgotten. "
    "The target of every number is the oracle's, not zero. Cells are the mean ± the standard "
    "deviation over n seeds; with one seed there is no ±."
)
_ALWAYS = "Shares of the oracle's cost count the training of a method's modules, too."
# The page's own colours in the place of the plots': text, lines around marks, references.
_COLOURS = {
    tradeoff.INK: "currentColor",
    "#ffffff": "var(--page)",
    **{s.light.lower(): f"var(--{m})" for m, s in styles.MODELS.items() if m != "unlearned"},
}

Writer = Callable[[Path], Any]


def compare(sources: Sequence[str], out: str | None, *, by_scenario: bool = False) -> str:
    """Reads runs and writes their comparison, all of it or, for input that cannot be, nothing.

    Args:
      sources: run folders, or files of metrics.
      out: the folder for the files; it may hold an older comparison, which is replaced.
      by_scenario: runs of several scenarios get a section each; otherwise they are refused.

    Returns:
      What was done, and what must be known of it, in a line each.

    Raises:
      InputError: what cannot be read, compared or written.
    """
    if not sources:
        raise InputError("RUN_DIR", None, "give the workdirs of the runs to compare")
    if not out:
        raise InputError("--out", out, "give a folder for the result, e.g. --out=runs/comparison")
    folder = Path(out).expanduser()
    old = _old_files(folder)
    found = sections([runs_lib.read(s) for s in sources], by_scenario=by_scenario)
    files = _files(found)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in files.items():
            workdir_lib.write_whole(folder / name, write)
        for name in old - files.keys():
            (folder / name).unlink()
    except OSError as error:
        remedy = f"cannot be written ({error.strerror}); choose another folder"
        raise InputError("--out", out, remedy) from error
    methods = sum(len(section.groups) for section in found)
    notes = [f"note: {note}" for section in found for note in section.notes]
    done = f"{folder / PAGE}: runs {len(sources)}, methods {methods}, scenarios {len(found)}"
    return "\n".join([*notes, done])


def _old_files(folder: Path) -> set[str]:
    """The names of an older comparison in the folder.

    Raises:
      InputError: nothing can be written there, or files have the names of ours and are not.
    """
    there = workdir_lib.contents(folder, field="--out")
    mine = {name for name in there if name in _NAMES or _is_plot(name)}
    text = (folder / PAGE).read_text("utf-8", "replace") if (folder / PAGE).is_file() else ""
    if mine and _MARK not in text:
        remedy = f"holds a {min(mine)} that no comparison left; choose another folder"
        raise InputError("--out", str(folder), remedy)
    return mine


def _is_plot(name: str) -> bool:
    names = "|".join((*tradeoff.TRADE_OFFS, *tradeoff.STAGES))
    return bool(re.fullmatch(rf"(scenario\d+_)?({names})\.png", name))


def _files(found: Sequence[Section]) -> dict[str, Writer]:
    """{name: what writes it}, all computed; the page first, as it is the mark of the others."""
    plots = [tradeoff.plots(section) for section in found]
    names = [_file_names(i, mine, len(found)) for i, mine in enumerate(plots)]
    texts = {
        PAGE: _page(found, plots),
        "metrics.csv": _metrics_csv(found),
        "table.csv": _table_csv(found),
        "table.md": _table_md(found, plots, names),
        "table.tex": _table_tex(found),
    }
    files: dict[str, Writer] = {n: functools.partial(_write, text) for n, text in texts.items()}
    for mine, own in zip(plots, names, strict=True):
        for name, plot in mine.items():
            files[own[name]] = functools.partial(plot.figure.savefig, dpi=160, format="png")
    return files


def _file_names(i: int, plots: Mapping[str, Plot], count: int) -> dict[str, str]:
    start = f"scenario{i + 1}_" if count > 1 else ""
    return {name: f"{start}{name}.png" for name in plots}


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8", newline="")


# Cells.


def _head(table: Table) -> list[tuple[str, list[str]]]:
    """[(group, titles)] of a table's columns, the row's name and n first."""
    head = [("", ["", "n", *(["verdict"] if table.verdicts else [])])]
    for column in table.columns:
        if head[-1][0] == column.group:
            head[-1][1].append(column.title)
        else:
            head.append((column.group, [column.title]))
    return head


def _titles(table: Table) -> list[str]:
    """The same in one line each."""
    return [_title(group, title) for group, titles in _head(table) for title in titles]


def _title(group: str, title: str) -> str:
    between = " " if title.startswith("(") else ", "
    return between.join(filter(None, (group, title)))


def _cells(row: Row, table: Table) -> list[page.Cell]:
    first = [page.Cell(row.label), page.Cell(str(len(row.numbers)), len(row.numbers))]
    verdict = [page.Cell(row.verdict() or page.MISSING.text)] if table.verdicts else []
    return first + verdict + [_cell(row.spread(c.key), c.digits) for c in table.columns]


def _cell(spread: Any, digits: int) -> page.Cell:
    return page.Cell(spread.plus_minus(digits), spread.mean) if spread else page.MISSING


def _words(table: Table) -> int:
    return 3 if table.verdicts else 2


# Files of text.


def _metrics_csv(found: Iterable[Section]) -> str:
    """Every number of every run, one a line; of a cost the model is the stage."""
    head = ["scenario", "method", "label", "seed", "model", "key", "value"]
    return markup.to_csv(head, _every_number(found))


def _every_number(found: Iterable[Section]) -> Iterable[list[Any]]:
    for section in found:
        for group in section.groups:
            for run in group.runs:
                start = [section.name, run.method, group.label, run.seed]
                for model, numbers in run.models.items():
                    yield from ([*start, model, key, value] for key, value in numbers.items())
                for stage, spent in run.cost.items():
                    yield from ([*start, stage, f"cost/{u}", v] for u, v in (spent or {}).items())


def _table_csv(found: Iterable[Section]) -> str:
    """The tables with all decimals, mean and deviation apart, one row a method."""
    found = list(found)
    keys = dict.fromkeys(c.key for s in found for table in s.tables for c in table.columns)
    head = ["scenario", "label", "n", "seeds", "verdict"]
    head += [f"{key} {what}" for key in keys for what in ("mean", "deviation")]
    rows = []
    for section in found:
        for row in section.rows:
            seeds = " ".join(map(str, row.seeds))
            start: list[Any] = [section.name, row.label, len(row.numbers), seeds, row.verdict()]
            for spread in map(row.spread, keys):
                start += [spread.mean, spread.deviation] if spread else [None, None]
            rows.append(start)
    return markup.to_csv(head, rows)


def _table_md(
    found: Sequence[Section],
    plots: Sequence[Mapping[str, Plot]],
    names: Sequence[Mapping[str, str]],
) -> str:
    escape = markup.markdown_escape
    parts = [f"# Comparison\n\n{escape(_LEAD)} {_ALWAYS}\n"]
    for section, mine, own in zip(found, plots, names, strict=True):
        parts.append(f"## {escape(section.name)}\n")
        parts += [f"- {escape(note)}" for note in section.notes]
        parts += [""] if section.notes else []
        for table in section.tables:
            head = list(map(escape, _titles(table)))
            right = [False, True, *[False] * table.verdicts, *[True] * len(table.columns)]
            rows = [[escape(cell.text) for cell in _cells(row, table)] for row in section.rows]
            parts.append(f"{table.title}\n\n{markup.markdown(head, right, rows)}")
        parts += [f"![{plot.title}]({own[name]})\n" for name, plot in mine.items()]
    return "\n".join(parts)


def _table_tex(found: Iterable[Section]) -> str:
    parts = ["% Needs \\usepackage{booktabs}.\n"]
    for section in found:
        for table in section.tables:
            rows = [[cell.text for cell in _cells(row, table)] for row in section.rows]
            caption = f"{section.name}. {table.title}, mean ± standard deviation over n seeds."
            parts.append(markup.latex(caption, _head(table), rows, words=_words(table)))
    return "\n".join(parts)


# The page.


def _page(found: Sequence[Section], plots: Sequence[Mapping[str, Plot]]) -> str:
    made = []
    for i, (section, mine) in enumerate(zip(found, plots, strict=True)):
        start = f"s{i + 1}-"
        parts = _parts(section, mine, start)
        if len(found) == 1:
            made += [page.Section(f"{start}{id_}", title, body) for id_, title, body in parts]
        else:
            body = "\n".join(f"<h3>{page.escape(title)}</h3>\n{body}" for _, title, body in parts)
            made.append(page.Section(f"{start}all", section.name, body))
    title = "Methods compared" if len(found) > 1 else f"Methods compared: {found[0].name}"
    return page.document(title, made, lead=f"{_LEAD} Made by {_MARK}.")


def _parts(section: Section, plots: Mapping[str, Plot], start: str) -> list[tuple[str, str, str]]:
    """[(id, title, markup)] of a scenario's parts."""
    notes = "".join(f"<li>{page.escape(note)}</li>" for note in section.notes)
    tables = "".join(_html_table(table, section.rows) for table in section.tables)
    found = [("table", "The methods", f"<ul>{notes}</ul>{tables}" if notes else tables)]
    for id_, title, names in (
        ("trade-offs", "Trade-offs", tradeoff.TRADE_OFFS),
        ("stages", "Stage by stage", tradeoff.STAGES),
    ):
        drawn = [_figure(f"{start}{n}", plots[n]) for n in names if n in plots]
        if drawn:
            found.append((id_, title, page.panels(*drawn)))
    found.append(("runs", "The runs", _runs(section)))
    found.append(("numbers", "Every number", _everything(section)))
    return found


def _html_table(table: Table, rows: Sequence[Row]) -> str:
    titles, words = _titles(table), {0, 2} if table.verdicts else {0}
    columns = [page.Column(title or "method", i not in words) for i, title in enumerate(titles)]
    return page.table(table.title, columns, [_cells(row, table) for row in rows])


def _figure(name: str, plot: Plot) -> str:
    return page.figure(inline.svg(plot.figure, name, _COLOURS), plot.caption, plot.alt)


def _runs(section: Section) -> str:
    keys = {"accuracy/forget_test": 1, "accuracy/retain_test": 1}
    keys |= {"gap/logit": 1, "gap/representation": 3}
    columns = [page.Column("run"), page.Column("method"), page.Column("seed", True)]
    columns += [page.Column("verdict"), *(page.Column(key, True) for key in keys)]
    rows = []
    for group in section.groups:
        for run in group.runs:
            numbers = run.models["unlearned"]
            cells = [page.number(numbers.get(key), digits) for key, digits in keys.items()]
            seed = page.Cell(str(run.seed), run.seed)
            rows.append([run.source, group.label, seed, judged(run), *cells])
    return page.table("One row a run; the numbers are the unlearned model's.", columns, rows)


def _everything(section: Section) -> str:
    spreads = [numbers_of(row) for row in section.rows]
    keys = dict.fromkeys(key for found in spreads for key in found)
    columns = [page.Column("key"), *(page.Column(row.label, True) for row in section.rows)]
    rows = [[key, *(_cell(found.get(key), 3) for found in spreads)] for key in keys]
    caption = "Keys as in metrics.json; those of cost are percent of the oracle's."
    return page.collapsible(f"{len(keys)} numbers", page.table(caption, columns, rows))
