"""Names that would act on whoever shows them: in a run's page, a comparison's, and every table."""

import copy
import csv
import io

import example_run
import markup as parsed
import pytest
from runs import metrics, put

from configs import digits
from ec_jax import config as config_lib
from ec_jax.report import comparison, comparison_files, html, table
from ec_jax.report import runs as runs_lib

NASTY = (
    "</script><script>window.ran = 1</script>",
    '"><img src=x onerror="window.ran = 1">',
    "</title></style><svg onload='window.ran = 1'>",
    "a\nb|c`d`\\*e*[f](javascript:window.ran=1)<!--",
    "$\\input{x}$ #&%_^~{}",
    "=cmd|' /C calc'!A0",
    "\udcff",
)
CONFIG = config_lib.resolved(digits.get_config())


def run_page():
    """A run of which every string that comes from outside is nasty."""
    found, details = example_run.metrics(), example_run.details(names=NASTY, forgotten=(0, 3))
    found["scenario"] |= {"forget_classes": [0, 3], "forget_names": [NASTY[0], NASTY[3]]}
    found["scenario"] |= {"dataset": NASTY[1], "model": NASTY[2], "method": NASTY[0]}
    for model in found["models"].values():
        model[f"transfer/{NASTY[1].replace('/', '-')}/stage4"] = 50.0
    details["command"] = NASTY[0] + NASTY[-1]
    details["environment"]["devices"] = NASTY[1]
    details["environment"]["packages"] = {NASTY[0]: NASTY[1]}
    config = copy.deepcopy(CONFIG)
    config["data"]["data_dir"] = NASTY[2]
    return found, html.document(found, details, config)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Those of a comparison whose runs have nasty names everywhere."""
    folder = tmp_path_factory.mktemp("hostile")
    scenario = {"dataset": NASTY[1], "forget_names": [NASTY[3]], "model": NASTY[2]}
    sources = [
        put(folder / f"run{i}", metrics(0, scenario=scenario, method=name), data__data_dir=name)
        for i, name in enumerate((*NASTY[:6], "ec"))
    ]
    found = comparison.compare([runs_lib.read(source) for source in sources])
    return {n: c.decode() for n, c in comparison_files._files(found).items() if "png" not in n}


def test_no_name_becomes_markup(files):
    for page in (run_page()[1], files["compare.html"]):
        found = parsed.parse(page)
        assert len(found.all("script")) == 1
        assert not found.all("img", src="x")
        assert "window.ran" not in found.all("script")[0].text
        assert not [e for e in found.all("svg") if "onload" in e.attributes]


def test_nothing_runs_in_a_browser(show, files):
    for page in (run_page()[1], files["compare.html"]):
        shown = show(page)
        shown.wait_for_load_state("networkidle")
        assert shown.evaluate("window.ran") is None
        assert shown.requests == [shown.address]
        assert shown.messages == []


def test_tables_in_markdown_have_as_many_cells_and_no_links(files):
    of_run = table.markdown(run_page()[0])
    for text in (of_run, files["table.md"]):
        assert "\n`" not in text
        assert "](javascript" not in text.replace("\\]", "")
        assert "<" not in text.replace("\\<", "")
        rows = [line for line in text.split("\n") if line.startswith("|")]
        heads = [i for i, row in enumerate(rows) if set(row) <= set("|-: ")]
        for start, end in zip(heads, [*(h - 1 for h in heads[1:]), len(rows)], strict=True):
            cells = {row.replace("\\|", "").count("|") for row in rows[start - 1 : end]}
            assert len(cells) == 1


def test_latex_and_csv_hold_text_alone(files):
    assert "\\input" not in files["table.tex"]
    rows = list(csv.reader(io.StringIO(files["table.csv"])))
    assert len({len(row) for row in rows}) == 1
    # A spreadsheet would reckon what begins so.
    assert not [c for row in rows for c in row if c.startswith(("=", "@", "+"))]
