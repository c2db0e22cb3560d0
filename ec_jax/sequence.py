"""A sequence of requests: each starts from the last one's result, and what is forgotten stays so.

WORKDIR/request1, WORKDIR/request2, … are runs like any other, each with the classes of the requests
before it as ``forget.earlier``. ``sequence.json`` and ``sequence.md`` put them side by side.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ec_jax import data_config
from ec_jax import workdir as workdir_lib
from ec_jax.errors import TrainingError
from ec_jax.pipeline import Experiment, checked
from ec_jax.report import markup, table

SCHEMA = 1
_NOTE = "Percent of test images; in brackets the oracle's, to which it should be close."


def request_configs(config: Any, workdir: Path) -> dict[str, Any]:
    """The config of every request.

    Args:
      config: a validated config of several requests.
      workdir: of the sequence.

    Returns:
      {folder in the workdir: the config of the run there}, first to last.
    """
    found: dict[str, Any] = {}
    before, start = list(data_config.earlier_classes(config)), config.original.checkpoint
    for i, classes in enumerate(data_config.requests(config), 1):
        one = config.copy_and_resolve_references().unlock()
        # As ids: a file of classes may change, and a draw depends on what was drawn before.
        one.forget.classes, one.forget.earlier = (",".join(map(str, c)) for c in (classes, before))
        one.original.checkpoint = start
        found[f"request{i}"] = one.lock()
        before += classes
        start = str(workdir / f"request{i}" / "checkpoints" / "unlearn")
    return found


def run(config: Any, workdir: str | Path, command: str = "") -> None:
    """Runs every request that is not done, and writes what came of them.

    Args:
      config: a validated config of several requests.
      workdir: of the sequence; made if missing.
      command: by which the sequence was started, for the reports.

    Raises:
      InputError: the data, the devices, a checkpoint or a folder do not go with the config, or
        the method cannot forget what a request names.
    """
    workdir = Path(workdir).absolute()
    configs = request_configs(config, workdir)
    for i, (folder, one) in enumerate(configs.items()):
        # The last request's result lies elsewhere once the sequence was moved.
        free = ("original.checkpoint",) if i else ()
        workdir_lib.check_workdir(one, workdir / folder, free=free)
        checked(one)
    with workdir_lib.locked(workdir):
        _run(config, configs, workdir, command)


def _run(config: Any, configs: Mapping[str, Any], workdir: Path, command: str) -> None:
    for i, (folder, one) in enumerate(configs.items()):
        experiment = Experiment(one, workdir / folder, command)
        if not i:  # the first has made the checks that can be made before work starts
            workdir_lib.write_resolved(config, workdir)
        print(f"{folder} of {len(configs)}: forget {one.forget.classes}", flush=True)
        try:
            experiment.run()
        except TrainingError as error:
            raise TrainingError(_with_the_rest(error, folder, configs)) from error
    metrics = {f: workdir_lib.read_metrics(workdir / f) for f in configs}
    names = data_config.about(config).class_names
    requests = [
        _request(folder, found, classes, names)
        for (folder, found), classes in zip(
            metrics.items(), data_config.requests(config), strict=True
        )
    ]
    title = f"{config.data.name}, {len(requests)} requests, method {config.method}"
    title += f", seed {config.seed}"
    last = metrics["request1"]["scenario"]["points"][-1]
    workdir_lib.write_json(workdir / "sequence.json", {"schema": SCHEMA, "requests": requests})
    workdir_lib.write_whole(
        workdir / "sequence.md",
        lambda part: part.write_text(markdown(title, requests, last), encoding="utf-8"),
    )
    print(text(title, requests, last), flush=True)
    print(f"Written to {workdir}: sequence.json, sequence.md", flush=True)


def _with_the_rest(error: Exception, folder: str, configs: Mapping[str, Any]) -> str:
    """The error of a request, and what else to set where its remedy starts from the last one."""
    before = configs[folder].forget.earlier
    asked = [c.forget.classes for c in list(configs.values())[list(configs).index(folder) :]]
    fields = f"--config.forget.classes='{';'.join(asked)}' --config.forget.earlier={before}"
    return f"{folder}: {error}" + (f"; there, use {fields}" if before else "")


def _columns(last: str) -> dict[str, str]:
    """{title: key} of the numbers in the table."""
    return {
        "accuracy, forget": "accuracy/forget_test",
        "accuracy, earlier": "accuracy/earlier_test",
        "accuracy, retain": "accuracy/retain_test",
        f"k-NN, forget, {last}": f"knn/forget_test/{last}",
        f"k-NN, earlier, {last}": f"knn/earlier_test/{last}",
    }


def _request(
    folder: str, metrics: Mapping[str, Any], classes: Sequence[int], names: Sequence[str]
) -> dict[str, Any]:
    """What ``sequence.json`` says of a request."""
    verdict, _ = table.judged(metrics)
    keys = _columns(metrics["scenario"]["points"][-1]).values()
    return {
        "classes": list(classes),
        "names": [names[i] for i in classes],
        "workdir": folder,
        "verdict": verdict.name if verdict else None,
        "models": {m: {k: v[k] for k in keys if k in v} for m, v in metrics["models"].items()},
    }


def _table(requests: Sequence[Mapping[str, Any]], last: str) -> tuple[list[str], list[list[str]]]:
    """Titles and rows; a column that no request has a number for is left out."""
    shown = {
        title: key
        for title, key in _columns(last).items()
        if any(key in r["models"]["unlearned"] for r in requests)
    }
    rows = [
        [
            str(i),
            table.class_list(r["classes"], r["names"]),
            *(_cell(r["models"], key) for key in shown.values()),
            r["verdict"] or "–",
        ]
        for i, r in enumerate(requests, 1)
    ]
    return ["request", "forgotten", *shown, "verdict"], rows


def _cell(models: Mapping[str, Mapping[str, float]], key: str) -> str:
    if key not in models["unlearned"]:
        return "–"
    return f"{models['unlearned'][key]:.1f} ({models['oracle'][key]:.1f})"


def markdown(title: str, requests: Sequence[Mapping[str, Any]], last: str) -> str:
    """A row a request, in Markdown.

    Args:
      title: what was run.
      requests: as in ``sequence.json``.
      last: the last supervision point.
    """
    head, rows = _table(requests, last)
    right = [False, False, *[True] * (len(head) - 3), False]
    escaped = [[markup.markdown_escape(cell) for cell in row] for row in rows]
    heading = f"**{markup.markdown_escape(title)}**"
    return "\n".join([heading, "", _NOTE, "", markup.markdown(head, right, escaped)])


def text(title: str, requests: Sequence[Mapping[str, Any]], last: str) -> str:
    """The same table for a terminal."""
    head, rows = _table(requests, last)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join(["", title, _NOTE, "", *lines, ""])
