"""The command: ``python -m ec_jax.main --config=configs/digits.py --workdir=runs/digits``.

Exit status: 0 done, 2 input that cannot be used, 3 training that could not go on,
130 interrupted. A mistake is answered with one line on stderr.
"""

import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from ec_jax import config as config_lib
from ec_jax.errors import InputError, TrainingError

# Config files import one another as `configs.NAME`, from whatever folder they are started.
sys.path.append(str(Path(__file__).resolve().parent.parent))

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file with get_config(), e.g. configs/digits.py.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run's results and checkpoints go.")


def main(argv: Sequence[str]) -> None:
    """Runs the experiment that the flags describe."""
    logging.set_verbosity(logging.ERROR)  # orbax tells of every file that it opens
    try:
        if len(argv) > 1:
            raise InputError("argument", argv[1], "not understood; flags are written --name=value")
        if not _WORKDIR.value:
            raise InputError(
                "--workdir", _WORKDIR.value, "give a folder, e.g. --workdir=runs/digits"
            )
        config = _CONFIG.value
        config_lib.validate(config)
        config_lib.check_workdir(config, _WORKDIR.value)
        from ec_jax.pipeline import Experiment  # JAX is imported only for input that can work

        Experiment(config, _WORKDIR.value).run()
    except InputError as error:
        _end(2, str(error))
    except TrainingError as error:
        _end(3, str(error))
    except KeyboardInterrupt:
        _end(130, "interrupted; the same command goes on from the newest checkpoint")


def parse_flags(argv: Sequence[str]) -> list[str]:
    """absl's parser, answering mistakes with one line and exit status 2."""
    if not any(a.split("=")[0].lstrip("-") in ("config", "help", "helpfull") for a in argv[1:]):
        _end(2, "--config: missing; give a file, e.g. --config=configs/digits.py")
    try:
        for argument in argv[1:]:
            _check_config_file(argument)
        return flags.FLAGS(list(argv))
    except InputError as error:
        _end(2, str(error))
    except flags.UnrecognizedFlagError as error:
        _end(2, _unknown_flag(error.flagname))
    except (AttributeError, KeyError) as error:
        _end(2, _unknown_field(argv, error))
    except Exception as error:  # whatever a config file raises, and values of a wrong type
        _end(2, " ".join(f"{error}".split()))


def _check_config_file(argument: str) -> None:
    name, _, value = argument.lstrip("-").partition("=")
    path = Path(value.partition(":")[0])
    if name != "config" or path.is_file():
        return
    near = difflib.get_close_matches(str(path), map(str, path.parent.glob("*.py")), 1, 0.0)
    hint = f"did you mean {near[0]}?" if near else "give a file, e.g. configs/digits.py"
    raise InputError("--config", value, f"no such file; {hint}")


def _unknown_flag(name: str) -> str:
    if not name.startswith("config."):
        near = config_lib.nearest(name, ["config", "workdir"])
        return f"--{name}: no such flag; {near} fields of the config are --config.FIELD=VALUE"
    return _nearest_field(name.removeprefix("config."))


def _unknown_field(argv: Sequence[str], error: Exception) -> str:
    for argument in argv:
        name = argument.lstrip("-").partition("=")[0]
        if name.startswith("config.") and name.removeprefix("config.") not in _fields():
            return _nearest_field(name.removeprefix("config."))
    return " ".join(f"--config: {error}".split())


def _nearest_field(field: str) -> str:
    near = difflib.get_close_matches(field, list(_fields()), 1, 0.0)[0]
    return f"--config.{field}: no such field; did you mean {near}?"


def _fields() -> dict:
    from configs import default

    return config_lib.flatten(default.get_config())


def _end(status: int, line: str) -> None:
    print(f"error: {' '.join(line.split())}", file=sys.stderr, flush=True)
    sys.exit(status)


def run() -> None:
    """Entry point of ``python -m ec_jax.main``."""
    # TFDS and XLA speak on stderr, where a user looks for errors.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    run()
