"""The files of the stage ``report``: page, table, plot, and the certificate of the records."""

import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ec_jax import digests, records
from ec_jax.records import Records
from ec_jax.report import html, plots, table
from ec_jax.workdir import read_json, read_metrics, write_json, write_whole


def write(workdir: Path, config: Mapping[str, Any], kept: Records) -> None:
    """Writes what is missing, and prints the table.

    Args:
      workdir: with ``metrics.json``.
      config: resolved.
      kept: the records of the run.
    """
    metrics = read_metrics(workdir)
    details = {}
    with contextlib.suppress(ValueError):  # they are not needed for the numbers
        details = read_json(workdir / "details.json")
    more = {"certificate": _certify(workdir, metrics, kept)}
    files = {
        "report.html": functools.partial(html.write, metrics, details, config, **more),
        "table.md": functools.partial(table.write, metrics),
        "cka.png": functools.partial(plots.cka_per_stage, metrics),
    }
    for name, make in files.items():
        if not (workdir / name).exists():
            write_whole(workdir / name, make)
    print(table.text(metrics), flush=True)
    written = ", ".join(("metrics.json", *files, records.CERTIFICATE))
    print(f"Written to {workdir}: {written}", flush=True)


def _certify(workdir: Path, metrics: Mapping[str, Any], kept: Records) -> dict[str, Any]:
    """The certificate, made anew where what it tells of has changed."""
    path = workdir / records.CERTIFICATE
    found = certificate(metrics, kept.events)
    if path.is_file():
        with contextlib.suppress(ValueError):  # a damaged one is made anew
            old = read_json(path)
            if all(old.get(name) == found[name] for name in records.TOLD):
                kept.note("report", False, sha256=digests.of_file(path))
                return old
    kept.add("stage start", stage="report")
    found = certificate(metrics, kept.events)
    (workdir / "report.html").unlink(missing_ok=True)  # it shows the old one
    write_json(path, found)
    kept.note("report", True, sha256=digests.of_file(path))
    return found


def certificate(metrics: Mapping[str, Any], events: list[dict[str, Any]]) -> dict[str, Any]:
    """``records.certificate`` with the verdict on these metrics."""
    judged, _ = table.judged(metrics)
    verdict = judged and {"name": judged.name, "reasons": list(judged.reasons)}
    return records.certificate(events, metrics["scenario"], verdict)
