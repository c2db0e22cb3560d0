"""README and documents show what the committed results hold; the table is made from them."""

import json
import re
from pathlib import Path

import pytest

from ec_jax import config as config_lib
from ec_jax.report import plots, table

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "docs" / "results" / "digits"


def metrics(seed=0):
    return json.loads((RESULTS / f"ec-seed{seed}.json").read_text())


def test_the_readme_shows_the_table_of_the_committed_run():
    shown = re.search(r"<!-- digits -->\n```text\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert shown.group(1) == table.text(metrics()).strip("\n") + "\n"


def test_every_link_of_the_readme_leads_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert all((ROOT / link).exists() for link in links), links


def test_markdown_has_a_row_for_every_row_of_the_text():
    rows = [line for line in table.markdown(metrics()).splitlines() if line.startswith("| ")]
    # The head and its rule stand in for the text's head.
    assert len(rows) - 2 == sum("   " in line for line in table.text(metrics()).splitlines()) - 1


def test_a_number_that_is_missing_is_shown_as_a_dash():
    found = metrics()
    del found["models"]["unlearned"]["accuracy/forget_test"]
    line = next(x for x in table.text(found).splitlines() if "forget, test (%)" in x)
    assert "–" in line


def with_flops(**flops):
    found = metrics()
    for stage in found["cost"].values():
        (stage or {}).pop("flops", None)
    for stage, count in flops.items():
        found["cost"][stage]["flops"] = count
    return found


def test_floating_point_operations_are_told_where_they_are_known():
    flops = {"oracle": 1000, "modules": 100, "unlearn": 455}
    old, new = (
        table.text(m).split("Unlearning took ")[1] for m in (with_flops(), with_flops(**flops))
    )
    assert "FLOPs" not in old
    steps, images = re.match(r"(.*) steps and (.*) images\.", old).groups()
    assert new.startswith(f"{steps} steps, {images} images and 45.5 % of its FLOPs. With its ")
    assert "% of its images, 56 % of its FLOPs, " in new


def test_markup_in_class_names_is_escaped():
    found = metrics()
    found["scenario"]["forget_names"] = ["a|b_c"]
    assert "a\\|b\\_c" in table.markdown(found)


@pytest.mark.parametrize("metric", config_lib.METRICS)
def test_a_run_that_measured_one_thing_has_its_files(tmp_path, metric):
    found = metrics()
    found["models"] = {
        model: {k: v for k, v in values.items() if k.startswith(metric)}
        for model, values in found["models"].items()
    }
    assert "Verdict: " in table.text(found)
    assert "**Verdict: " in table.markdown(found)
    plots.cka_per_stage(found, tmp_path / "cka.png")


@pytest.mark.parametrize("name", ["trouser", "$cash$"])
def test_the_plot_is_written_whatever_the_class_is_called(tmp_path, name):
    found = metrics()
    found["scenario"]["forget_names"] = [name]
    plots.cka_per_stage(found, tmp_path / "cka.png")
    assert (tmp_path / "cka.png").stat().st_size > 10_000
