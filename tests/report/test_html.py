"""The page of a run: what it says, what it says when something is missing, and how it looks."""

import copy
import json

import example_run
import markup
import pytest
from axe_playwright_python.sync_playwright import Axe

from configs import digits
from ec_jax import config as config_lib
from ec_jax.report import html, table

CONFIG = config_lib.resolved(digits.get_config())
NASTY = ["<script>alert(1)</script>", "a & b", 'say "hi"', "it's"]
FIGURES = ("layers", "features", "recovery", "stages", "embedding", "predictions", "cost")


def full():
    """Numbers of a published run."""
    return example_run.metrics()


NEWER = {  # numbers that the published runs are without
    "agreement/forget_test": (8.1, 100.0, 45.9),
    "closeness/original": (1.0, 0.712, 0.634),
    "closeness/oracle": (0.712, 1.0, 0.653),
}


def with_newer():
    """The same with every number that there may be."""
    metrics = full()
    for key, values in NEWER.items():
        for model, value in zip(("original", "oracle", "unlearned"), values, strict=True):
            metrics["models"][model][key] = value
    return metrics


def tree(metrics=None, details=None, config=None):
    metrics = full() if metrics is None else metrics
    details = example_run.details() if details is None else details
    return markup.parse(html.document(metrics, details, CONFIG if config is None else config))


def part(found, name):
    (section,) = found.all("section", **{"aria-labelledby": name})
    return section


def rows(section, caption):
    (found,) = [t for t in section.all("table") if t.all("caption")[0].text == caption]
    return {cells[0]: cells[1:] for cells in found.cells()}


# What it says.


def test_the_verdict_comes_first_and_everything_else_after_it():
    found = tree()
    names = [s.attributes["aria-labelledby"] for s in found.all("section")]
    assert names == ["verdict", "models", "numbers", *FIGURES, "rerun", "glossary", "everything"]
    assert part(found, "verdict").all("p", class_="word")[0].text == "Erased"
    assert found.all("h1")[0].text == "Unlearning “3” in digits"


def test_the_record_is_linked_and_its_digests_are_shown():
    found = markup.parse(html.document(*RUN))
    section = part(found, "certificate")
    assert [a.attributes["href"] for a in section.all("a")] == ["certificate.json"]
    shown = rows(section, "What was recorded")
    assert len(shown) == 6  # with the titles
    (images,) = [value for label, value in shown.items() if "1,146 images" in label]
    assert images == [SHA]
    assert shown["Parameters of the unlearned model"] == [SHA[::-1]]


def test_the_table_holds_the_numbers_of_the_run():
    metrics = with_newer()
    shown = rows(part(tree(metrics), "numbers"), "Original, oracle and unlearned model")
    for label, key, digits_shown, goal in table.rows(metrics["scenario"]["points"]):
        if "/earlier_" in key:  # this run is not one of a sequence
            assert label not in shown
            continue
        values = [metrics["models"][m][key] for m in ("original", "oracle", "unlearned")]
        assert shown[label][:3] == [f"{v:.{digits_shown}f}" for v in values]
        assert shown[label][4] == goal
    assert shown["k-NN accuracy, forget, test, stage4 (%)"][3] == "+8.1"
    assert shown["CKA to oracle, forget, test, stage4"][3] == "–"  # its target is 1
    (closeness,) = (cells for label, cells in shown.items() if label.startswith("closeness to ori"))
    assert closeness == ["1.000", "0.712", "0.634", "−0.078", "the oracle's"]


def test_numbers_that_an_older_run_is_without_have_no_row():
    shown = rows(part(tree(), "numbers"), "Original, oracle and unlearned model")
    assert not [label for label in shown if "agreement" in label or "closeness" in label]
    assert table.text(full()).count("closeness") == table.markdown(full()).count("agreement") == 0
    text = table.text(with_newer())
    assert "agreement with the oracle's predictions, forget, test (%)" in text
    assert text.count("closeness to ") == 2


def test_every_key_is_in_the_last_table():
    metrics = full()
    shown = rows(
        part(tree(metrics), "everything"),
        "Keys as in the JSON file beside this page; docs/metrics.md defines them",
    )
    assert set(metrics["models"]["oracle"]) <= set(shown)
    assert shown["idi/value"][:2] == ["1.0000", "0.0000"]  # by definition


def test_deciding_numbers_stand_beside_their_limits():
    shown = rows(part(tree(), "verdict"), "What decided, and its limits")
    assert shown["Accuracy lost on images to be kept"] == [
        "−0.3 points",
        "at most 5.0 points",
        "✓\xa0yes",
    ]
    moved = "How far the features left the original's, of the oracle's way"
    assert shown[f"{moved}, by how well they tell the forgotten classes apart"] == [
        "57 %", "at least 50 %", "✓\xa0yes",
    ]  # fmt: skip
    assert shown[f"{moved}, by similarity"][0] == "100 %"
    assert "Part of a mean: by k-NN accuracy at stage4" in shown


