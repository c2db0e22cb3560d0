"""The frame of every page: markup, policy, tables, and the same in a real browser."""

import base64
import hashlib
import re

import markup
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec_jax.report import page
from ec_jax.report.page import Cell, Column, Section

COLUMNS = [Column("Name"), Column("Number", numeric=True), Column("Word")]
ROWS = [
    ["b10", Cell("9.0", 9.0), "pear"],
    ["b9", page.MISSING, "–"],
    ["a", Cell("−1.0", -1.0), "Apple"],
    ["c", Cell("10,000", 1e4), "fig"],
]
NASTY = "<script>alert(1)</script> & \"q\" 'a'"


def whole(*bodies, lead=""):
    sections = [Section(f"s{i}", f"Part {i}", body) for i, body in enumerate(bodies)]
    return page.document("A title", sections, lead=lead)


# Markup.


def test_a_document_has_its_parts_in_order():
    tree = markup.parse(whole("<p>one</p>", "<p>two</p>", lead="What it is."))
    (html,) = tree.all("html")
    assert html.attributes["lang"] == "en"
    assert [h.text for h in tree.all("title") + tree.all("h1")] == ["A title", "A title"]
    assert [h.text for h in tree.all("h2")] == ["Part 0", "Part 1"]
    links = [a.attributes["href"] for a in tree.all("nav")[0].all("a")]
    assert links == [f"#{h.attributes['id']}" for h in tree.all("h2")]
    assert tree.all("header")[0].all("p")[0].text == "What it is."
    assert tree.all("a", class_="skip")[0].attributes["href"] == "#content"
    assert tree.all("main", id="content")


def test_the_policy_allows_the_style_and_the_script_of_the_page_and_nothing_else():
    tree = markup.parse(whole(""))
    (meta,) = tree.all("meta", **{"http-equiv": "Content-Security-Policy"})
    policy = dict(part.split(" ", 1) for part in meta.attributes["content"].split("; "))
    assert policy["default-src"] == "'none'"
    for tag, name in (("style", "style-src"), ("script", "script-src")):
        (element,) = tree.all(tag)
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert policy[name] == f"'sha256-{digest}'"


def test_text_is_escaped_wherever_it_goes():
    cells = page.table(NASTY, [Column(NASTY)], [[NASTY]])
    drawn = page.figure("<svg></svg>", NASTY, NASTY, NASTY)
    body = cells + drawn + page.paragraphs(NASTY) + page.collapsible(NASTY, "")
    tree = markup.parse(page.document(NASTY, [Section("a", NASTY, body)], lead=NASTY))
    assert len(tree.all("script")) == 1
    for tag in ("title", "h1", "h2", "caption", "b", "span", "summary"):
        assert tree.all(tag)[0].text == NASTY
    assert [cell.text for cell in tree.all("th")] == [NASTY, NASTY]
    assert tree.all("svg")[0].attributes["aria-label"] == NASTY
    assert tree.all("div", class_="scroll")[0].attributes["aria-label"] == NASTY


@given(st.text())
def test_escaping_loses_nothing(text):
    tree = markup.parse(f'<p title="{page.escape(text)}">{page.escape(text)}</p>')
    (element,) = tree.all("p")
    assert element.text == text
    assert element.attributes["title"] == text


def test_a_table_says_what_its_cells_are():
    tree = markup.parse(page.table("What", COLUMNS, ROWS))
    assert tree.all("caption")[0].text == "What"
    assert [c.text for c in tree.all("th", scope="col")] == ["Name", "Number", "Word"]
    assert [c.text for c in tree.all("th", scope="row")] == ["b10", "b9", "a", "c"]
    values = [c.attributes.get("data-value") for c in tree.all("td", class_="number")]
    assert values == ["9.0", None, "-1.0", "10000.0"]
    assert tree.all("div", class_="scroll")[0].attributes["tabindex"] == "0"


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="zip"):
        page.table("What", COLUMNS, [["a", "b"]])


