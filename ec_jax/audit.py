"""The command: is a model that was unlearned elsewhere erased at the core, or at the surface?

    python -m ec_jax.audit --config=configs/digits.py --original=DIR --candidate=DIR \\
        [--oracle=DIR] --out=runs/audit

--config=FILE        network, data and forget set; --config.FIELD=VALUE sets a field
--original=DIR       the model before unlearning
--candidate=DIR      the unlearned model that is audited
--oracle=DIR         the same network trained without the forget set; without one: weaker
--out=DIR            where audit.json, report.html and table.md go

Models are folders of checkpoints (RUN/checkpoints/unlearn, one step of it, or any folder that
orbax's StandardCheckpointer wrote a {"params", "batch_stats"} into); the config says what network
they are, on which data, and which classes were to be forgotten.

    python -m ec_jax.audit --verify=DIR

judges nothing: it says whether the files of a run's workdir are those of its records
(``ec_jax/verify.py``). Exit status: 0 they are, 1 one differs.

Exit status: 0 erased, 1 any other verdict, 2 input that cannot be used, 130 interrupted.
"""

import math
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ec_jax import command, config_file, digests, verify
from ec_jax import config as config_lib
from ec_jax import workdir as workdir_lib
from ec_jax.errors import InputError, TrainingError

SCHEMA = 1
NOT_ERASED = 1
FLAGS = {
    "original": ("The model before unlearning.", "runs/digits/checkpoints/original"),
    "candidate": ("The unlearned model that is audited.", "runs/digits/checkpoints/unlearn"),
    "oracle": (
        "The same network trained without the forget set; without one the audit is weaker.",
        "runs/digits/checkpoints/oracle",
    ),
    "out": ("Where audit.json and report.html go.", "runs/audit"),
}
MODELS = {"original": "original", "unlearned": "candidate", "oracle": "oracle"}  # model: flag
# Fields that say what models are and how they are measured: all that an audit reads.
READ = ("seed", "data.", "forget.", "model.", "evaluation.", "parallel.")
NEEDED = ("accuracy", "cka")  # metrics without which there is no verdict
FILES = ("audit.json", "report.html", "table.md")
WITHOUT_ORACLE = (
    "accuracy, CKA to the original, k-NN, probe, recovery, membership inference and RUS to the "
    "original have no target",
    "CKA to the oracle, RUS to the oracle, IDI and the gap to the oracle are left out",
    "the verdict rests on weaker references",
)


def main(config: Any, flags: Any) -> None:
    """Audits the candidate and ends the process with the verdict's status."""
    for name in FLAGS:
        # An empty oracle is a slip, say a variable that is not set, and a weaker audit no remedy.
        if flags[name].value == "" or (flags[name].value is None and name != "oracle"):
            raise config_file.missing(name, flags[name].value, FLAGS)
    config_lib.validate(config)
    config_lib.check_alone(config, "an audit")
    for metric in NEEDED:
        if metric not in config_lib.metric_names(config):
            remedy = f"without {metric} there is no verdict; add it"
            raise InputError("evaluation.metrics", config.evaluation.metrics, remedy)
    out = Path(os.path.expanduser(flags.out)).absolute()
    _check_out(out)
    command = shlex.join(["python", "-m", "ec_jax.audit", *sys.argv[1:]])
    paths = {model: path for model, name in MODELS.items() if (path := flags[name].value)}
    name = audit(config, paths, out, command)
    sys.exit(0 if name == "erased" else NOT_ERASED)


def _check_out(out: Path) -> None:
    """Refuses a folder of anything but an earlier audit."""
    there = {name.removesuffix(".part") for name in workdir_lib.contents(out, "--out")}
    if others := sorted(there - {*FILES}):
        remedy = f"holds other files ({others[0]}); choose a new folder"
        raise InputError("--out", str(out), remedy)


