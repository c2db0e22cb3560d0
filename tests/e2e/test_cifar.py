"""CIFAR as its user runs it: real archive format, real builder, real command, every stage."""

import json

import archives
import numpy as np
import pytest
from command import command

# The builder expects the real archive; here it is told of a small one.
EXPECT = """
import tensorflow_datasets as tfds
cls = tfds.builder_cls("{name}")
(url,) = cls.url_infos
cls.url_infos = {{url: tfds.download.checksums.compute_url_info("{archive}")}}
"""
TELL = """
import atexit, sys
atexit.register(lambda: print("imported", "tensorflow" in sys.modules))
"""
SMALL = [
    *("--config.model.depth=8", "--config.model.width=4", "--config.original.epochs=2"),
    *("--config.modules.epochs=1", "--config.unlearn.steps=3", "--config.parallel.devices=1"),
    *("--config.data.batch_size=20", "--config.data.retain_batch_size=20"),
    *("--config.data.forget_batch_size=10", "--config.data.eval_batch_size=40"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make", "forget"),
    [
        ("cifar10", archives.make_cifar10, ["cat"]),
        ("cifar100", archives.make_cifar100, 10),
    ],
)
def test_the_users_own_command_takes_archives_and_runs_every_stage(name, make, forget, tmp_path):
    (tmp_path / "archives").mkdir()
    (tmp_path / "prepared").mkdir()
    archive, truth = make(tmp_path / "archives")
    arguments = [
        f"--config=configs/{name}.py",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.manual_dir={tmp_path / 'archives'}",
        f"--config.data.data_dir={tmp_path / 'prepared'}",
        *SMALL,
    ]
    before = EXPECT.format(name=name, archive=archive)
    done = command(*arguments, "--config.stages=original", before=before, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"data: preparing {name}" in done.stdout
    archive.unlink()

    done = command(*arguments, before=TELL, timeout=600)  # prepared: that is all it needs
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "original: done" in done.stdout
    assert "preparing" not in done.stdout
    assert "imported False" in done.stdout
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    scenario = metrics["scenario"]
    assert scenario["forget_names"] == forget or len(scenario["forget_names"]) == forget
    images, labels = scenario["images"], truth["train"][1]
    forgotten = np.isin(labels, scenario["forget_classes"]).sum()
    assert images["forget_train"] == forgotten
    assert images["retain_train"] == len(labels) - forgotten
    assert np.isfinite(list(metrics["models"]["unlearned"].values())).all()