def test_what_is_no_drawing_is_refused():
    with pytest.raises(ValueError, match=r"'<p>' is no drawing"):
        page.figure("<p>", "", "")


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (1.25, False, "1.2"),
        (-0.3, False, "−0.3"),
        (0.3, True, "+0.3"),
        (-0.04, True, "0.0"),
        (None, False, "–"),
        (float("nan"), False, "not finite"),
        (float("inf"), True, "not finite"),
    ],
)
def test_numbers_as_they_are_shown(value, sign, text):
    assert page.number(value, 1, sign=sign).text == text


def test_the_page_takes_every_colour_of_its_style_from_one_place():
    (style,) = markup.parse(whole("")).all("style")
    used, made = (set(re.findall(p, style.text)) for p in (r"var\((--\w+)\)", r"(--[\w-]+):"))
    assert used <= made


# In a browser.


def order(shown):
    return shown.locator("tbody th").all_inner_texts()


def states(shown):
    return [th.get_attribute("aria-sort") for th in shown.locator("thead th").all()]


def test_a_click_sorts_up_then_down_then_as_it_was(show):
    shown = show(whole(page.table("What", COLUMNS, ROWS)))
    button = shown.get_by_role("button", name="Number")
    button.click()
    assert order(shown) == ["a", "b10", "c", "b9"]
    assert states(shown) == ["none", "ascending", "none"]
    button.click()
    assert order(shown) == ["c", "b10", "a", "b9"]  # no number: last again
    assert states(shown) == ["none", "descending", "none"]
    button.click()
    assert order(shown) == ["b10", "b9", "a", "c"]
    assert states(shown) == ["none", "none", "none"]


def test_the_keyboard_sorts_words_and_names_with_numbers(show):
    shown = show(whole(page.table("What", COLUMNS, ROWS)))
    shown.get_by_role("button", name="Name").focus()
    shown.keyboard.press("Enter")
    assert order(shown) == ["a", "b9", "b10", "c"]
    shown.keyboard.press("Tab")
    shown.keyboard.press("Tab")
    shown.keyboard.press("Space")
    assert order(shown) == ["a", "c", "b10", "b9"]  # Apple, fig, pear, a dash
    assert states(shown) == ["none", "none", "ascending"]


def test_equal_values_keep_their_order_and_tables_their_own(show):
    rows = [[name, Cell("1", 1.0), "x"] for name in "cab"]
    shown = show(whole(page.table("One", COLUMNS, rows) + page.table("Two", COLUMNS, rows)))
    shown.get_by_role("button", name="Number").first.click()
    assert order(shown) == [*"cab", *"cab"]
    shown.get_by_role("button", name="Name").last.click()
    assert order(shown) == [*"cab", *"abc"]


def test_a_table_that_is_not_sorted_has_no_buttons(show):
    shown = show(whole(page.table("What", COLUMNS, ROWS, sort=False)))
    assert shown.get_by_role("button").count() == 0


def test_without_a_script_the_table_is_a_table(show):
    shown = show(whole(page.table("What", COLUMNS, ROWS)), java_script_enabled=False)
    assert order(shown) == ["b10", "b9", "a", "c"]
    assert shown.get_by_role("button").count() == 0


def test_the_first_tab_leads_past_the_contents(show):
    shown = show(whole("<p>one</p>"))
    shown.keyboard.press("Tab")
    assert shown.locator(":focus").inner_text() == "Skip to the content"
    assert shown.locator(":focus").bounding_box()["x"] >= 0
    shown.keyboard.press("Enter")
    assert shown.evaluate("document.activeElement.id") == "content"


def test_what_the_page_is_not_made_of_is_not_run_and_not_fetched(show):
    intruder = (
        "<img src='http://127.0.0.1:9/a.png'><p style='color: red' onclick='document.title = 1'>x"
        "</p><script>document.title = 'taken over'</script>"
    )
    shown = show(whole(intruder))
    shown.get_by_text("x", exact=True).click()
    assert shown.title() == "A title"
    assert shown.evaluate("getComputedStyle(document.querySelector('main p')).color") != (
        "rgb(255, 0, 0)"
    )
    assert any("Content Security Policy" in message for message in shown.messages)
    # The picture is asked for by the page and refused by its policy before it is sent.
    assert not shown.evaluate("document.querySelector('main img').naturalWidth")
