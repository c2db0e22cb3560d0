"""The files of a comparison: a page, tables for spreadsheets and papers, plots."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ec_jax import workdir as workdir_lib
from ec_jax.errors import InputError
from ec_jax.report import comparison as comparison_lib
from ec_jax.report import comparison_page, markup, tradeoff
from ec_jax.report import runs as runs_lib
from ec_jax.report.comparison import Comparison, cells, head, titles
from ec_jax.report.tradeoff import Plot

PAGE = "compare.html"
_NAMES = (PAGE, "metrics.csv", "table.csv", "table.md", "table.tex")


def write(sources: Sequence[str], out: str | None, *, by_scenario: bool = False) -> str:
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
    found = comparison_lib.compare([runs_lib.read(s) for s in sources], by_scenario=by_scenario)
    files = _files(found)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            workdir_lib.write_whole(folder / name, lambda part, c=content: part.write_bytes(c))
        for name in old - files.keys():
            (folder / name).unlink()
    except OSError as error:
        remedy = f"cannot be written ({error.strerror}); choose another folder"
        raise InputError("--out", out, remedy) from error
    methods = sum(len(comparison.groups) for comparison in found)
    notes = [f"note: {note}" for comparison in found for note in comparison.notes]
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
    if mine and comparison_page.MARK not in text:
        remedy = f"holds a {min(mine)} that no comparison left; choose another folder"
        raise InputError("--out", str(folder), remedy)
    return mine


def _is_plot(name: str) -> bool:
    names = "|".join((*tradeoff.TRADE_OFFS, *tradeoff.STAGES))
    return bool(re.fullmatch(rf"(scenario\d+_)?({names})\.png", name))


def _files(found: Sequence[Comparison]) -> dict[str, bytes]:
    """{name: content}; the page first, as it is the mark of the others."""
    plots = [tradeoff.plots(comparison) for comparison in found]
    names = [_file_names(i, mine, len(found)) for i, mine in enumerate(plots)]
    texts = {
        PAGE: comparison_page.document(found, plots),
        "metrics.csv": _metrics_csv(found),
        "table.csv": _table_csv(found),
        "table.md": _table_md(found, plots, names),
        "table.tex": _table_tex(found),
    }
    files = {name: text.encode(errors="backslashreplace") for name, text in texts.items()}
    for mine, own in zip(plots, names, strict=True):
        for name, plot in mine.items():
            files[own[name]] = tradeoff.png(plot)
    return files


def _file_names(i: int, plots: Mapping[str, Plot], count: int) -> dict[str, str]:
    start = f"scenario{i + 1}_" if count > 1 else ""
    return {name: f"{start}{name}.png" for name in plots}


# Files of text.


def _metrics_csv(found: Iterable[Comparison]) -> str:
    """Every number of every run, one a line; of a cost the model is the stage."""
    top = ["scenario", "method", "label", "seed", "model", "key", "value"]
    return markup.to_csv(top, _every_number(found))


def _every_number(found: Iterable[Comparison]) -> Iterable[list[Any]]:
    for comparison in found:
        for group in comparison.groups:
            for run in group.runs:
                start = [comparison.name, run.method, group.label, run.seed]
                for model, numbers in run.models.items():
                    yield from ([*start, model, key, value] for key, value in numbers.items())
                for stage, spent in run.cost.items():
                    yield from ([*start, stage, f"cost/{u}", v] for u, v in spent.items())


def _table_csv(found: Iterable[Comparison]) -> str:
    """The tables with all decimals, mean and deviation apart, one row a method."""
    found = list(found)
    keys = dict.fromkeys(c.key for s in found for table in s.tables for c in table.columns)
    top = ["scenario", "label", "n", "seeds", "verdict"]
    top += [f"{key} {what}" for key in keys for what in ("mean", "deviation")]
    rows = []
    for comparison in found:
        for row in comparison.rows:
            seeds = " ".join(map(str, row.seeds))
            start: list[Any] = [comparison.name, row.label, len(row.numbers), seeds, row.verdict()]
            for spread in map(row.spread, keys):
                start += [spread.mean, spread.deviation] if spread else [None, None]
            rows.append(start)
    return markup.to_csv(top, rows)


def _table_md(
    found: Sequence[Comparison],
    plots: Sequence[Mapping[str, Plot]],
    names: Sequence[Mapping[str, str]],
) -> str:
    escape = markup.markdown_escape
    parts = [f"# Comparison\n\n{escape(comparison_page.LEAD)} {comparison_page.COST}\n"]
    for comparison, mine, own in zip(found, plots, names, strict=True):
        parts.append(f"## {escape(comparison.name)}\n")
        parts += [f"- {escape(note)}" for note in comparison.notes]
        parts += [""] if comparison.notes else []
        for table in comparison.tables:
            top = list(map(escape, titles(table)))
            right = [False] * (1 + table.verdicts) + [True] * (1 + len(table.columns))
            rows = [[escape(cell.text) for cell in cells(row, table)] for row in comparison.rows]
            parts.append(f"{table.title}\n\n{markup.markdown(top, right, rows)}")
        parts += [f"![{plot.title}]({own[name]})\n" for name, plot in mine.items()]
    return "\n".join(parts)


def _table_tex(found: Iterable[Comparison]) -> str:
    parts = ["% Needs \\usepackage{booktabs}.\n"]
    for comparison in found:
        for table in comparison.tables:
            rows = [[cell.text for cell in cells(row, table)] for row in comparison.rows]
            caption = f"{comparison.name}. {table.title}, mean ± standard deviation over n seeds."
            parts.append(markup.latex(caption, head(table), rows, words=1 + table.verdicts))
    return "\n".join(parts)
