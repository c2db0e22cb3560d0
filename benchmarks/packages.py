"""Fine-tuning as published packages for PyTorch have it, beside ours: their loops, our network."""

import importlib.util
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from benchmarks import step, timing, torch_step, torch_vision
from benchmarks.torch_resnet import Classifier
from ec_jax.errors import InputError
from ec_jax.models.resnet import STAGE_SIZES

MODEL, IMAGES = "resnet18_w16", 128
STEPS = 5  # that each side makes a call: the epochs of SUPREME's fine-tuning, of one batch each
SUPREME = "SUPREME_PYTHON"  # the environment's variable
_MODULE = "benchmarks.packages_supreme"


def lack(name: str) -> str:
    """How a benchmark's package is had where it is not there; "" where nothing is missing.

    Raises:
      InputError: ``SUPREME_PYTHON`` names no interpreter that has the package.
    """
    if name == "finetune_torchunlearn":
        there = all(map(importlib.util.find_spec, ("torchunlearn", "pandas")))
        return "" if there else "pip install -r requirements-dev.txt"
    return _supreme_lacks() if name == "finetune_supreme" else ""


def _supreme_lacks() -> str:
    wanted = "python3.11 -m venv V && V/bin/pip install supreme-unlearning==0.1.5 debugpy"
    python = os.environ.get(SUPREME)
    if not python:
        return f"{wanted}, then {SUPREME}=V/bin/python"
    try:
        ask = "import importlib.util as u; print(all(map(u.find_spec, ('supreme', 'debugpy'))))"
        found = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise InputError(SUPREME, python, f"no Python runs there; {wanted}") from None
    if found.stdout.strip() != "True":
        raise InputError(SUPREME, python, f"it lacks a package; {wanted}")
    return ""


def torchunlearn(smoke: bool) -> dict[str, Any]:
    """The training loop of torchunlearn; its user brings the loss, as the package lacks it."""
    work, start, model, image, label = _both(smoke)
    torch_vision.load()
    from torchunlearn import RobModel
    from torchunlearn.unlearn.trainer import Trainer
    from torchunlearn.utils.data import MergedLoaders

    class Finetune(Trainer):
        """Cross-entropy on the retain set."""

        def calculate_cost(self, batch: dict[str, list[torch.Tensor]]) -> torch.Tensor:
            images, labels = batch["Retain"]
            return torch.nn.functional.cross_entropy(self.rmodel(images), labels)

    torch.set_num_threads(timing.cores())
    rate = work.config.unlearn.optimizer.learning_rate
    trainer = Finetune(RobModel(model, step.CLASSES))
    trainer.setup(f"SGD(lr={rate}, momentum=0.9, weight_decay=5e-4)", n_epochs=1)
    loaders = MergedLoaders({"Retain": [(image, label)] * STEPS})

    def theirs() -> list[float]:
        trainer.fit(loaders, n_epochs=1, record_type=None, save_type=None)
        return model.losses(label)

    against = f"torchunlearn {version('torchunlearn')}'s Trainer, PyTorch {torch.__version__}"
    return _compared(work, start, theirs, against, smoke)


def supreme(smoke: bool) -> dict[str, Any]:
    """SUPREME's ``finetune``, in an interpreter of its own with the versions that it wants."""
    work, start, model, image, label = _both(smoke)
    made = work.network.backbone
    given = {
        "shape": (STAGE_SIZES[made.depth][0], made.width, step.CLASSES, image.shape[1]),
        "state": model.backbone.state_dict(),
        "image": image,
        "label": label,
        "threads": timing.cores(),
    }
    with tempfile.TemporaryDirectory() as folder:
        torch.save(given, f"{folder}/given.pt")
        # -E: the child's packages are those of its interpreter alone.
        command = [os.environ[SUPREME], "-E", "-m", _MODULE, f"{folder}/given.pt"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=timing.ROOT, **pipes) as child:
            against = f"supreme-unlearning {_answer(child)}"
            found = _compared(work, start, lambda: _answer(child, "go\n"), against, smoke)
    # The processor time of the other process is not known here.
    found["ratio"].pop("cpu")
    found.pop("other_seconds_cpu")
    return found


def _answer(child: subprocess.Popen, question: str = "") -> Any:
    child.stdin.write(question)
    child.stdin.flush()
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"{_MODULE} ended; what it printed says why")
    return json.loads(line)


def _both(smoke: bool) -> tuple[step.Work, Any, Classifier, torch.Tensor, torch.Tensor]:
    """Our work, its start, the same network in PyTorch, and the batch as a package's loader has it.

    The images are normalised float32 [b, c, h, w], in PyTorch's own order.
    """
    work = step.finetune_work(MODEL, smoke, IMAGES)
    start = step.variables(work.network)
    peer = torch_step.from_ours(work.network, start, step.SHAPE[0])
    batch = work.batch["retain"]
    image = (batch["image"] / 255 - step.MEAN) / step.STD
    image = torch.tensor(image, dtype=torch.float32).permute(0, 3, 1, 2).contiguous()
    return work, start, Classifier(peer.backbone), image, torch.tensor(batch["label"])


def _compared(
    work: step.Work, start: Any, theirs: Callable[[], list[float]], against: str, smoke: bool
) -> dict[str, Any]:
    made = step.ours(work, start)
    times = timing.compare(
        lambda: [made.step() for _ in range(STEPS)],
        theirs,
        pairs=2 if smoke else 5,
        difference=_difference,
        allowed=step.ALLOWED,
    )
    return {"what": f"{STEPS} steps, {work.what}", "against": against, **times}


def _difference(ours: list[float], theirs: list[float]) -> float:
    """Of the first losses; later ones follow other optimizers, and need only be there."""
    there = len(ours) == len(theirs) == STEPS and np.isfinite([*ours, *theirs]).all()
    return abs(ours[0] - theirs[0]) if there else np.inf
