"""The project can be installed: a wheel holds the package and its configs, and works anywhere."""

import os
import shutil
import subprocess
import sys

import pytest
from command import ROOT, installed


@pytest.mark.slow
def test_an_installed_wheel_runs_from_another_folder(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("ec_jax", "configs", "pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    installed(source, tmp_path / "site")
    code = (
        "import sys, ec_jax.main as m; from configs import cifar10;"
        "from ec_jax.report import page; page.document('A page', []);"
        "print(m.__file__, cifar10.get_config().data.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )
    assert done.stdout.split() == [str(tmp_path / "site" / "ec_jax" / "main.py"), "cifar10"]
