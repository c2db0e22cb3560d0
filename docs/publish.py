"""Takes runs into the documentation, and makes what is shown of them.

    python -m docs.publish SCENARIO RUN_DIR...    # copies their metrics.json, then makes the pages
    python -m docs.publish                        # makes the pages from docs/results alone

A run becomes ``docs/results/SCENARIO/METHOD-seedN.json``. From these files are made
``docs/results.md``, the table in the README and its picture; a test compares.
"""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

from ec_jax.errors import InputError
from ec_jax.report import plots, summary, table
from ec_jax.workdir import check_workdir, write_whole

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
COMMANDS = {  # {scenario: the config that it is}
    "digits": "configs/digits.py",
    "fashion_mnist_three": "configs/fashion_mnist.py",
}
READING = {
    "digits": """\
The digit is gone at the logits; the third stage leaves the original as far as the oracle's, the
last one further. What does not hold: by k-NN the early and middle stages tell the digit apart
nearly as well as the original's; from the second stage on none comes nearer to the oracle than the
original was; and the features of kept digits move too (picture in the README).
""",
    "fashion_mnist_three": """\
The classes are gone at the logits. The third stage leaves the original as far as the oracle's, the
last one further, and the first two hardly at all. What does not hold: by k-NN every stage still
tells the forgotten classes apart better than the oracle's, only the last two less well than the
original's; and no stage comes nearer to the oracle than the original was. EC removes; it does not
rebuild what the oracle learned.
""",
}
HEAD = """\
# Results

Made by `python -m docs.publish` from the files under `docs/results`, one a run. Every cell is
the mean over the seeds and, in brackets, the lowest and the highest. Machine: 2 CPU cores, no
accelerator. No number is the paper's.
"""


def publish(scenario: str, runs: list[Path]) -> None:
    """Copies the runs' metrics, once all are seen to be runs of the scenario's config."""
    if scenario not in COMMANDS:
        sys.exit(f"scenario {scenario!r}: one of {', '.join(COMMANDS)}")
    found = [json.loads((run / "metrics.json").read_text())["scenario"] for run in runs]
    for run, about in zip(runs, found, strict=True):
        config = importlib.import_module(f"configs.{Path(COMMANDS[scenario]).stem}").get_config()
        config.seed = about["seed"]
        try:
            check_workdir(config, run)
        except InputError as error:
            sys.exit(f"error: {error}")
    (RESULTS / scenario).mkdir(parents=True, exist_ok=True)
    for run, about in zip(runs, found, strict=True):
        target = RESULTS / scenario / f"{about['method']}-seed{about['seed']}.json"
        shutil.copyfile(run / "metrics.json", target)


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
                f"{', '.join(about['forget_names'])}; seeds {seeds}\n\n"
                f"    python -m ec_jax.main --config={config} --workdir=DIR --config.seed=SEED\n\n"
                f"{summary.markdown(runs)}\n{READING[scenario]}"
            )
    return "\n".join(parts)


def readme() -> str:
    """The README with the table of the digits run of the lowest seed."""
    shown = table.text(load("digits")[0]).strip("\n")
    text = (ROOT / "README.md").read_text()
    block = f"<!-- digits -->\n```text\n{shown}\n```"
    return re.sub(r"<!-- digits -->\n```text\n.*?```", lambda _: block, text, flags=re.S)


def main(arguments: list[str]) -> None:
    """The command."""
    if arguments:
        publish(arguments[0], [Path(run) for run in arguments[1:]])
    (ROOT / "docs" / "results.md").write_text(results_page())
    (ROOT / "README.md").write_text(readme())
    picture = ROOT / "docs" / "images" / "digits_cka.png"
    write_whole(picture, lambda part: plots.cka_per_stage(load("digits")[0], part))


if __name__ == "__main__":
    main(sys.argv[1:])
