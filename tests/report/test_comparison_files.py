"""The files of a comparison, read back; and the page in a browser."""

import csv
import json
import re
import statistics

import markup
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from runs import DIGITS, FASHION, metrics, put

from ec_jax.errors import InputError
from ec_jax.report import comparison_files

TEXTS = {"compare.html", "metrics.csv", "table.csv", "table.md", "table.tex"}
PLOTS = {"forgetting_retention", "gaps", "cka_to_original", "cka_to_oracle", "knn", "probe"}
NASTY = "<b>&_%{x}"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The published digits runs and one of a method with a name that is markup."""
    folder = tmp_path_factory.mktemp("out")
    other = put(folder / "other", metrics(0, method=NASTY), method="ec")
    comparison_files.write([*map(str, DIGITS), other], str(folder / "compared"))
    return folder / "compared"


def table(out, name):
    with (out / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_what_is_left(out):
    assert {p.name for p in out.iterdir()} == TEXTS | {f"{name}.png" for name in PLOTS}
    for name in PLOTS:
        with Image.open(out / f"{name}.png") as picture:
            assert picture.width > 800


def test_metrics_csv_holds_every_number_of_every_run(out):
    rows = table(out, "metrics.csv")
    assert list(rows[0]) == ["scenario", "method", "label", "seed", "model", "key", "value"]
    found = {(r["label"], r["seed"], r["model"], r["key"]): float(r["value"]) for r in rows}
    assert len(found) == len(rows)
    expected = {}
    for label, sources in (("ec", DIGITS), (NASTY, DIGITS[:1])):
        for seed, source in enumerate(sources):
            run = json.loads(source.read_text())
            for model, numbers in run["models"].items():
                expected |= {(label, str(seed), model, k): v for k, v in numbers.items()}
            for stage, cost in run["cost"].items():
                expected |= {(label, str(seed), stage, f"cost/{k}"): v for k, v in cost.items()}
    assert found == expected


def test_table_csv_holds_means_and_deviations(out):
    rows = {row["label"]: row for row in table(out, "table.csv")}
    assert list(rows) == ["original", "oracle", "ec", NASTY]
    key = "cka_to_oracle/forget_test/stage4"
    values = [json.loads(f.read_text())["models"]["unlearned"][key] for f in DIGITS]
    assert float(rows["ec"][f"{key} mean"]) == pytest.approx(statistics.mean(values))
    assert float(rows["ec"][f"{key} deviation"]) == pytest.approx(statistics.stdev(values))
    assert rows[NASTY][f"{key} deviation"] == ""
    assert (rows["ec"]["n"], rows["ec"]["seeds"]) == ("3", "0 1 2")
    assert sum(int(n) for n in re.findall(r"(\d)/3", rows["ec"]["verdict"])) == 3
    assert rows["original"]["verdict"] == ""
    assert rows["original"]["cost/steps mean"] == ""


def test_markdown_and_latex_hold_the_same_cells(out):
    md, tex = ((out / name).read_text(encoding="utf-8") for name in ("table.md", "table.tex"))
    rows = [line for line in md.splitlines() if line.startswith("| ec |")]
    assert len(rows) == 5
    for line in rows:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert " & ".join(cells).replace("±", r"$\pm$").replace("–", "--") + r" \\" in tex
    assert r"| \<b\>&\_%{x} |" in md
    assert r"\textless{}b\textgreater{}\&\_\%\{x\} & " in tex
    for name in PLOTS:
        assert f"]({name}.png)" in md


def test_the_page_holds_the_same_numbers_as_the_table(out):
    tree = markup.parse((out / "compare.html").read_text(encoding="utf-8"))
    head, *body = tree.all("table")[0].cells()
    rows = {cells[0]: dict(zip(head, cells, strict=True)) for cells in body}
    values = {row["label"]: row for row in table(out, "table.csv")}
    for label, row in rows.items():
        shown = row["accuracy (%), retain, test"].partition(" ")[0]
        assert float(shown) == pytest.approx(
            float(values[label]["accuracy/retain_test mean"]), abs=0.051
        )
    assert set(rows) == {"original", "oracle", "ec", NASTY}
    assert len(tree.all("svg", role="img")) == len(PLOTS)
    every = tree.all("table")[-1].cells()
    assert len(every) - 1 >= len(metrics()["models"]["unlearned"])


def test_several_scenarios_are_sections_that_share_nothing(tmp_path):
    said = comparison_files.write(
        [str(DIGITS[0]), str(FASHION[0])], str(tmp_path / "o"), by_scenario=True
    )
    assert said.endswith("runs 2, methods 2, scenarios 2")
    tree = markup.parse((tmp_path / "o" / "compare.html").read_text(encoding="utf-8"))
    sections = tree.all("section")
    assert [s.all("h2")[0].text.partition(",")[0] for s in sections] == ["digits", "fashion_mnist"]
    names = [e.attributes["id"] for e in tree.all() if "id" in e.attributes]
    assert len(names) == len(set(names))
    pictures = {p.name for p in (tmp_path / "o").glob("*.png")}
    assert pictures == {f"scenario{i}_{name}.png" for i in (1, 2) for name in PLOTS}
    assert {row["scenario"].partition(",")[0] for row in table(tmp_path / "o", "table.csv")} == {
        "digits",
        "fashion_mnist",
    }
    # A smaller comparison in the same place leaves nothing of the larger one.
    comparison_files.write([str(DIGITS[0])], str(tmp_path / "o"))
    assert {p.name for p in (tmp_path / "o").iterdir()} == TEXTS | {f"{n}.png" for n in PLOTS}


def test_the_same_runs_give_the_same_files(out, tmp_path):
    sources = [*map(str, DIGITS), str(out.parent / "other")]
    comparison_files.write(sources, str(tmp_path))
    for path in out.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


# Where it goes.


def test_foreign_files_are_neither_touched_nor_in_the_way(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    comparison_files.write([str(DIGITS[0])], str(tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["table.md", "compare.html", "gaps.png", "scenario2_knn.png"])
def test_a_foreign_file_with_a_name_of_ours_is_not_overwritten(name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=rf"--out = .*holds a {name} that no comparison left"):
        comparison_files.write([str(DIGITS[0])], str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


# The page in a browser.


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_asks_for_nothing_and_is_accessible(out, show, theme):
    shown = show((out / "compare.html").read_text(encoding="utf-8"), color_scheme=theme)
    assert shown.requests == [shown.address]
    assert shown.messages == []  # nor does its own policy forbid anything that it holds
    shown.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    found = Axe().run(shown).response
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found["violations"]] == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_drawings_take_the_colours_of_the_page(out, show, theme):
    shown = show((out / "compare.html").read_text(encoding="utf-8"), color_scheme=theme)
    fill = "(e) => getComputedStyle(e).fill"
    text = shown.locator("figure svg text").first.evaluate(fill)
    assert text == shown.evaluate("getComputedStyle(document.body).color")
    oracle = shown.locator("figure svg [stroke='var(--oracle)']").first
    stroke = oracle.evaluate("(e) => getComputedStyle(e).stroke")
    assert stroke == {"light": "rgb(0, 114, 178)", "dark": "rgb(86, 180, 233)"}[theme]


def test_methods_are_sorted_by_a_click(out, show):
    shown = show((out / "compare.html").read_text(encoding="utf-8"))
    table = shown.locator("table").first
    table.get_by_role("button", name="accuracy (%), forget, test").click()
    table.get_by_role("button", name="accuracy (%), forget, test").click()
    assert table.locator("tbody th").first.inner_text() == "original"