def audit(config: Any, paths: Mapping[str, str], out: Path, command: str = "") -> str:
    """Measures the models and writes ``audit.json``, ``report.html`` and ``table.md``.

    Args:
      config: a validated config; the groups in ``READ`` are read.
      paths: {"original", "unlearned" and, where there is one, "oracle": folder of a checkpoint}.
      out: the folder for the files; made if missing.
      command: by which the audit was started, for its report.

    Returns:
      The verdict's name. A candidate that is not finite is ``damaged``.

    Raises:
      InputError: a checkpoint does not fit the config or cannot be read, a reference's numbers
        are not finite, or the oracle knows the forget set; nothing is written.
    """
    from ec_jax import checkpoint, imported  # JAX is imported only for input that can work
    from ec_jax.evaluation.measure import measure
    from ec_jax.models.network import named_arrays
    from ec_jax.report import html, table
    from ec_jax.scenario import Scenario

    scenario = Scenario(config)
    shapes = scenario.model_shapes()
    for model, path in paths.items():
        checkpoint.check_model(path, shapes, f"--{MODELS[model]}")
        imported.check_origin(path, f"--{MODELS[model]}", config, scenario.image_shape)
    trees = {m: checkpoint.load_model(p, shapes, f"--{MODELS[m]}") for m, p in paths.items()}
    try:
        numbers, details = measure(scenario, trees, may_break=("unlearned",))
    except TrainingError as error:
        references = ", ".join(path for model, path in paths.items() if model != "unlearned")
        raise InputError("--original or --oracle", references, str(error)) from error
    details |= {"command": command}
    about = scenario.describe() | {"method": "audit", "seed": config.seed}
    metrics = {"schema": SCHEMA, "scenario": about, "models": numbers, "cost": {}}
    verdict, why = table.judged(metrics)
    if verdict is None:
        raise InputError("--oracle", paths.get("oracle"), f"{why}; give another, or none")
    read = _read(config)
    record = metrics | {
        "models": {m: _finite(values) for m, values in numbers.items()},
        "not_finite": {m: sorted(values.keys() - _finite(values)) for m, values in numbers.items()},
        "verdict": {
            "name": verdict.name,
            "reasons": verdict.reasons,
            "numbers": verdict.numbers,
        },
        "lost_without_oracle": [] if "oracle" in paths else WITHOUT_ORACLE,
        "checkpoints": {
            m: {"path": str(path), "sha256": digests.of_arrays(named_arrays(trees[m]))}
            for m, path in paths.items()
        },
        "data": {"name": about["dataset"], "sha256": digests.of_arrays(_data(scenario))},
        "config": read,
        "environment": details["environment"],
        "command": command,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "audit.json").unlink(missing_ok=True)  # written last: where it is, all is
    workdir_lib.write_whole(
        out / "report.html", lambda part: html.write(metrics, details, read, part)
    )
    workdir_lib.write_whole(out / "table.md", lambda part: table.write(metrics, part))
    workdir_lib.write_json(out / "audit.json", record)
    print(table.text(metrics), flush=True)
    if "oracle" not in paths:
        print(f"Without an oracle: {'; '.join(WITHOUT_ORACLE)}.", flush=True)
    print(f"Written to {out}: {', '.join(FILES)}", flush=True)
    return verdict.name


def _read(config: Any) -> dict[str, Any]:
    """The part of the config that an audit reads."""
    whole = config_lib.resolved(config)
    return {group: whole[group] for group in (g.removesuffix(".") for g in READ)}


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in values.items() if math.isfinite(value)}


def _data(scenario: Any) -> dict[str, Any]:
    """The images and labels that the models were measured on, split by split."""
    arrays = {}
    for split, rows in scenario.splits.items():
        images, labels = scenario.data.images_and_labels(split, rows)
        arrays |= {f"{split}/images": images, f"{split}/labels": labels}
    return arrays


if __name__ == "__main__":
    if any(argument.startswith("--verify") for argument in sys.argv[1:]):
        command.finish(lambda: verify.main(sys.argv[1:]))
    config_file.run(main, FLAGS, interrupted="interrupted; there is no audit.json of this audit")
