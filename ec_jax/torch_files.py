"""Files of PyTorch weights: read without running what is in them, and written whole.

PyTorch is needed for its own files, not for ``.safetensors``; it is imported only then.
"""

import argparse
import dataclasses
import hashlib
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ec_jax.errors import InputError, nearest
from ec_jax.workdir import check_path, contents, write_whole

_SAFE = (2, 6)  # torch before it runs code in crafted files (CVE-2025-32434)
_COUNTERS = ("n_averaged",)  # beside the weights of PyTorch's AveragedModel
# What reading a damaged pickle raises.
_BROKEN = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    AssertionError,
    TypeError,
    AttributeError,
)
SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".safetensors")
# Where training scripts put a state dict, the first that is there; then averages of weights.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "params")
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
# A layer that normalises images inside the model, by its own name or as the first of a sequence.
_NORMALIZATION = re.compile(r"^(?:.*\.)?(?:normalize|normalizer|normalization|0)\.(mean|std)$")


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a file holds.

    Attributes:
      state: {name: array}, without wrappers, prefixes and normalisation.
      path: the file.
      key: where in the file it was: names of wrappers with dots between them, or nothing.
      others: names of other state dicts beside it.
      mean: float32 [c], by which images are normalised inside the model; None if they are not.
      std: float32 [c], alike.
    """

    state: dict[str, np.ndarray]
    path: Path
    key: str
    others: tuple[str, ...]
    mean: np.ndarray | None = None
    std: np.ndarray | None = None

    @property
    def sha256(self) -> str:
        """Digest of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: str | Path, key: str = "") -> Weights:
    """The weights in a file.

    Args:
      path: ``.safetensors``, or what ``torch.save`` wrote: ``.pth``, ``.pt``, ``.tar``, ``.bin``.
      key: which of several state dicts; empty: the plain one before averages.

    Raises:
      InputError: no such file, one that holds more than weights, or no weights.
    """
    path = Path(os.path.expanduser(path))
    if not os.path.isfile(path):
        raise InputError("FILE", str(path), "no such file; give a file of weights")
    if path.suffix not in SUFFIXES:
        raise InputError("FILE", str(path), f"is none of {', '.join(SUFFIXES)}; rename it")
    found = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    state, where, others = _unwrapped(found, key, path)
    state = {n: _array(n, value, path) for n, value in state.items() if n not in _COUNTERS}
    state, mean, std = _without_normalization(state, path)
    return Weights(_without_prefix(state), path, where, others, mean, std)


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="flax") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _pickled(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        remedy = "is PyTorch's own format; install torch, or convert it to .safetensors"
        raise InputError("FILE", str(path), remedy) from error
    import pickle

    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < _SAFE:
        remedy = f"torch {torch.__version__} may run what is in it; install 2.6 or newer"
        raise InputError("FILE", str(path), remedy)
    _check_size(path)
    try:
        # Beside tensors and plain values what training scripts save; none of it can run anything.
        allowed = torch.serialization.safe_globals([argparse.Namespace, *_numpys()])
        with allowed, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an old pickle is read, or refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({named.group(1)})" if named else ""
        remedy = f"holds more than weights{what}, which is not run; save its state_dict() alone"
        raise InputError("FILE", str(path), remedy) from error
    except _BROKEN as error:
        raise _unreadable(path, error) from error


def _check_size(path: Path) -> None:
    """Refuses an archive that is larger inside than outside; PyTorch compresses nothing."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            inside = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if inside > 2 * path.stat().st_size:
        remedy = f"is compressed, and holds {inside} bytes; save it anew by torch.save"
        raise InputError("FILE", str(path), remedy)


def _numpys() -> list[Any]:
    """NumPy's numbers and arrays, which training scripts save beside weights."""
    inside = np._core.multiarray
    made = [(inside.scalar, "scalar"), (inside._reconstruct, "_reconstruct")]
    # NumPy 1 called the module by another name.
    old = [(what, f"numpy.core.multiarray.{name}") for what, name in made]
    types = {type(np.dtype(kind)) for kind in "fdilqb?"}
    return [np.dtype, np.ndarray, *(what for what, _ in made), *old, *types]


def _unreadable(path: Path, error: Exception) -> InputError:
    # Of a damaged pickle PyTorch may tell a number alone.
    text = " ".join(str(error).split())[:120]
    reason = text if " " in text else f"{type(error).__name__} {text}".strip()
    return InputError("FILE", str(path), f"cannot be read ({reason}); fetch it anew")


def _array(name: str, value: Any, path: Path) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor; NumPy has no bfloat16
        value = value.detach()
        try:
            return (value.float() if value.is_floating_point() else value).numpy()
        except (RuntimeError, TypeError) as error:
            remedy = f"{name} is sparse or quantised ({type(error).__name__}); save it dense"
            raise InputError("FILE", str(path), remedy) from error
    value = np.asarray(value)
    return value if value.dtype.kind in "iub" else np.asarray(value, np.float32)


def _state(value: Any) -> dict[str, Any]:
    """The arrays of a state dict, beside which there may be numbers; empty if it is none."""
    if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
        return {}
    arrays = {k: v for k, v in value.items() if hasattr(v, "shape")}
    rest = (v for k, v in value.items() if k not in arrays)
    plain = all(isinstance(v, (int, float, str, type(None))) for v in rest)
    # An optimizer's state has arrays, too, but no layer's names.
    layers = any("." in name and len(array.shape) > 1 for name, array in arrays.items())
    return arrays if plain and layers else {}


def _states(value: Any, before: str = "") -> dict[str, Any]:
    """{dotted key: state dict} of all that are in nested dictionaries."""
    if arrays := _state(value):
        return {before: arrays}
    found = {}
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        found |= _states(inner, f"{before}.{name}" if before else str(name))
    return found


def _unwrapped(found: Any, key: str, path: Path) -> tuple[Any, str, tuple[str, ...]]:
    states = _states(found)
    if not states:
        kind = type(found).__name__
        raise InputError("FILE", str(path), f"holds no state dict but a {kind}; save state_dict()")
    if key and key not in states:
        raise InputError("--key", key, f"not in the file; {nearest(key, list(states))}")

    def order(name):
        last = name.rpartition(".")[2]
        known = (*WRAPPERS, *AVERAGES)
        return known.index(last) if last in known else len(known) if name else -1

    chosen = key or min(states, key=order)
    if not key and chosen and order(chosen) == len((*WRAPPERS, *AVERAGES)) and len(states) > 1:
        remedy = f"holds several; add --key= and one of {', '.join(states)}"
        raise InputError("FILE", str(path), remedy)
    return states[chosen], chosen, tuple(name for name in states if name != chosen)


def _without_normalization(
    state: dict[str, np.ndarray], path: Path
) -> tuple[dict[str, np.ndarray], np.ndarray | None, np.ndarray | None]:
    """The state dict without a layer that normalises images, and its mean and deviation."""
    keys = {m.group(1): key for key in state if (m := _NORMALIZATION.match(key))}
    if not keys:
        return state, None, None
    if keys.keys() != {"mean", "std"}:
        remedy = f"has {' and '.join(keys.values())} without the other; give both or none"
        raise InputError("FILE", str(path), remedy)
    mean, std = (np.float32(state[keys[k]]).reshape(-1) for k in ("mean", "std"))
    if not (std > 0).all() or (std > 1).any() or (np.abs(mean) > 1).any():
        remedy = f"normalises by {mean} and {std} inside, which is not of values in [0, 1]; take "
        raise InputError("FILE", str(path), f"{remedy}that layer out")
    return {k: v for k, v in state.items() if k not in keys.values()}, mean, std


def _without_prefix(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names without what all of them begin with: ``module.``, ``model.``, ``_orig_mod.``."""
    while len({name.partition(".")[0] for name in state}) == 1 and all("." in n for n in state):
        state = {name.partition(".")[2]: value for name, value in state.items()}
    return state


def check_out(path: Path) -> None:
    """Refuses a file that cannot be written.

    Args:
      path: as for ``write``.

    Raises:
      InputError: another ending, something of that name, or no folder for it.
    """
    if path.suffix not in (".safetensors", ".pth"):
        raise InputError("--out", str(path), "end it with .safetensors or .pth")
    check_path(path, "--out")
    if os.path.lexists(path):
        raise InputError("--out", str(path), "is there already; choose another name")
    contents(path.parent, "--out")


def write(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict, whole or not at all.

    Args:
      path: ``.safetensors``, or ``.pth`` for ``torch.load(weights_only=True)``.
      state: {name: array}.

    Raises:
      InputError: as ``check_out``, or PyTorch is needed and not there.
    """
    check_out(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        write_whole(path, lambda part: save_file(dict(state), part))
        return
    try:
        import torch
    except ImportError as error:
        remedy = "is PyTorch's own format; install torch, or end it with .safetensors"
        raise InputError("--out", str(path), remedy) from error
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    write_whole(path, lambda part: torch.save(tensors, part))
