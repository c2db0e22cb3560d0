"""The frame of every page: one file that holds its own style and script and asks for nothing else.

Arguments called ``html`` or ``body`` are markup and are taken as they are; everything else is text
and is escaped here.
"""

import base64
import dataclasses
import functools
import hashlib
import html as html_lib
import math
from collections.abc import Iterable, Sequence
from importlib import resources

from ec_jax.report import styles


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page with a heading and an entry in its contents.

    Attributes:
      id: its anchor, unique on the page, of letters, digits and hyphens.
      title: text.
      body: markup.
    """

    id: str
    title: str
    body: str


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      title: text.
      numeric: set to the right.
    """

    title: str
    numeric: bool = False


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
      text: what is shown.
      value: what it is sorted by, where that is a number.
    """

    text: str
    value: float | None = None


MISSING = Cell("–")  # sorted last in both directions


def escape(text: object) -> str:
    """Text as markup, also inside an attribute in double quotes."""
    # A path may have bytes that are no text, and no page could be written with them.
    text = str(text).encode(errors="backslashreplace").decode()
    return html_lib.escape(text, quote=True)


def number(value: float | None, digits: int, *, sign: bool = False) -> Cell:
    """A number of so many decimals, with a sign if asked for; a dash for None."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return Cell("not finite")
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    if not text.strip("+-0."):  # a zero has no sign
        text = text.lstrip("+-")
    return Cell(text.replace("-", "−"), float(value))


def paragraphs(*texts: str) -> str:
    """Every text as a paragraph."""
    return "\n".join(f"<p>{escape(text)}</p>" for text in texts)


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell | str]],
    *,
    sort: bool = True,
) -> str:
    """A table in a frame that scrolls by itself where the window is narrow.

    Args:
      caption: what the table holds.
      columns: their titles; the first one names the rows.
      rows: one cell a column; a str is a cell of text.
      sort: the script makes buttons of the column titles.

    Raises:
      ValueError: a row has not one cell a column.
    """
    head = "".join(
        f'<th scope="col"{_numeric(column)}>{escape(column.title)}</th>' for column in columns
    )
    lines = [
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">',
        f"<table{' data-sortable' if sort else ''}>",
        f"<caption>{escape(caption)}</caption>",
        f"<thead><tr>{head}</tr></thead>",
        "<tbody>",
        *(_row(columns, row) for row in rows),
        "</tbody></table></div>",
    ]
    return "\n".join(lines)


def _row(columns: Sequence[Column], row: Sequence[Cell | str]) -> str:
    cells = [Cell(cell) if isinstance(cell, str) else cell for cell in row]
    markup = []
    for i, (column, cell) in enumerate(zip(columns, cells, strict=True)):
        tag = 'th scope="row"' if i == 0 else "td"
        value = "" if cell.value is None else f' data-value="{cell.value!r}"'
        markup.append(f"<{tag}{_numeric(column)}{value}>{escape(cell.text)}</{tag[:2]}>")
    return f"<tr>{''.join(markup)}</tr>"


def _numeric(column: Column) -> str:
    return ' class="number"' if column.numeric else ""


def figure(svg: str, caption: str, alt: str, note: str = "") -> str:
    """A drawing under its caption.

    Args:
      svg: markup that starts with ``<svg``.
      caption: text, a few words.
      alt: what the drawing shows, in words and numbers, for those who do not see it.
      note: text that goes on from the caption, less conspicuous.

    Raises:
      ValueError: ``svg`` does not start with ``<svg``.
    """
    start = "<svg"
    if not svg.startswith(start):
        raise ValueError(f"{svg[:20]!r} is no drawing: it should start with {start!r}")
    named = f'{start} role="img" aria-label="{escape(alt)}"{svg[len(start) :]}'
    below = f"<span>{escape(note)}</span>" if note else ""
    return f"<figure><figcaption><b>{escape(caption)}</b>{below}</figcaption>{named}</figure>"


def panels(*figures: str, across: int) -> str:
    """Figures side by side.

    Args:
      figures: markup.
      across: 2 or 3 of them in a row, fewer where the window is narrow.
    """
    return f'<div class="panels across-{across}">{"".join(figures)}</div>'


def collapsible(summary: str, body: str) -> str:
    """Markup that is shown on demand, and always in print."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def document(title: str, sections: Sequence[Section], *, lead: str = "") -> str:
    """A whole HTML5 page.

    Its style and its script are inside, known to the browser by their hashes; anything else, and
    any request, is forbidden by the page itself.

    Args:
      title: of the window, and the first heading.
      sections: in their order.
      lead: a sentence under the title.

    Returns:
      The page. The same arguments give the same text.
    """
    css, script = _css(), _asset("page.js")
    contents = "".join(f'<li><a href="#{s.id}">{escape(s.title)}</a></li>' for s in sections)
    policy = (
        f"default-src 'none'; style-src '{_hash(css)}'; script-src '{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            '<link rel="icon" href="data:,">',  # otherwise a server would be asked for one
            f"<style>{css}</style>",
            "</head>",
            "<body>",
            '<a class="skip" href="#content">Skip to the content</a>',
            f"<header><h1>{escape(title)}</h1>{paragraphs(lead) if lead else ''}</header>",
            f'<nav aria-label="Contents"><ol>{contents}</ol></nav>',
            '<main id="content" tabindex="-1">',
            *(_section(section) for section in sections),
            "</main>",
            f"<script>{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _section(section: Section) -> str:
    heading = f'<h2 id="{section.id}">{escape(section.title)}</h2>'
    return f'<section aria-labelledby="{section.id}">\n{heading}\n{section.body}\n</section>'


@functools.cache
def _asset(name: str) -> str:
    return resources.files("ec_jax.report").joinpath(name).read_text(encoding="utf-8")


def _css() -> str:
    named = {**styles.MODELS, "forget": styles.FORGET}
    light, dark = (
        "".join(f"--{name}:{getattr(style, theme)};" for name, style in named.items())
        for theme in ("light", "dark")
    )
    colours = (
        f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    )
    return colours + _asset("page.css")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def definitions(items: Iterable[tuple[str, str]]) -> str:
    """A list of (term, meaning)."""
    told = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in items)
    return f"<dl>{told}</dl>"
