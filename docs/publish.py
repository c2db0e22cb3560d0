"""Takes runs into the documentation, and makes what is shown of them.

    python -m docs.publish SCENARIO RUN_DIR...    # copies their metrics.json, then makes the pages
    python -m docs.publish                        # makes the pages from docs/results alone

A run becomes ``docs/results/SCENARIO/METHOD-seedN.json``. From these files are made
``docs/results.md``, the table in the README and its picture, and the verdicts in
``docs/audit.md``; a test compares.
"""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

from ec_jax.errors import InputError
from ec_jax.report import markup, plots, summary, table
from ec_jax.workdir import check_workdir, write_whole

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
COMMANDS = {  # {scenario: the config that it is}
    "digits": "configs/digits.py",
    "fashion_mnist_three": "configs/fashion_mnist.py",
}
# What a method's runs have set beside the scenario's config.
SETTINGS = {
    "ec": {},
    "head_distill": {"method": "head_distill", "unlearn.optimizer.learning_rate": 0.2},
}
READING = {
    "digits": """\
The digit is gone at the logits; the third stage leaves the original as far as the oracle's, the
last one further. What does not hold: by k-NN the early and middle stages tell the digit apart
nearly as well as the original's; from the second stage on none comes nearer to the oracle than the
original was; the features of kept digits move too (picture in the README); and trained again on few
images the digit comes back sooner than the oracle learns it, although a new head on the last
features finds it less well than on the oracle's. With so few forget images most differences of k-NN
and probe are within chance: the column *of which* says what counted, and seed 0 is *erased* by a
single image.
""",
    "fashion_mnist_three": """\
The classes are gone at the logits. The third stage leaves the original as far as the oracle's, the
last one further, and the first two hardly at all. What does not hold: by k-NN every stage still
tells the forgotten classes apart better than the oracle's, only the last two less well than the
original's; and no stage comes nearer to the oracle than the original was. EC removes; it does not
rebuild what the oracle learned. So the verdict is mostly *superficial*: by similarity the last
stages have moved all the way, by what can be read from them about half of it or less. Only seed 0
was measured with recovery and IDI: its new head speaks more against erasure than k-NN does, and
relearning brings the classes back at once, so that the one *erased* is likely to be one of what was
measured.
""",
}
HEAD = """\
# Results

Made by `python -m docs.publish` from the files under `docs/results`, one a run. Every cell is
the mean over the seeds and, in brackets, the lowest and the highest. Machine: 2 CPU cores, no
accelerator. No number is the paper's. `head_distill` is the negative control: the head
alone learns to leave the classes out, from the same original and compared with the same oracle. The
verdict, and what *moved* means: [metrics.md](metrics.md#the-verdict).
"""


def publish(scenario: str, runs: list[Path]) -> None:
    """Copies the runs' metrics, once all are seen to be runs of the scenario's config."""
    if scenario not in COMMANDS:
        sys.exit(f"scenario {scenario!r}: one of {', '.join(COMMANDS)}")
    found = [json.loads((run / "metrics.json").read_text())["scenario"] for run in runs]
    for run, about in zip(runs, found, strict=True):
        config = importlib.import_module(f"configs.{Path(COMMANDS[scenario]).stem}").get_config()
        config.update_from_flattened_dict(SETTINGS[about["method"]] | {"seed": about["seed"]})
        for reference in ("original", "oracle"):  # brought along, they are the same models
            config[reference].checkpoint = _brought(run, reference)
        try:
            check_workdir(config, run)
        except InputError as error:
            sys.exit(f"error: {error}")
    (RESULTS / scenario).mkdir(parents=True, exist_ok=True)
    for run, about in zip(runs, found, strict=True):
        target = RESULTS / scenario / f"{about['method']}-seed{about['seed']}.json"
        shutil.copyfile(run / "metrics.json", target)


def _brought(run: Path, reference: str) -> str:
    return json.loads((run / "config.json").read_text())[reference]["checkpoint"]


