"""Checkpoints: the only file that knows orbax.

A training's folder holds one folder a checkpointed step. A step has three items:
``model`` (the backbone's ``params`` and ``batch_stats``: what is delivered and what a field
such as ``original.checkpoint`` reads), ``training`` (everything else that a resume needs)
and ``cost`` (JSON). Orbax writes into a temporary folder while training goes on and renames it, so
a step exists whole or not at all. What a disk or a copy does to it later is seen by ``digest.json``
in the step (``ec_jax/digests.py``), made before that: it names all but orbax's notes of when it
wrote, which nothing here reads. A step without one, made by an earlier version, is taken if all of
it can be read, and gets one.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from ec_jax import digests, processes
from ec_jax.errors import InputError, TrainingError, no_space
from ec_jax.models.network import Variables, named_arrays, shapes
from ec_jax.training.state import TrainState
from ec_jax.workdir import read_json

_MANIFEST = bytes.fromhex("0cdb3a2a")  # what a manifest of arrays begins with
_ITEMS = ("model", "training", "cost")
_NOTES = ("_CHECKPOINT_METADATA", "commit_success.txt")  # orbax writes them when it renames
_ANEW = "is damaged ({}); start again with this stage, and the checkpoint before it is used"


class Checkpoints:
    """The checkpoints of one training.

    Attributes:
      every: steps between two of them.
    """

    def __init__(self, folder: Path, every: int = 1, keep: int = 1):
        """Opens ``folder`` (made if missing), keeping the newest ``keep`` checkpoints."""
        self.every = every
        self._folder = Path(folder).absolute()
        self._manager = ocp.CheckpointManager(
            self._folder,
            item_names=_ITEMS,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                # What a killed run left half-written.
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            ),
        )
        self._writing: int | None = None  # the step

    def latest_step(self) -> int | None:
        """The newest checkpoint's step, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, cost: Mapping[str, float]) -> None:
        """Begins to write the state at its own step, with what it has cost so far.

        It is there after ``wait``, at the latest. Until then the state must not be donated.

        Raises:
          TrainingError: as ``wait``, of the one before it.
        """
        self.wait()
        model, rest = _take_apart(state)
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            training=ocp.args.StandardSave(rest),
            cost=ocp.args.JsonSave(dict(cost)),
        )
        self._writing = int(state.step)
        with self._told():
            self._manager.save(self._writing, args=items)

    def wait(self) -> None:
        """Returns when the newest checkpoint is written.

        Raises:
          TrainingError: there is no space for it; those before it stay as they are.
        """
        with self._told():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # orbax and tensorstore have no common one
            if not (reason := no_space(error)):
                raise
            raise TrainingError(
                f"{self._folder}: step {self._writing} cannot be saved: {reason}; free some space "
                "and give the same command again: it goes on from the newest checkpoint"
            ) from error

    def _seal(self) -> None:
        """In the first process, when all have written and orbax has not yet renamed the folder."""
        (temporary,) = self._folder.glob(f"{self._writing}{ocp.utils.TMP_DIR_SUFFIX}*")
        digests.seal(temporary, _NOTES)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, float]]:
        """The newest checkpoint, with the shapes, types and devices of ``like``.

        The leaves of ``like`` are arrays, or shapes alone: those are put on the first device.

        Raises:
          InputError: it is damaged; a training's own are looked at before, see ``mend``.
        """
        model, rest = jax.tree.map(_template, _take_apart(like))
        found = self._manager.restore(
            self._whole_step(),
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(model),
                training=ocp.args.StandardRestore(rest),
                cost=ocp.args.JsonRestore(),
            ),
        )
        return _put_together(found.model, found.training), found.cost

    def cost(self) -> dict[str, float]:
        """What the newest checkpoint's training had cost.

        Raises:
          InputError: it is damaged.
        """
        return self._manager.restore(
            self._whole_step(), args=ocp.args.Composite(cost=ocp.args.JsonRestore())
        ).cost

    def _whole_step(self) -> int | None:
        step = self.latest_step()
        if step is not None and (why := damage(self._folder / str(step))):
            raise InputError("checkpoint", str(self._folder / str(step)), _ANEW.format(why))
        return step

    def close(self) -> None:
        """Ends the manager's threads, when the newest checkpoint is written.

        Raises:
          TrainingError: as ``wait``.
        """
        with self._told():
            self._manager.close()


