"""Tables as text: what is special is escaped, and a reader of the format finds the cells again."""

import csv
import io
import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec_jax.report import markup


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a_b & 5 % #1 $x$ {y}", r"a\_b \& 5 \% \#1 \$x\$ \{y\}"),
        ("~^\\", r"\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("1 ± 2 – −3", r"1 $\pm$ 2 -- $-$3"),
        ("<a|b>", r"\textless{}a\textbar{}b\textgreater{}"),
        ("two\nlines", "two lines"),
    ],
)
def test_latex_escapes(text, says):
    assert markup.latex_escape(text) == says


@given(st.text("ab&%_#${}~^\\±–−<>| "))
def test_no_special_character_is_left_bare(text):
    bare = re.sub(r"\\([&%_#${}])", "", markup.latex_escape(text))
    bare = bare.replace(r"$\pm$", "").replace("$-$", "")
    bare = re.sub(r"\\text[a-z]+\{\}", "", bare)
    assert not set(bare) & set("&%_#${}~^\\")


def test_markdown_escapes():
    assert markup.markdown_escape("a_b|c*<d>") == r"a\_b\|c\*\<d\>"


def test_a_markdown_table_has_its_rule():
    found = markup.markdown(["", "n"], [False, True], [["a", "1"], ["b", "2"]])
    assert found == "| | n |\n| --- | ---: |\n| a | 1 |\n| b | 2 |\n"


GROUPS = [("", ["", "verdict"]), ("accuracy (%)", ["forget", "retain"]), ("gap", ["logits"])]
ROWS = [["a_b", "erased 2/3", "1.0 ± 0.1", "98.0", "–"], ["x&y", "", "0", "0", "0"]]


def test_a_latex_table_has_one_cell_a_column_in_every_line():
    found = markup.latex("5 % of it", GROUPS, ROWS, words=2)
    assert r"\caption{5 \% of it}" in found
    assert r"\begin{tabular}{llrrr}" in found
    inside = found.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
    lines = [line for line in inside.split("\n") if line.endswith(r"\\")]
    assert len(lines) == 4
    for line in lines:
        spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
        cells = len(re.findall(r"(?<!\\)&", line)) + 1
        assert cells + sum(n - 1 for n in spans) == 5, line
    rules = re.findall(r"\\cmidrule\(lr\)\{(\d+)-(\d+)\}", found)
    assert rules == [("3", "4"), ("5", "5")]


def test_latex_environments_and_braces_are_closed():
    found = markup.latex("c", GROUPS, ROWS, words=2)
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", found):
        stack.append(name) if kind == "begin" else stack.pop() == name or pytest.fail(name)
    assert stack == []
    bare = re.sub(r"\\[{}]", "", found)
    assert bare.count("{") == bare.count("}")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex on this machine")
def test_latex_compiles(tmp_path):
    table = markup.latex("~^\\ ± – − <|>", GROUPS, ROWS, words=2)
    start = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(f"{start}{table}\n\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@given(st.lists(st.tuples(st.text(), st.floats(allow_nan=False)), max_size=5))
def test_csv_is_read_back(rows):
    found = markup.to_csv(["text", "number"], rows)
    read = list(csv.reader(io.StringIO(found, newline="")))
    assert read[0] == ["text", "number"]
    kept = [(_kept(text), number) for text, number in rows]
    assert [(text, float(number)) for text, number in read[1:]] == kept


def _kept(text):
    return ("'" if text.startswith(tuple("=+-@\t")) else "") + text.replace("\r", " ")


def test_csv_has_nothing_for_none():
    assert markup.to_csv(["a", "b"], [[None, 1.5]]) == "a,b\n,1.5\n"
