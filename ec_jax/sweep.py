"""The command that runs a grid: rows of settings, each with several seeds.

    python -m ec_jax.sweep --config=configs/digits.py --sweep=configs/sweeps/methods.py \
        --workdir=runs/study

A sweep's file has ``get_rows(config)``: {row: {dotted field: value}}, what each row sets in the
config. Without a file the rows are the combinations of the values that the command line gives,
``--config.ec.temperature=0.1,0.5 --config.ec.lambda=1,3``: of numbers, switches and fields that
hold one of a few words. A row's config is then made as that of a run is, with the recipe of its
method. Originals, oracles, proxies and modules are trained once for all rows that agree in them.

Every cell is a run in WORKDIR/cells/ROW/seedN; its numbers are WORKDIR/results/ROW-seedN.json, in
the form of a ``metrics.json`` whose method is the row, for ``ec_jax.compare``. A cell in which
training could not go on says why in its ``failed.json`` and leaves no numbers. The same command
goes on where it stopped.

``launch/sweep.py`` runs the cells at once, on many machines: it starts this command for what cells
share, then for every cell.
"""

import itertools
import json
import os
import re
import runpy
import time
from pathlib import Path
from typing import Any

from ec_jax import config as config_lib
from ec_jax import config_file, recipes
from ec_jax import workdir as workdir_lib
from ec_jax.errors import InputError, nearest
from ec_jax.rules import INT32

FLAGS = {
    "sweep": ("The file with get_rows(config).", "configs/sweeps/methods.py"),
    "workdir": ("Where the cells and their numbers go.", "runs/study"),
    "seeds": ("Seeds, separated by commas; 0,1,2 without it.", "0,1,2"),
    "rows": ("Which rows, separated by commas; all without it.", "ec,scrub+ec"),
    "only": ("plan: says what is missing, as JSON; shared: trains what the cells share.", "plan"),
}
_NAME = re.compile(r"[\w+=][\w+.=-]{,99}")  # of a row, which becomes that of a file
_SEED = re.compile("[0-9]{1,10}")


def main(config: Any, flags: Any, lists: dict[str, list[Any]]) -> None:
    """Runs what is missing of the grid.

    Args:
      config: as its file gives it, with what the command line sets.
      flags: the values of the command's own flags.
      lists: {field: values} of fields to which the command line gives several.
    """
    if not flags.workdir:
        raise config_file.missing("workdir", flags.workdir, FLAGS)
    if flags.only not in (None, "plan", "shared"):
        raise InputError("--only", flags.only, "give plan or shared, or leave it out")
    workdir = Path(os.path.expanduser(flags.workdir)).absolute()
    common = recipes.complete(config, config_file.overridden())
    config_lib.validate(common)
    config_lib.check_alone(common, "a grid")
    rows = _chosen(_rows(flags.sweep, lists, common), flags.rows)
    grid = {  # seed by seed: the first numbers to see are then of all rows
        (row, seed): cell_config(config, settings | {"seed": seed}, config_file.overridden())
        for seed in seeds("seeds", flags.seeds or "0,1,2")
        for row, settings in rows.items()
    }
    for cell in grid.values():
        config_lib.validate(cell)
    workdir_lib.check_workdir(common, workdir, foreign=workdir_lib.OF_A_RUN)
    for (row, seed), cell in grid.items():
        workdir_lib.check_workdir(cell, _cell(workdir, row, seed))
    run(common, grid, workdir, flags.only)


def run(
    common: Any, grid: dict[tuple[str, int], Any], workdir: Path, only: str | None = None
) -> None:
    """Runs the cells of {(row, seed): config} that have no numbers yet.

    Args:
      common: what the cells are variations of; complete and valid, as they are.
      grid: the cells.
      workdir: made if missing.
      only: ``shared``: what the cells share is trained, and no cell; ``plan``: nothing runs.

    Raises:
      InputError: the devices do not go with a cell, or its method cannot do what is asked of it.
    """
    from ec_jax import pipeline  # JAX is imported only for input that can work
    from ec_jax.cells import Cells

    for config in grid.values():
        pipeline.checked(config)
    workdir.mkdir(parents=True, exist_ok=True)
    workdir_lib.write_resolved(common, workdir)
    cells = Cells(common, workdir / "shared")
    if only == "plan":
        print(json.dumps(_plan(cells, grid, workdir)), flush=True)
    elif only == "shared":
        for config in grid.values():
            cells.share(config)
    else:
        _run_cells(cells, grid, workdir)


def _plan(cells: Any, grid: dict[tuple[str, int], Any], workdir: Path) -> dict[str, Any]:
    """What is missing of a grid.

    Returns:
      ``workdir``; ``results``: how many cells have numbers; ``failed``: {cell: why} of those in
      which training could not go on; ``cells``: the others, each with ``row``, ``seed``, ``shared``
      (the name of what it starts from) and ``ready``: that is trained.
    """
    from ec_jax.cells import kept

    failed, missing, count = {}, [], 0
    for (row, seed), config in grid.items():
        failure = _cell(workdir, row, seed) / "failed.json"
        if _result(workdir, row, seed).exists():
            count += 1
        elif failure.exists():
            failed[f"{row}-seed{seed}"] = kept(failure, "failed", str)["failed"]
        else:
            about = {"shared": cells.references_name(config), "ready": cells.is_shared(config)}
            missing.append({"row": row, "seed": seed} | about)
    return {"workdir": str(workdir), "results": count, "failed": failed, "cells": missing}


