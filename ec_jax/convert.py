"""The command between PyTorch's files of weights and our checkpoints.

    python -m ec_jax.convert inspect FILE
    python -m ec_jax.convert import FILE --out=DIR [--model=resnet50]
    python -m ec_jax.convert export DIR --layout=torchvision --out=FILE

inspect   says what network a file is of, whose names it has, what else is in it and what is missing
import    makes a checkpoint of it, for --config.original.checkpoint=DIR
export    makes a file that torchvision's or timm's own class loads with strict=True

FILE is a .pth, .pth.tar, .tar, .pt, .bin or .safetensors; what is written is .pth or .safetensors.
Nothing in a file is run: one that holds more than weights is refused. DIR is an imported model, a
run's RUN/checkpoints/unlearn or one step of it.

Exit status: 0 done, 2 input that cannot be used, 130 interrupted.
"""

import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ec_jax import command
from ec_jax.errors import InputError, nearest, printable

MODELS = {  # {name: fields of the config's model group}
    **{f"resnet{depth}": {"name": "resnet", "depth": depth} for depth in (18, 34, 50, 101)},
    **{
        f"vit_{size}_16": {"name": "vit", "depth": 12, "width": width, "patch": 16}
        for size, width in (("ti", 192), ("s", 384), ("b", 768))
    },
    "swin_t": {"name": "swin", "depth": 12, "width": 96, "patch": 4},
    "convnext_t": {"name": "convnext", "depth": 18, "width": 96, "patch": 4},
}
ACTIONS = ("inspect", "import", "export")


def main(arguments: Sequence[str]) -> None:
    """Does what the first argument says."""
    parser = command.Parser(prog="python -m ec_jax.convert", description=__doc__)
    parser.add_argument("action", metavar="ACTION", nargs="?", help=", ".join(ACTIONS))
    parser.add_argument("path", metavar="PATH", nargs="?", help="FILE, of export DIR")
    parser.add_argument("--out", metavar="PATH", help="DIR of import, FILE of export")
    parser.add_argument("--model", metavar="NAME", help="what FILE must be: resnet50, swin_t, …")
    parser.add_argument("--key", metavar="KEY", help="which state dict in FILE: state_dict_ema, …")
    parser.add_argument("--layout", metavar="NAME", help="whose names: torchvision or timm")
    found = parser.parse(arguments)
    if found.action not in ACTIONS:
        near = nearest(found.action or "", ACTIONS)
        raise InputError("ACTION", found.action, f"one of {', '.join(ACTIONS)}; {near}")
    if not found.path:
        raise InputError("PATH", found.path, "give a file, or of export a checkpoint's folder")
    if found.action != "inspect" and not found.out:
        raise InputError("--out", found.out, "give where it is to be written")
    {"inspect": _inspect, "import": _import, "export": _export}[found.action](found)


# Reading.


def _read(found: Any) -> tuple[Any, Any]:
    """The weights in the file and the network that they are of."""
    from ec_jax import torch_files
    from ec_jax.models import torch_weights

    weights = torch_files.read(found.path, found.key or "")
    try:
        shapes = {name: array.shape for name, array in weights.state.items()}
        return weights, torch_weights.recognise(shapes)
    except torch_weights.UnknownWeightsError as error:
        raise InputError("FILE", found.path, f"no network of ours; {error}") from error


def _inspect(found: Any) -> None:
    from ec_jax.models import torch_weights

    weights, architecture = _read(found)
    missing, unknown = torch_weights.apart(weights.state, architecture)
    size = sum(array.size for array in weights.state.values() if array.dtype.kind == "f")
    rows = {
        "network": _title(architecture),
        "layout": architecture.layout,
        "classes": architecture.num_classes,
        "numbers": f"{size:,}",
        "in the file": weights.key or "at the top",
        "also there": ", ".join(weights.others) or "nothing",
        "normalisation inside": _normalization(weights) or "none",
        "missing names": ", ".join(missing) or "none",
        "unknown names": ", ".join(unknown) or "none",
        "sha256": weights.sha256,
    }
    for name, value in rows.items():
        print(printable(f"{name + ':':22}{value}"))  # names are the file's