def load(scenario: str, method: str = "ec") -> list[dict]:
    """The metrics of every published seed, ascending."""
    runs = [json.loads(p.read_text()) for p in (RESULTS / scenario).glob(f"{method}-seed*.json")]
    return sorted(runs, key=lambda run: run["scenario"]["seed"])


def results_page() -> str:
    """``docs/results.md``."""
    parts = [HEAD]
    for scenario, config in COMMANDS.items():
        if runs := load(scenario):
            about = runs[0]["scenario"]
            seeds = ", ".join(str(run["scenario"]["seed"]) for run in runs)
            parts.append(
                f"## {scenario}\n\n"
                f"{about['model']}, method {about['method']}; forgotten: "
                f"{', '.join(about['forget_names'])}; seeds {seeds}; {_images(about)}\n\n"
                f"    python -m ec_jax.main --config={config} --workdir=DIR --config.seed=SEED\n\n"
                f"{summary.markdown(runs)}\n{READING[scenario]}\n{_verdicts(scenario)}"
            )
    return "\n".join(parts)


def _images(about: dict) -> str:
    n = about["images"]
    return (
        f"{n['forget_train'] + n['retain_train']} training images and "
        f"{n['forget_test'] + n['retain_test']} test images, of which {n['forget_train']} and "
        f"{n['forget_test']} to be forgotten"
    )


def _verdicts(scenario: str) -> str:
    """Every run's verdict, and how far its features moved: those of the control, too."""
    rows = []
    for method in SETTINGS:
        for run in load(scenario, method):
            found, _ = table.judged(run)
            shares = (found.numbers.get(f"moved_share/{f}") for f in ("similarity", "separability"))
            cells = ["–" if share is None else f"{100 * share:.0f} %" for share in shares]
            read = ", ".join(_separability(found.numbers)) or "–"
            rows.append([method, str(run["scenario"]["seed"]), found.name, *cells, read])
    head = ["method", "seed", "verdict", "moved by similarity", "moved by separability", "of which"]
    return markup.markdown(head, [False, True, False, True, True, False], rows)


def _separability(numbers: dict[str, float]) -> list[str]:
    """The measures of separability that counted."""
    names = [key.removeprefix("moved_share/") for key in numbers if key.count("/") == 2]
    return [name for name in names if not name.startswith("cka")]


def _with_block(text: str, marker: str, shown: str) -> str:
    """A page with what a marked block of it shows."""
    block = f"<!-- {marker} -->\n```text\n{shown}\n```"
    return re.sub(rf"<!-- {marker} -->\n```text\n.*?```", lambda _: block, text, flags=re.S)


def readme() -> str:
    """The README with the table of the digits run of the lowest seed."""
    text = (ROOT / "README.md").read_text()
    return _with_block(text, "digits", table.text(load("digits")[0]).strip("\n"))


def audit_page() -> str:
    """``docs/audit.md`` with the verdicts on the digits run of the lowest seed and its control."""
    text = (ROOT / "docs" / "audit.md").read_text()
    for method in SETTINGS:
        run = load("digits", method)[0]  # both are needed: the page compares them
        status = int(table.judged(run)[0].name != "erased")
        text = _with_block(text, f"audit {method}", f"{table.verdict_text(run)}\n\n{status}")
    return text


def main(arguments: list[str]) -> None:
    """The command."""
    if arguments:
        publish(arguments[0], [Path(run) for run in arguments[1:]])
    pages = {"docs/results.md": results_page, "README.md": readme, "docs/audit.md": audit_page}
    for name, text in {name: page() for name, page in pages.items()}.items():
        (ROOT / name).write_text(text)
    picture = ROOT / "docs" / "images" / "digits_cka.png"
    write_whole(picture, lambda part: plots.cka_per_stage(load("digits")[0], part))


if __name__ == "__main__":
    main(sys.argv[1:])
