"""The command: does a config fit TPUs, before any is rented?

    python -m ec_jax.preflight --config=configs/imagenet_resnet50.py --topology=v5e:4x4 \\
        [--batches_for=8] [--json=FILE] [--text=DIR]

--config=FILE        what is to be run; --config.FIELD=VALUE sets one of its fields
--topology=KIND:XxY  the chips: v5e:2x4, v6e:16x16, v4:2x2x1, v5p:4x4x4
--batches_for=N      the config's batches are meant for N chips; more get as many images each
--json=FILE          where the numbers go
--text=DIR           where the compiled programs go as text, a file each

The programs of the stages that the config asks for are compiled by libtpu, without a TPU, for
shapes alone: no data and no checkpoint are read. docs/scaling.md says what is assumed.

Exit status: 0 it fits, 1 it does not, 2 input that cannot be used, 3 the compiler fails,
130 interrupted, 143 terminated.
"""

import importlib.util
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from ec_jax import config as config_lib
from ec_jax import config_file
from ec_jax import workdir as workdir_lib
from ec_jax.errors import InputError
from ec_jax.preflight import chips

DOES_NOT_FIT = 1
FLAGS = {
    "topology": ("The chips, such as v5e:2x4.", "v5e:2x4"),
    "batches_for": ("Chips that the config's batches are meant for.", "8"),
    "json": ("Where the numbers go.", "runs/preflight.json"),
    "text": ("A folder for the compiled programs' text.", "runs/preflight"),
}
LIBTPU = "libtpu==0.0.42.1"  # that of jax 0.10.2; the extra `tpu` of pyproject.toml
# Without these libtpu looks for a TPU, asks the network what kind it is, and wants to be alone.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


def main(config: Any, flags: Any) -> None:
    """Compiles, prints, and ends the process with 1 if something does not fit."""
    if not flags.topology:
        known = f"give the chips, e.g. --topology={FLAGS['topology'][1]}"
        raise InputError("--topology", flags.topology, known)
    count, target, folder = chips.chips(flags.topology), None, None
    if flags.json is not None:
        target = _writable(flags.json)
    if flags.text is not None:
        folder = _folder(flags.text)
    config, meant = _scaled(config, flags.batches_for, count)
    config_lib.validate(config, data_there=False)
    if config.parallel.devices not in (0, count):
        remedy = f"{flags.topology} has {count} chips; use 0 for all"
        raise InputError("parallel.devices", config.parallel.devices, remedy)
    config_lib.check_batches(config, count)
    if importlib.util.find_spec("libtpu") is None:
        remedy = f"needs the compiler for TPUs; pip install {LIBTPU}"
        raise InputError("--topology", flags.topology, remedy)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from ec_jax.preflight import report  # JAX is imported only for input that can work

    _without_cache()
    command = shlex.join(["python", "-m", "ec_jax.preflight", *sys.argv[1:]])
    found = report.preflight(config, flags.topology, command, meant, folder)
    print(report.text(found), flush=True)
    if target:
        target.parent.mkdir(parents=True, exist_ok=True)
        workdir_lib.write_json(target, found)
    sys.exit(0 if found["fits"] else DOES_NOT_FIT)


def _without_cache() -> None:
    """A program from a cache has no text and no size."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)


def _writable(given: str) -> Path:
    """The file, where one can be written."""
    path = Path(os.path.expanduser(given)).absolute()
    if not given or path.is_dir():
        raise InputError("--json", given, f"give a file, e.g. --json={FLAGS['json'][1]}")
    workdir_lib.contents(path.parent, "--json")
    return path


def _folder(given: str) -> Path:
    """The folder, where one can be written to."""
    path = Path(os.path.expanduser(given)).absolute()
    if not given or (path.exists() and not path.is_dir()):
        raise InputError("--text", given, f"give a folder, e.g. --text={FLAGS['text'][1]}")
    workdir_lib.contents(path, "--text")
    return path


def _scaled(config: Any, spec: str | None, count: int) -> tuple[Any, int | None]:
    """The config whose batches have as many images a chip as it has for N chips; N."""
    if spec is None:
        return config, None
    if not re.fullmatch("[1-9][0-9]{0,5}", spec):
        raise InputError("--batches_for", spec, "give a number of chips, e.g. --batches_for=8")
    meant = int(spec)
    config = config.copy_and_resolve_references().unlock()
    for name in chips.BATCHES:
        size = config.data[name] * count
        if size % meant:
            remedy = f"data.{name} = {config.data[name]} are no whole images a chip; give another"
            raise InputError("--batches_for", spec, remedy)
        config.data[name] = size // meant
    return config.lock(), meant


if __name__ == "__main__":
    config_file.run(main, FLAGS, interrupted="interrupted; nothing was written")