def spoiled(**changes):
    metrics = full()
    metrics["models"]["unlearned"] |= {k.replace("__", "/"): v for k, v in changes.items()}
    return metrics


@pytest.mark.parametrize(
    ("metrics", "word", "look", "failed"),
    [
        (full(), "Erased", "good", 0),
        (spoiled(accuracy__forget_test=60.0), "Not forgotten", "bad", 1),
        (spoiled(accuracy__retain_test=60.0), "Damaged", "bad", 1),
        (spoiled(knn__forget_test__stage1=float("nan")), "Damaged", "bad", 0),
        (
            full() | {"models": full()["models"] | {"unlearned": full()["models"]["original"] | {
                "accuracy/forget_test": 0.0}}},
            "Superficial", "warn", 2,
        ),
        (full() | {"models": {"original": {}, "unlearned": {}}}, "No verdict", "none", 0),
    ],
)  # fmt: skip
def test_every_verdict_has_its_word_its_look_and_what_failed(metrics, word, look, failed):
    section = part(tree(metrics), "verdict")
    (banner,) = section.all("div", class_="banner")
    assert look in banner.attributes["class"].split()
    assert banner.all("p", class_="word")[0].text == word
    assert section.text.count("✗") == failed


def test_a_number_that_is_not_finite_is_named_and_leaves_a_gap():
    found = tree(spoiled(knn__forget_test__stage1=float("nan")))
    shown = rows(part(found, "numbers"), "Original, oracle and unlearned model")
    assert shown["k-NN accuracy, forget, test, stage1 (%)"][2] == "not finite"
    chart = part(found, "features").all("svg", class_="chart")[0]
    titles = [t.text for t in chart.all("title") if t.text.startswith("unlearned")]
    assert [t.split(":")[0] for t in titles] == [
        f"unlearned, {tick}" for tick in ("stage2", "stage3", "stage4", "logits")
    ]
    assert not any("nan" in p.attributes["d"] for p in found.all("path"))


def test_every_figure_is_told_in_words():
    found = tree()
    alts = [svg.attributes["aria-label"] for svg in found.all("svg", role="img")]
    assert len(alts) == 4 + 4 + 1 + 6 + 3 + 3 + 1
    assert alts[0] == (
        "Line chart. CKA to the original, test images to be forgotten. "
        "oracle: stage1 0.80, stage2 0.68, stage3 0.61, stage4 0.29; "
        "unlearned: stage1 0.96, stage2 0.73, stage3 0.55, stage4 0.17."
    )
    assert any("36 images to be forgotten and 324 to be kept" in alt for alt in alts)
    hidden = [svg for svg in found.all("svg") if svg.attributes.get("aria-hidden") == "true"]
    assert len(hidden) + len(alts) == len(found.all("svg"))


def test_few_images_are_warned_of():
    assert "Only 37 test images" in part(tree(), "verdict").text
    many = example_run.metrics("fashion")
    assert "Only" not in part(tree(many), "verdict").text


def test_the_command_the_config_and_the_environment_are_there():
    section = part(tree(), "rerun")
    assert section.all("code")[0].text == example_run.details()["command"]
    assert rows(section, "The config as resolved")["model.depth"] == ["10"]
    shown = rows(section, "Where it ran")
    assert (shown["Python"], shown["jax"]) == (["3.11.7"], ["0.10.2"])


def test_cost_is_told_against_the_oracles():
    section = part(tree(), "cost")
    assert "24 % of the oracle's steps, 63 % of the oracle's images" in section.text
    assert rows(section, "What every part took")["Evaluation"] == [
        "–", "5,391", f"{full()['cost']['evaluate']['seconds']:.0f}",
    ]  # fmt: skip


FLOPS = {"original": 2e9, "oracle": 1e9, "modules": 1e8, "unlearn": 2e8}


def test_floating_point_operations_are_a_part_of_the_cost_where_they_are_known():
    metrics = full()
    for stage, flops in FLOPS.items():
        metrics["cost"][stage]["flops"] = flops
    section = part(tree(metrics), "cost")
    assert "63 % of the oracle's images, 30 % of the oracle's FLOPs, " in section.text
    shown = rows(section, "What every part took")
    assert shown["Unlearning"][2] == "200,000,000"
    assert shown["Evaluation"][2] == "–"
    assert "FLOPs" not in part(tree(), "cost").text


# What is missing.


def without_oracle():
    metrics = full()
    del metrics["models"]["oracle"]
    metrics["cost"] = {}
    return metrics


