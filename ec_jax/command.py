"""How every command of ec_jax ends: status 0, or one line on stderr and the status that says why.

0 done, 2 input that cannot be used, 3 training that could not go on, 130 interrupted,
143 terminated (SIGTERM).
"""

import argparse
import hashlib
import os
import platform
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import logging

from ec_jax import termination
from ec_jax.config import nearest
from ec_jax.errors import InputError, TrainingError, no_space, printable, shortened

_CACHE = 2**31  # bytes of compiled programs that are kept; the oldest go
_WORTH = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2"  # to be kept
_HUGE, _PAGES = "glibc.malloc.hugetlb", Path("/sys/kernel/mm/transparent_hugepage/enabled")
_LINE = 2000  # characters; a list of names in a file has no end


def end(status: int, line: str) -> NoReturn:
    """Ends the process with one line on stderr.

    Args:
      status: the exit status.
      line: what went wrong; line breaks become spaces, control characters escapes.
    """
    _say(line)
    sys.exit(status)


def _say(line: str) -> None:
    line = printable(shortened(" ".join(line.split()), _LINE))
    sys.stderr.write(f"error: {line}\n")  # at once: several processes may share it
    sys.stderr.flush()


def _leave(status: int) -> NoReturn:
    """Ends the process without waiting for what libraries are doing in threads of theirs.

    A program that is being compiled while Python takes itself apart would end in a crash.
    """
    sys.stdout.flush()
    os._exit(status)


def finish(
    work: Callable[[], None],
    *,
    interrupted: str = "interrupted",
    leave: Callable[[int], NoReturn] = _leave,
) -> None:
    """Calls ``work``; what it raises on purpose ends the process with one line.

    Args:
      work: all that the command does, the reading of its arguments included.
      interrupted: the line for Ctrl-C; for SIGTERM it is the same with another word.
      leave: ends the process then, with the status.
    """
    take_huge_pages()
    _keep_compiled()
    # Orbax tells of every file that it opens, and its threads of errors that it raises as well.
    logging.set_verbosity(logging.FATAL)
    try:
        termination.install()
        work()
    except InputError as error:
        end(2, str(error))
    except TrainingError as error:
        end(3, str(error))
    except OSError as error:
        if not (reason := no_space(error)):
            raise
        where = error.filename or "a file of the results"
        end(3, f"{where}: {reason}; free some space and give the same command again")
    except KeyboardInterrupt:
        _say(interrupted)
        leave(130)
    except termination.Terminated:
        _say(interrupted.replace("interrupted", "terminated"))
        leave(termination.STATUS)


def take_huge_pages() -> None:
    """Starts the command anew, once, where Linux gives huge pages to those who ask for them.

    XLA takes the memory of a step from glibc at each call and gives it back, which is dear in pages
    of 4 KiB (docs/performance.md). Glibc asks for huge ones if its environment says so when a
    process begins. What ``GLIBC_TUNABLES`` says of them comes first.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    spec = sys.modules["__main__"].__spec__
    module = spec.name.removesuffix(".__main__") if spec else None
    command = ["-m", module, *sys.argv[1:]]
    # Started otherwise, in a notebook say, the process is not ours to replace.
    if _HUGE in tunables or sys.orig_argv[-len(command) :] != command:
        return
    if _PAGES.exists() and "[madvise]" in _PAGES.read_text():
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, f"{_HUGE}=1")))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _keep_compiled() -> None:
    """Has JAX, where it is not imported yet, keep compiled programs for later runs and children.

    Its own variables take precedence: ``JAX_COMPILATION_CACHE_DIR``, or none with
    ``JAX_ENABLE_COMPILATION_CACHE=false``.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        os.environ.setdefault(*_WORTH)
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(home) / "ec_jax" / f"compiled-{_processor()}"
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if os.access(there, os.W_OK):  # else every run compiles; JAX makes the folder
        for name, value in {"DIR": str(folder), "MAX_SIZE": str(_CACHE)}.items():
            os.environ.setdefault(f"JAX_COMPILATION_CACHE_{name}", value)
        os.environ.setdefault(*_WORTH)


def _processor() -> str:
    """A name of what this processor can do: one home may be that of unlike machines."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    can = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(f"{platform.machine()} {can}".encode()).hexdigest()[:8]


def environment() -> dict[str, str]:
    """That of a child that is to find these modules from whatever folder it is started."""
    here = str(Path(__file__).resolve().parent.parent)
    there = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{there}" if there else here}


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are an ``InputError``; flags are written out, ``--name=value``."""

    def __init__(self, *, prog: str, description: str):
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The values of the arguments.

        Args:
          arguments: without the program's name.

        Raises:
          InputError: a flag that does not exist, or what argparse finds wrong.
        """
        known = [name for action in self._actions for name in action.option_strings]
        for argument in arguments:
            name, _, value = argument.partition("=")
            if name.startswith("-") and name not in known:
                raise InputError(name, value or None, f"no such flag; {nearest(name, known)}")
        return self.parse_intermixed_args(arguments)

    def error(self, message: str) -> NoReturn:
        """What argparse calls for a mistake."""
        name, _, remedy = message.removeprefix("argument ").partition(": ")
        given = re.match("invalid .*: '(.*?)'", remedy)
        raise InputError(name, given and given[1], remedy or "see --help")
