"""Nothing that is read is run: what the sources may call, and what reading a checkpoint loads."""

import ast

import numpy as np
import pytest
from command import ROOT, command

from ec_jax import checkpoint

FILES = sorted((ROOT / "ec_jax").rglob("*.py"))
# Formats and programs that run what they read.
RUNNING = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "subprocess"}
# Who runs a file on purpose: config files, sweeps, the default config; modules of methods.
PROGRAMS = {
    "runpy.run_path": {"config_file.py", "sweep.py", "config.py"},
    "importlib.import_module": {"registry.py"},
}
# {call: (argument, what it must be)}
NEEDED = {
    "np.load": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}


def _calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: k.value for k in node.keywords}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_read_by_what_would_run_it(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    # For the name of the error alone that PyTorch's own reader raises.
    assert not imported & RUNNING or path.name == "torch_files.py"
    if path.name == "torch_files.py":
        names = {n for n in ast.unparse(ast.parse(path.read_text())).split() if "pickle." in n}
        assert names == {"pickle.UnpicklingError"}
    for name, keywords in _calls(path):
        assert name not in ("eval", "exec", "compile", "__import__", "os.system", "os.popen")
        if name in PROGRAMS:
            assert path.name in PROGRAMS[name]
        if name in NEEDED:
            argument, value = NEEDED[name]
            assert ast.literal_eval(keywords[argument]) is value
        if name == "Image.open":
            assert "formats" in keywords


def test_reading_a_checkpoint_loads_no_pickle(tmp_path):
    """By Python's own event for it, which every unpickler raises for what it would call."""
    tree = {"params": {"head": {"kernel": np.ones((2, 3), np.float32)}}, "batch_stats": {}}
    checkpoint.save_model(tmp_path, tree)
    code = (
        "import sys\n"
        "from ec_jax import checkpoint\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, _: seen.append(event))\n"
        f"shapes = checkpoint.stored_shapes({str(tmp_path)!r}, 'x')\n"
        f"checkpoint.load_model({str(tmp_path)!r}, shapes)\n"
        "assert 'open' in seen\n"
        "print([e for e in seen if e.startswith(('pickle', 'marshal.load', 'subprocess'))])\n"
    )
    done = command(module="this", before=f"exec({code!r}); sys.exit(0)")
    assert done.stdout == "[]\n", done.stderr
