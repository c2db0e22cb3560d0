"""Arrows go down only: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ec_jax"

# A module may import those of its own layer and of the layers before it.
LAYERS = [
    {"errors", "rng", "registry", "rules", "recipes", "termination", "watched"},
    {"processes"},
    {"parallel"},
    {"data", "models", "losses", "kernels"},
    {"methods"},
    {"data_config"},
    {"config"},
    {"workdir", "command", "digests"},
    {"records"},
    {"scenario", "config_file"},
    {"training", "checkpoint", "imported", "torch_files"},
    {"evaluation"},
    {"report"},
    {"pipeline", "own"},
    {"cells", "sequence"},
    {"main", "audit", "verify", "compare", "sweep", "convert", "preflight"},
    {"tune"},
]
# Rooms of one layer that know nothing of each other.
STRANGERS = [("data", "models"), ("data", "losses"), ("models", "losses")]
FILES = sorted(PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    """Full names of everything that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{a.name}" for a in node.names}
    return names


def _rooms(path: Path) -> set[str]:
    return {n.split(".")[1] for n in _imports(path) if n.startswith("ec_jax.")}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    room = _room(path)
    if room == "__init__":
        return
    order = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    for other in _rooms(path) - {room}:
        assert order[other] <= order[room], f"{room} imports {other}"
        assert (room, other) not in STRANGERS
        assert (other, room) not in STRANGERS


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_has_at_most_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


def test_only_checkpoint_knows_orbax():
    users = {p.name for p in FILES if any("orbax" in n for n in _imports(p))}
    assert users == {"checkpoint.py"}


def test_importing_the_pipeline_imports_nothing_that_some_runs_do_without():
    code = (
        "import sys, ec_jax.pipeline;"
        "print({'sklearn', 'tensorboardX', 'tensorflow', 'torch'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stderr