def test_an_audit_without_an_oracle_says_so():
    found = tree(without_oracle())
    assert "There is no oracle" in part(found, "models").text
    banner = part(found, "verdict").all("div", class_="banner")[0]
    assert banner.all("p", class_="word")[0].text == "Erased"
    assert "a network that never saw it" not in banner.text
    assert "The cost was not measured" in part(found, "cost").text
    head = part(found, "numbers").all("thead")[0].text
    assert "oracle" not in head
    assert "no oracle here" in part(found, "features").text


@pytest.mark.parametrize(
    "cost", [None, {"oracle": None, "unlearn": {"seconds": 3.0}}, {"unlearn": None}]
)
def test_costs_that_are_missing_are_not_guessed(cost):
    metrics = full() | {"cost": cost}
    section = part(tree(metrics), "cost")
    assert "%" not in section.text
    assert bool(section.all("table")) == bool(cost and cost["unlearn"])


def test_a_run_that_measured_accuracy_alone_is_a_page():
    metrics = full()
    metrics["models"] = {
        name: {k: v for k, v in values.items() if k.startswith("accuracy")}
        for name, values in metrics["models"].items()
    }
    found = markup.parse(html.document(metrics, {}, {}))
    for name in set(FIGURES) - {"cost"}:
        assert "not measured in this run" in part(found, name).text
        assert not part(found, name).all("svg")
    assert "No verdict" in part(found, "verdict").text
    assert "CKA to the original" in part(found, "numbers").all("p", class_="missing")[0].text
    assert part(found, "rerun").text.count("was not recorded") == 3


@pytest.mark.parametrize("key", sorted(example_run.details()))
def test_any_detail_may_be_missing(key):
    details = example_run.details()
    del details[key]
    assert "None" not in tree(details=details).all("body")[0].text


# Names and numbers.


def test_class_names_are_text_and_never_markup():
    metrics, details = full(), example_run.details(names=NASTY, forgotten=(0, 2))
    metrics["scenario"] |= {"forget_classes": [0, 2], "forget_names": [NASTY[0], NASTY[2]]}
    found = tree(metrics, details)
    assert len(found.all("script")) == 1
    assert found.all("h1")[0].text == f"Unlearning “{NASTY[0]}” and “{NASTY[2]}” in digits"
    titles = {title.text for title in part(found, "embedding").all("title")}
    assert titles == set(NASTY)


def test_many_forgotten_classes_are_counted_in_the_title():
    metrics = full()
    metrics["scenario"]["forget_names"] = list("abcdef")
    assert tree(metrics).all("h1")[0].text == "Unlearning “a”, “b”, “c” and 3 more in digits"


def test_of_many_classes_the_most_frequent_are_drawn_and_the_rest_is_summed():
    names, counts = [f"c{i}" for i in range(100)], [0] * 100
    counts[7], counts[50], counts[99] = 60, 30, 10
    details = example_run.details(names=names, forgotten=(3,))
    details["predicted_as"] = {"forget_test": {"unlearned": counts}}
    (chart,) = part(tree(details=details), "predictions").all("svg")
    labels = [t.text for t in chart.all("text", class_="label")]
    shares = [t.text for t in chart.all("text", class_="value")]
    assert labels[0] == "c3"
    assert labels[-1] == "all others"
    assert len(labels) == 13
    assert {"c7", "c50", "c99"} < set(labels)
    assert shares[-1] == "0 %"
    assert sum(int(s.split()[0]) for s in shares) == 100


def test_neighbours_in_the_picture_are_counted():
    details = example_run.details()
    places = [[0, 0], [0, 1], [9, 9], [9, 9.5], [20, 20]]
    details["embedding"] |= {
        "label": [3, 3, 3, 0, 0],
        "forget": [True, True, True, False, False],
        "models": {"unlearned": places},
    }
    section = part(tree(details=details), "embedding")
    assert "forgotten next to forgotten: 67 %" in section.text


def test_steps_of_recovery_are_in_the_order_of_their_numbers():
    chart = part(tree(), "recovery").all("svg", class_="chart")[0]
    steps = ["0", "1", "2", "5", "10", "20"]
    assert [t.text for t in chart.all("text", class_="middle")] == steps


def test_the_page_is_the_same_whenever_it_is_made(tmp_path):
    arguments = (full(), example_run.details(), CONFIG)
    html.write(*arguments, tmp_path / "report.html")
    # As it is read from the files of a run, and on an object that was not used before.
    again = html.document(*json.loads(json.dumps(arguments)))
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == again


def test_making_the_page_changes_none_of_what_it_is_made_of():
    arguments = (full(), example_run.details(), CONFIG)
    before = copy.deepcopy(arguments)
    html.document(*arguments)
    assert arguments == before