def _take_apart(state: TrainState) -> tuple[dict, dict]:
    model = {
        "params": state.params["backbone"],
        "batch_stats": state.batch_stats["backbone"],
    }
    rest = {
        "step": state.step,
        "params": {k: v for k, v in state.params.items() if k != "backbone"},
        "batch_stats": {k: v for k, v in state.batch_stats.items() if k != "backbone"},
        "opt_state": state.opt_state,
        "spread": state.spread,
    }
    return model, rest


def _put_together(model: dict, rest: dict) -> TrainState:
    return TrainState(
        step=rest["step"],
        params={"backbone": model["params"], **rest["params"]},
        batch_stats={"backbone": model["batch_stats"], **rest["batch_stats"]},
        opt_state=rest["opt_state"],
        spread=rest["spread"],
    )


def latest_step(folder: Path) -> int | None:
    """The newest checkpoint's step in a training's folder, or None; opens nothing."""
    names = (p.name for p in folder.glob("*"))
    return max((int(n) for n in names if re.fullmatch("[0-9]{1,18}", n)), default=None)


def damage(step: Path) -> str:
    """What is wrong with a checkpointed step; empty where nothing is.

    Args:
      step: its folder. Without a digest all of its arrays are read.
    """
    if digests.sealed(step):
        return digests.damage(step)
    for item in _ITEMS[:2]:
        try:
            _check_manifest(step / item)
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.restore(step / item)
        except Exception as error:  # orbax and tensorstore have no common one
            if processes.misses_another(error):
                raise
            return f"{item} cannot be read: {_in_short(error)}"
    try:
        read_json(step / "cost" / "metadata")
    except (OSError, ValueError) as error:
        return f"cost cannot be read: {_in_short(error)}"
    return ""


def _newest(folder: Path) -> int | None:
    """The first process's: elsewhere a common disk may still show what that one has renamed."""
    here = latest_step(folder)
    step = processes.of_first(-1 if here is None else here)
    return None if step < 0 else step


def mend(folder: Path) -> list[dict[str, Any]]:
    """Sets damaged steps aside, newest first, down to one that is whole.

    They are renamed, not deleted. A whole step without a digest gets one. Nobody may have opened
    the folder yet. All processes of a run do this together.

    Args:
      folder: a training's.

    Returns:
      For each of them ``step``, ``reason`` and ``moved`` (where to); none where all is well.
    """
    found = []
    while (step := _newest(folder)) is not None:
        place = folder / str(step)
        why = damage(place)  # in all processes, as they read arrays together
        if not processes.any_process(bool(why)):
            if processes.primary() and not digests.sealed(place):
                digests.seal(place, _NOTES)
            processes.wait("whole")
            break
        moved, number = folder / f"{step}.damaged", 1
        while moved.exists():
            number += 1
            moved = folder / f"{step}.damaged{number}"
        processes.wait("damaged")
        if processes.primary():
            place.rename(moved)
        processes.wait("set aside")
        reason = why or "another process cannot read it"
        found.append({"step": step, "reason": reason, "moved": str(moved)})
    return found


def find_model(path: str | Path, field: str) -> Path:
    """The ``model`` item under ``path``: a training's folder, one step of it, or the item.

    Args:
      path: as the user gave it.
      field: where, for messages.

    Raises:
      InputError: nothing of the kind is there, or it is damaged.
    """
    path = Path(os.path.expanduser(path)).absolute()
    for folder in (path, path / "model", path / str(latest_step(path)) / "model"):
        if digests.sealed(folder.parent) and (why := digests.damage(folder.parent, "model")):
            raise _unreadable(path, field, why)
        if os.path.isfile(folder / "_METADATA"):
            return folder
    raise InputError(
        field,
        str(path),
        "no checkpoint there; give a folder such as RUN/checkpoints/original",
    )