def _run_cells(cells: Any, grid: dict[tuple[str, int], Any], workdir: Path) -> None:
    failed, results = [], workdir / "results"
    results.mkdir(exist_ok=True)
    for i, ((row, seed), config) in enumerate(grid.items()):
        result = _result(workdir, row, seed)
        if result.exists():
            continue
        print(f"sweep: {row}, seed {seed}: cell {i + 1} of {len(grid)}", flush=True)
        began = time.monotonic()
        metrics = cells.run(config, _cell(workdir, row, seed))
        if "failed" in metrics:
            failed.append(f"{row}, seed {seed}: {metrics['failed']}")
            continue
        metrics["scenario"]["method"] = row
        workdir_lib.write_json(result, metrics)
        print(f"sweep: {row}, seed {seed}: {time.monotonic() - began:.0f} s", flush=True)
    for line in failed:
        print(f"sweep: failed: {line}", flush=True)
    print(
        f"Written to {results}: {len(list(results.glob('*.json')))} files; side by side: "
        f"python -m ec_jax.compare {results}/*.json --out={workdir / 'compare'}",
        flush=True,
    )


def _rows(path: str | None, lists: dict[str, list[Any]], config: Any) -> dict[str, dict[str, Any]]:
    """The rows of a file, or else the combinations of the values that fields are given."""
    if not path and not lists:
        raise InputError(
            "--sweep",
            path,
            "give a file, e.g. configs/sweeps/methods.py, or values "
            "of a field, e.g. --config.ec.temperature=0.1,0.5",
        )
    if not lists:
        return load_rows(path, config)
    field, values = next(iter(lists.items()))
    if path:
        remedy = "several values are for a grid without --sweep; give one"
        raise InputError(field, _listed(values), remedy)
    if "seed" in lists:
        raise InputError("seed", _listed(lists["seed"]), "give the seeds as --seeds=0,1,2")
    rows = {}
    for combination in itertools.product(*lists.values()):
        row = dict(zip(lists, combination, strict=True))
        rows["+".join(f"{field}={_word(value)}" for field, value in row.items())] = row
    if unnamed := [name for name in rows if not _NAME.fullmatch(name)]:
        remedy = (
            "cannot be a row's name (letters, digits and _ + - . =, at most 100); "
            "write a file with get_rows(config)"
        )
        raise InputError("--sweep", unnamed[0], remedy)
    return rows


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _listed(values: list[Any]) -> str:
    return ",".join(map(_word, values))


def load_rows(path: str, config: Any) -> dict[str, dict[str, Any]]:
    """The rows of a sweep's file.

    Args:
      path: of the file.
      config: complete, for what rows are reckoned from.

    Raises:
      InputError: no such file, or not a sweep's.
    """
    if not os.path.isfile(path):
        near = [str(p) for p in Path("configs/sweeps").glob("*.py")]
        hint = nearest(path, near) if near else "give a file, e.g. configs/sweeps/methods.py"
        raise InputError("--sweep", path, f"no such file; {hint}")
    try:
        get_rows = runpy.run_path(path).get("get_rows")
        if get_rows is None:
            remedy = "has no get_rows(config); give a sweep's file, see configs/sweeps"
            raise InputError("--sweep", path, remedy)
        rows = get_rows(config)
        rows = {str(row): dict(settings) for row, settings in rows.items()}
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        remedy = f"get_rows(config): {type(error).__name__}: {error}; correct the file"
        raise InputError("--sweep", path, remedy) from error
    if not rows:
        raise InputError("--sweep", path, "get_rows(config) gives no row; give one")
    for row in rows:
        if not _NAME.fullmatch(row) or "-seed" in row:
            remedy = f"the row {row!r} names files; at most 100 letters, digits and _ + - . =, the "
            remedy += "first none of - and ."
            raise InputError("--sweep", path, remedy)
    return rows


def cell_config(config: Any, settings: dict[str, Any], kept: list[str]) -> Any:
    """The complete config of a cell.

    Args:
      config: as its file gives it, with what the command line sets.
      settings: {dotted field: value} of the row.
      kept: dotted fields of the command line: no recipe changes them, a row does.

    Raises:
      InputError: a row sets a field that there is not.
    """
    c = config.copy_and_resolve_references().unlock()
    c.method = settings.get("method", c.method)
    c = recipes.complete(c, kept).unlock()
    known = config_lib.flatten(c)
    for field, value in settings.items():
        if field not in known:
            raise InputError(field, value, f"no such field; {nearest(field, known)}")
        try:
            c.update_from_flattened_dict({field: value})
        except TypeError:
            kind = type(known[field]).__name__
            raise InputError(field, value, f"the sweep must give a value of type {kind}") from None
    return c.lock()


def _chosen(rows: dict[str, dict[str, Any]], spec: str | None) -> dict[str, dict[str, Any]]:
    if not spec:
        return rows
    for row in spec.split(","):
        if row not in rows:
            raise InputError("--rows", spec, f"no row {row!r}; {nearest(row, rows)}")
    return {row: rows[row] for row in spec.split(",")}


def seeds(flag: str, spec: str) -> list[int]:
    """Those that a flag lists, separated by commas."""
    found = spec.split(",")
    if not all(_SEED.fullmatch(seed) and int(seed) <= INT32 for seed in found):
        raise InputError(f"--{flag}", spec, f"give integers >= 0 and <= {INT32}, e.g. 0,1,2")
    return [int(seed) for seed in found]


def _cell(workdir: Path, row: str, seed: int) -> Path:
    return workdir / "cells" / row / f"seed{seed}"


def _result(workdir: Path, row: str, seed: int) -> Path:
    return workdir / "results" / f"{row}-seed{seed}.json"


if __name__ == "__main__":
    several: dict[str, list[Any]] = {}
    config_file.run(
        lambda config, flags: main(config, flags, several),
        FLAGS,
        interrupted="interrupted; the same command goes on where it stopped",
        complete=False,
        lists=several,
    )
