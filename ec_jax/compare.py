"""The command that puts runs side by side: ``python -m ec_jax.compare RUN_DIR... --out=DIR``.

DIR then holds ``compare.html`` (a page that asks for nothing else), ``metrics.csv`` (every number
of every run), ``table.csv``, ``table.md``, ``table.tex`` and the plots as PNG. Runs of one method
and config are averaged over their seeds; runs of different scenarios never are: they are refused,
or, with --by-scenario, get a section each.

Exit status: 0 done, 2 input that cannot be used, 130 interrupted. A mistake is answered with one
line on stderr, and nothing is written.
"""

import sys
from collections.abc import Sequence

from ec_jax import command
from ec_jax.errors import printable


def main(arguments: Sequence[str]) -> None:
    """Compares the runs that the arguments name."""
    parser = command.Parser(prog="python -m ec_jax.compare", description=__doc__)
    parser.add_argument(
        "runs",
        metavar="RUN_DIR",
        nargs="*",
        help="a run's workdir, the folder of an audit, or a file of metrics",
    )
    parser.add_argument("--out", metavar="DIR", help="where the comparison goes")
    parser.add_argument(
        "--by-scenario", action="store_true", help="a section for each of several scenarios"
    )
    found = parser.parse(arguments)
    from ec_jax.report import comparison_files  # JAX and Matplotlib, only for what can work

    told = comparison_files.write(found.runs, found.out, by_scenario=found.by_scenario)
    print("\n".join(map(printable, told.split("\n"))))  # names are the files'


def run() -> None:
    """Entry point of ``python -m ec_jax.compare``."""
    command.finish(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    run()
