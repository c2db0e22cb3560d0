"""Tables as Markdown, LaTeX and CSV: text in, text out."""

import csv
import io
from collections.abc import Iterable, Sequence

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{c: f"\\{c}" for c in "&%_#${}"},
        "±": r"$\pm$",
        "–": "--",
        "−": "$-$",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
)


def latex_escape(text: object) -> str:
    """Text as LaTeX shows it, also under its old font encoding; line breaks become spaces."""
    return " ".join(str(text).split()).translate(_LATEX)


def markdown_escape(text: object) -> str:
    """Text as Markdown shows it, also in a cell of a table; line breaks become spaces."""
    line = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|~$" else c for c in line)


def markdown(head: Sequence[str], right: Sequence[bool], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown.

    Args:
      head: titles of the columns.
      right: whether a column is set to the right.
      rows: one cell a column.

    All is Markdown already: ``markdown_escape`` is the caller's.
    """
    rule = ["---:" if r else "---" for r in right]
    lines = [" | ".join(cells) for cells in (head, rule, *rows)]
    return "".join(f"| {line} |\n" for line in lines).replace("|  |", "| |")


def latex(
    caption: str,
    groups: Sequence[tuple[str, Sequence[str]]],
    rows: Iterable[Sequence[str]],
    *,
    words: int,
) -> str:
    """A table for LaTeX with booktabs; everything given is text and is escaped here.

    Args:
      caption: above the table.
      groups: (title, titles of the columns under it), left to right; a title may be empty.
      rows: one cell a column.
      words: how many columns from the left hold words; the others hold numbers.
    """
    columns = [title for _, titles in groups for title in titles]
    spans, rules, at = [], [], 1
    for title, titles in groups:
        width = len(titles)
        spans.append(rf"\multicolumn{{{width}}}{{c}}{{{latex_escape(title)}}}" if title else "")
        spans[-1] += " &" * (width - 1) if not title else ""
        rules += [rf"\cmidrule(lr){{{at}-{at + width - 1}}}"] if title else []
        at += width
    lines = [
        r"\begin{table*}",
        r"\centering\small\setlength{\tabcolsep}{3.5pt}",
        rf"\caption{{{latex_escape(caption)}}}",
        rf"\begin{{tabular}}{{{'l' * words}{'r' * (len(columns) - words)}}}",
        r"\toprule",
        *([_latex_row(spans), "".join(rules)] if rules else []),
        _latex_row(map(latex_escape, columns)),
        r"\midrule",
        *(_latex_row(map(latex_escape, row)) for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join([*lines, ""])


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def to_csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Comma-separated values, after RFC 4180 but with bare line feeds; None is an empty cell.

    Text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in (head, *rows):
        writer.writerow([_csv_text(c) if isinstance(c, str) else c for c in row])
    return out.getvalue()


def _csv_text(text: str) -> str:
    # A lone carriage return would be taken for the end of a line.
    text = text.replace("\r", " ")
    # A spreadsheet reckons what begins so, and may call other programs.
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text
