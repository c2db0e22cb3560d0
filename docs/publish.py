"""Takes a study's numbers into the documentation, and makes what is shown of them.

    python -m docs.publish SCENARIO WORKDIR   # copies WORKDIR/results, then makes the pages
    python -m docs.publish                    # makes the pages from docs/results alone

WORKDIR is that of ``ec_jax.sweep`` with configs/sweeps/methods.py. A cell becomes
``docs/results/SCENARIO/METHOD-seedN.json``. From these files are made ``docs/results.md`` and its
pictures, the table in the README and its picture, and the verdicts in ``docs/audit.md``; a test
compares.
"""

import functools
import json
import re
import shutil
import sys
from pathlib import Path

from docs import study
from docs.study import IMAGES, ROOT, SCENARIOS
from ec_jax import config_file, recipes
from ec_jax.errors import InputError
from ec_jax.report import plots, table
from ec_jax.workdir import check_workdir, write_whole

AUDITED = ("ec", "head_distill")  # in docs/audit.md
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

Made by `python -m docs.publish` from the files under `docs/results`, one a run. Cells are the mean
± the standard deviation over seeds 0, 1 and 2. Machine: 2 CPU cores, no accelerator. No number is
the paper's. What the columns are: [metrics.md](metrics.md); the methods: [methods.md](methods.md).
CKA is that of images to be forgotten, the mean over all stages but the first; **the target of every
number is the oracle's, not zero.** Every method has the recipe that six trials on held-out training
images gave it (`python -m ec_jax.tune`; all trials: `docs/results/tuning`); with EC added it keeps
that recipe. The FLOPs are those of unlearning with its modules and its proxy.

The controls: `untrained` is a network with random weights; `oracle_same_start`, `oracle_b` and
`oracle_c` are three more retrained networks, the first from the original's own initial weights, the
others from other seeds: the ceiling of any closeness. `scratch_matched` is a fresh network trained
on the retained images for as many images as a gradient method reads: the row to beat.
`head_distill` teaches the head alone to leave the classes out.
"""
QUESTIONS = """\
(a) Is plain EC less like the original, on images to be forgotten, than every method that works at
the logits, at a retain accuracy within 1.5 points of the oracle's? (b) Does EC as a plug-in lower
that similarity for at least four hosts, for at most a point of retain accuracy? (c) Has the EC
variant with the smallest gap in the features the smallest of all methods, and the largest CKA to
the oracle, at least half-way from the nearest method at the logits to a second oracle? (d) Is it
nearer to the oracle, by both, than a network trained from scratch for as many images?
"""
ANSWERS = ""


def publish(scenario: str, workdir: Path) -> None:
    """Copies a study's numbers, once it is seen to be one of the scenario's config."""
    if scenario not in SCENARIOS:
        sys.exit(f"scenario {scenario!r}: one of {', '.join(SCENARIOS)}")
    config = recipes.complete(config_file.load(SCENARIOS[scenario]))
    files = sorted((workdir / "results").glob("*.json"))
    try:
        if not files:
            raise InputError("WORKDIR", str(workdir), "holds no results; give that of a sweep")
        check_workdir(config, workdir)
    except InputError as error:
        sys.exit(f"error: {error}")
    target = study.RESULTS / scenario
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.json"):
        old.unlink()
    for path in files:
        shutil.copyfile(path, target / path.name)


def load(scenario: str, method: str = "ec") -> list[dict]:
    """The metrics of every published seed, ascending."""
    folder = study.RESULTS / scenario
    runs = [json.loads(p.read_text()) for p in folder.glob(f"{method}-seed*.json")]
    return sorted(runs, key=lambda run: run["scenario"]["seed"])


def results_page() -> str:
    """``docs/results.md``."""
    parts = [HEAD]
    if answers := study.answers_table():
        parts.append(f"## What the study was to answer\n\n{QUESTIONS}\n{answers}\n{ANSWERS}")
    parts += [_section(scenario) for scenario in SCENARIOS if load(scenario)]
    return "\n".join(parts)


def _section(scenario: str) -> str:
    about, config = load(scenario)[0]["scenario"], SCENARIOS[scenario]
    shown = "\n\n".join(
        f"![{plot.title}](images/{name})" for name, plot in study.pictures(scenario).items()
    )
    what = about.get("forget", ", ".join(about["forget_names"]))
    return (
        f"## {scenario}\n\n{about['model']}; forgotten: {what}; {_images(about)}\n\n"
        f"    python -m ec_jax.sweep --config={config} --sweep=configs/sweeps/methods.py "
        f"--workdir=runs/{scenario}\n\n"
        f"{study.main_table(scenario)}\n{READING.get(scenario, '')}\n{shown}\n"
    )


def _images(about: dict) -> str:
    n = about["images"]
    return (
        f"{n['forget_train'] + n['retain_train']} training images and "
        f"{n['forget_test'] + n['retain_test']} test images, of which {n['forget_train']} and "
        f"{n['forget_test']} to be forgotten"
    )


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
    for method in AUDITED:
        run = load("digits", method)[0]  # both are needed: the page compares them
        status = int(table.judged(run)[0].name != "erased")
        text = _with_block(text, f"audit {method}", f"{table.verdict_text(run)}\n\n{status}")
    return text


def main(arguments: list[str]) -> None:
    """The command."""
    if arguments:
        scenario, workdir = arguments
        publish(scenario, Path(workdir))
    pages = {"docs/results.md": results_page, "README.md": readme, "docs/audit.md": audit_page}
    for name, text in {name: page() for name, page in pages.items()}.items():
        (ROOT / name).write_text(text)
    write_whole(
        IMAGES / "digits_cka.png", functools.partial(plots.cka_per_stage, load("digits")[0])
    )
    study.draw()


if __name__ == "__main__":
    main(sys.argv[1:])