def check_model(path: str | Path, expected: Variables, field: str) -> None:
    """Refuses a checkpoint whose parameters are not those of the model.

    Args:
      path: as for ``find_model``.
      field: as for ``find_model``.
      expected: the shapes of the backbone's {"params", "batch_stats"}.

    Raises:
      InputError: names the first parameter that differs and both shapes.
    """
    found, wanted = shapes(stored_shapes(path, field)), shapes(expected)
    # Parameters first: BatchNorm's statistics differ only where they do.
    names = sorted(wanted.keys() | found.keys(), key=lambda n: (not n.startswith("params"), n))
    for name in names:
        here, there = found.get(name, "nothing"), wanted.get(name, "nothing")
        if here != there:
            raise InputError(
                field,
                str(path),
                f"does not fit the model: {name} is {here} there and {there} here; "
                "set model.* and data.name to what it was trained with",
            )


def stored_shapes(path: str | Path, field: str) -> Variables:
    """Shapes and types of the backbone's {"params", "batch_stats"}; no array is read.

    Args:
      path: as for ``find_model``.
      field: as for ``find_model``.

    Raises:
      InputError: there is no checkpoint, or it is damaged.
    """
    folder = find_model(path, field)
    try:
        _check_manifest(folder)
        with ocp.StandardCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(folder).item_metadata
        # Of damaged files orbax tells no error: there is then nothing in them.
        found = jax.tree.map(_shape, metadata.tree if hasattr(metadata, "tree") else metadata)
        reason = "" if jax.tree.leaves(found) else "it holds no parameters"
    except Exception as error:
        if processes.misses_another(error):
            raise
        reason = type(error).__name__
    if reason:
        raise _unreadable(path, field, reason)
    return found


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype)


def _check_manifest(item: Path) -> None:
    # Looked at first: orbax's threads speak on stderr about one that is damaged.
    if (item / "manifest.ocdbt").read_bytes()[:4] != _MANIFEST:
        raise ValueError("manifest.ocdbt")


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]


def _unreadable(path: str | Path, field: str, reason: str) -> InputError:
    remedy = f"cannot be read ({reason}); copy the checkpoint anew, or give another"
    return InputError(field, str(path), remedy)


def load_model(path: str | Path, like: Variables, field: str = "checkpoint") -> Variables:
    """The backbone's {"params", "batch_stats"} under ``path``.

    Args:
      path: as for ``find_model``.
      like: their shapes and types.
      field: as for ``find_model``.

    Raises:
      InputError: its arrays cannot be read.
    """
    folder = find_model(path, field)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(folder, jax.tree.map(_template, like))
    except Exception as error:  # orbax and tensorstore have no common one
        if processes.misses_another(error):
            raise
        raise _unreadable(path, field, type(error).__name__) from error


def save_model(folder: Path, variables: Variables) -> None:
    """Writes a backbone's {"params", "batch_stats"} where ``find_model`` finds it."""
    folder = Path(folder).absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "model", variables)
    digests.seal(folder)


def identity(path: str | Path, like: Variables, field: str) -> dict[str, Any]:
    """Which model is under ``path``, for a record.

    Args:
      path: as for ``find_model``.
      like: shapes and types of its arrays.
      field: as for ``find_model``.

    Returns:
      ``path`` (of the step, or of what holds the item), ``sha256`` (of its digest file; None
      without one) and ``parameters`` (SHA-256 of names and arrays, wherever they are stored).

    Raises:
      InputError: as ``find_model`` and ``load_model``.
    """
    folder = find_model(path, field).parent
    seal = folder / digests.SEAL
    return {
        "path": str(folder),
        "sha256": digests.of_file(seal) if seal.is_file() else None,
        "parameters": digests.of_arrays(named_arrays(load_model(path, like, field))),
    }


def _template(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