# In a browser.

AUDIT = (without_oracle(), {"class_names": NASTY}, {})
SHA = "0123456789abcdef" * 4
CERTIFICATE = {
    "data": {"forget_train": {"images": 1146, "sha256": SHA}},
    "models": {name: {"parameters": SHA[::-1]} for name in ("original", "oracle", "unlearned")},
    "metrics": {"sha256": SHA},
}
RUN = (full(), example_run.details(), CONFIG, CERTIFICATE)
each_page = pytest.mark.parametrize("arguments", [RUN, AUDIT], ids=["run", "audit"])
each_theme = pytest.mark.parametrize("theme", ["light", "dark"])


def overflow(shown):
    return shown.evaluate("document.documentElement.scrollWidth - innerWidth")


@each_page
def test_it_asks_for_nothing_and_complains_of_nothing(show, arguments):
    shown = show(html.document(*arguments))
    shown.wait_for_load_state("networkidle")
    assert shown.requests == [shown.address]
    assert shown.messages == []


@pytest.mark.parametrize(
    ("arguments", "theme"),
    [(RUN, "light"), (RUN, "dark"), (AUDIT, "light")],
    ids=["run-light", "run-dark", "audit-light"],
)
def test_axe_finds_nothing(show, arguments, theme):
    shown = show(html.document(*arguments), color_scheme=theme)
    shown.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    found = Axe().run(shown).response
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found["violations"]] == []
    assert "color-contrast" in [rule["id"] for rule in found["passes"]]


# Axe does not look at the text of drawings. {page's colour: [[contrast, text], …]}
_DRAWN_TEXT = """() => {
  const light = (colour) => {
    const channels = colour.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255);
    const linear = channels.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05;
  };
  const page = getComputedStyle(document.body).backgroundColor;
  const contrast = (text) => {
    const [a, b] = [light(getComputedStyle(text).fill), light(page)];
    return [Math.max(a, b) / Math.min(a, b), text.textContent];
  };
  return [page, [...document.querySelectorAll("svg text:not(.cell)")].map(contrast)];
}"""


def test_themes_differ_and_drawings_can_be_read_in_both(show):
    pages = {}
    for theme in ("light", "dark"):
        shown = show(html.document(*RUN), color_scheme=theme)
        pages[theme], texts = shown.evaluate(_DRAWN_TEXT)
        assert len(texts) > 100
        assert min(texts)[0] >= 4.5, min(texts)
    assert pages == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}


def test_numbers_of_the_heat_map_keep_their_own_colours(show):
    shown = show(html.document(*RUN), color_scheme="dark")
    cell = shown.locator("svg text.cell").first
    wanted = {"#ffffff": "rgb(255, 255, 255)", "#000000": "rgb(0, 0, 0)"}
    fill = cell.evaluate("(text) => getComputedStyle(text).fill")
    assert fill == wanted[cell.get_attribute("fill")]


@each_page
def test_nothing_sticks_out_on_a_phone(show, arguments):
    shown = show(html.document(*arguments), viewport={"width": 360, "height": 640})
    shown.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert overflow(shown) == 0
    assert shown.locator(".word").bounding_box()["y"] < 640  # the verdict without scrolling


def test_tables_scroll_by_themselves_with_the_keyboard(show):
    shown = show(html.document(*RUN), viewport={"width": 360, "height": 640})
    frame = shown.get_by_role("region", name="Original, oracle and unlearned model")
    frame.focus()
    assert frame.evaluate("(f) => f.scrollWidth > f.clientWidth")
    shown.keyboard.press("ArrowRight")
    # Scrolling is smooth; waiting by wait_for_function would be an eval, which the page forbids.
    frame.evaluate(
        "(f) => f.scrollLeft || new Promise((done) => f.addEventListener('scroll', done))"
    )
    assert frame.evaluate("(f) => f.scrollLeft") > 0


@each_theme
def test_print_is_white_opens_what_is_folded_and_fits_the_paper(show, theme):
    shown = show(html.document(*RUN), color_scheme=theme, viewport={"width": 680, "height": 960})
    folded = shown.get_by_text("model.depth", exact=True)
    assert not folded.is_visible()
    shown.emulate_media(media="print", color_scheme=theme)
    assert folded.is_visible()
    assert not shown.get_by_role("navigation").is_visible()
    assert overflow(shown) == 0
    background = "getComputedStyle(document.body).backgroundColor"
    assert shown.evaluate(background) == "rgb(255, 255, 255)"
    inside = "[...document.querySelectorAll('table')].every((t) => t.offsetWidth <= innerWidth)"
    assert shown.evaluate(inside)
    assert shown.pdf().startswith(b"%PDF")