def _title(architecture: Any) -> str:
    """The name in ``MODELS`` where there is one."""
    fields = _fields(architecture)
    for name, known in MODELS.items():
        if known.items() <= fields.items() and fields["width"] == known.get("width", 64):
            return f"{name}, {fields['stem']} stem" if fields["name"] == "resnet" else name
    return " ".join(f"{field}={value}" for field, value in fields.items())


def _fields(architecture: Any) -> dict[str, Any]:
    """The fields of the config's model group."""
    a = architecture
    fields = {"name": a.name, "depth": a.depth, "width": a.width}
    if a.name == "resnet":
        return {**fields, "stem": a.stem, "padding": "symmetric"}
    return {**fields, "patch": a.patch}


def _normalization(weights: Any) -> str:
    """Mean and deviation as the field ``data.normalize`` has them; empty where there are none."""
    if weights.mean is None:
        return ""
    return ";".join(",".join(f"{v:.6g}" for v in row) for row in (weights.mean, weights.std))


# Import.


def _import(found: Any) -> None:
    weights, architecture = _read(found)
    fields = _fields(architecture)
    if found.model:
        if found.model not in MODELS:
            near = nearest(found.model, list(MODELS))
            raise InputError("--model", found.model, f"one of {', '.join(MODELS)}; {near}")
        if not MODELS[found.model].items() <= fields.items():
            title = _title(architecture)
            raise InputError("--model", found.model, f"the file is of a {title}; give that name")
    from ec_jax import checkpoint, imported, workdir
    from ec_jax.models import torch_weights

    out = Path(os.path.expanduser(found.out)).absolute()
    if workdir.contents(out, "--out"):
        raise InputError("--out", str(out), "holds files; choose a new folder")
    try:
        variables = torch_weights.to_variables(weights.state, architecture)
    except torch_weights.UnknownWeightsError as error:
        raise InputError(
            "FILE", found.path, f"is of another {architecture.name}; {error}"
        ) from error
    origin = {
        "schema": 1,
        "file": weights.path.name,
        "sha256": weights.sha256,
        "key": weights.key,
        "layout": architecture.layout,
        "classes": architecture.num_classes,
        "model": fields,
        "normalize": _normalization(weights),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as part:
        checkpoint.save_model(Path(part) / "made", variables)
        workdir.write_json(Path(part) / "made" / imported.ORIGIN, origin)
        os.replace(Path(part) / "made", out)
    print(f"{_title(architecture)}, {architecture.num_classes} classes, written to {out}")
    if not origin["normalize"]:
        print("The file does not say how images are normalised; most of torchvision's and timm's")
        print("have data.normalize=imagenet, many ViTs of timm 0.5,0.5,0.5;0.5,0.5,0.5")
    if architecture.name == "vit" and architecture.width not in (192, 384, 768, 1024):
        print("Heads of attention are taken to have 64 channels each; the file does not say")
    print("To start from it:")
    flags = {f"model.{field}": value for field, value in fields.items()}
    if architecture.name == "vit":  # its positions are those of one size
        positions = variables["params"]["positions"].shape[1] - 1
        flags["data.image_size"] = math.isqrt(positions) * architecture.patch
    if origin["normalize"]:
        flags["data.normalize"] = f"'{origin['normalize']}'"
    flags["original.checkpoint"] = out
    print("    " + " ".join(f"--config.{field}={value}" for field, value in flags.items()))


# Export.


def _export(found: Any) -> None:
    if found.layout not in ("torchvision", "timm"):  # the others are read only
        raise InputError("--layout", found.layout, "give torchvision or timm")
    from ec_jax import checkpoint, imported, torch_files
    from ec_jax.models import torch_weights

    out = Path(os.path.expanduser(found.out)).absolute()
    torch_files.check_out(out)
    shapes = checkpoint.stored_shapes(found.path, "DIR")
    try:
        architecture = torch_weights.of_variables(shapes, found.layout)
    except torch_weights.UnknownWeightsError as error:
        raise InputError("DIR", found.path, str(error)) from error
    run = _run_folder(found.path)
    _check_run(found.path, run, architecture)
    variables = checkpoint.load_model(found.path, shapes, "DIR")
    told = _images(found.path, run)
    torch_files.write(out, torch_weights.to_state(variables, architecture))
    print(f"{_title(architecture)}, {architecture.num_classes} classes, written to {out}")
    if told:
        print(f"It takes images in [0, 1] that were normalised by {told}")
    if not run and architecture.name == "resnet" and not imported.origin(found.path, "DIR"):
        print("DIR is neither a run's nor imported: if it was trained with model.padding=same,")
        print("the default, PyTorch's class computes something else")
    if architecture.stem == "cifar":
        print("Their class has another stem: give it conv1 = Conv2d(3, …, 3, 1, 1, bias=False)")
        print("and maxpool = Identity() before the weights are loaded")


def _run_folder(path: str) -> Path | None:
    """The workdir that a checkpoint is in; None: it is no run's."""
    from ec_jax import checkpoint

    above = checkpoint.find_model(path, "DIR").parents
    folders = [f.parent for f in above if f.name == "checkpoints"][:1]
    return next((f for f in folders if (f / "config.json").is_file()), None)


def _images(path: str, run: Path | None) -> str:
    """Mean and deviation of every channel in words; nothing where they are not known."""
    from ec_jax import imported, workdir

    if run and (run / workdir.NORMALIZATION).is_file():
        found = _left(path, run / workdir.NORMALIZATION, ("mean", "std"), list)
        numbers = {n: [v for v in found[n] if isinstance(v, float)] for n in ("mean", "std")}
        rows = [",".join(f"{v:.6g}" for v in row) for row in numbers.values()]
    else:
        rows = imported.origin(path, "DIR").get("normalize", "").split(";")
    return "mean {} and deviation {}".format(*rows) if len(rows) == 2 else ""


def _left(path: str, file: Path, names: Sequence[str], kind: type) -> dict[str, Any]:
    """What a run left in a file, in which each of these names is of this type."""
    from ec_jax import workdir

    try:
        found = workdir.read_json(file)
        if wrong := [name for name in names if not isinstance(found.get(name), kind)]:
            raise ValueError(f"{wrong[0]} is no {kind.__name__}")
    except ValueError as error:
        remedy = f"the run's {file.name} cannot be read ({error}); copy the run anew"
        raise InputError("DIR", path, remedy) from error
    return found


def _check_run(path: str, run: Path | None, architecture: Any) -> None:
    """Refuses a run's network that computes something else than PyTorch's from the same weights."""
    if not run:
        return
    config = _left(path, run / "config.json", ("model", "data"), dict)
    padding = config["model"].get("padding", "same")
    if architecture.name == "resnet" and padding != "symmetric":
        remedy = "PyTorch pads on both sides; only model.padding=symmetric can be exported"
        raise InputError("DIR", path, f"was trained with model.padding={padding}; {remedy}")
    if architecture.name == "swin" and architecture.layout != "torchvision":
        from ec_jax import rules

        # Images that are taken as they are have a side of their own, which none of these is.
        side = config["data"].get("image_size")
        side = side if side and isinstance(side, int) else 1
        try:
            rules.check_timm_size("data.image_size", side, architecture.patch)
        except InputError as error:
            remedy = f"{error.remedy}, or --layout=torchvision"
            raise InputError("--layout", architecture.layout, remedy) from error


def run() -> None:
    """Entry point of ``python -m ec_jax.convert``."""
    command.finish(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    run()
