"""SUPREME's side of ``benchmarks.packages``: it runs where that package is, and knows no JAX.

``python -m benchmarks.packages_supreme FILE``: the file holds network and batch. It answers in
lines of JSON, versions first; then, for every line that it reads, it fine-tunes and gives the
losses of its steps.
"""

import contextlib
import io
import json
import sys
from importlib.metadata import version
from typing import Any

import torch
from supreme.methods.unlearning_methods.finetune import finetune
from supreme.utils.fabric.fabric_setup import initialize_fabric

from benchmarks.torch_resnet import Classifier, ResNet

CONFIG = {  # what its command takes where no flag says more
    "model_name": "ResNet18",
    "precision": "32-true",
    "num_gpus": 1,
    "callbacks": [],
    "accelerator": "cpu",
    "distributed_strategy": "ddp",
}


def main(file: str, answers: Any) -> None:
    """Serves the lines of standard input."""
    given = torch.load(file)
    torch.set_num_threads(given["threads"])
    network = ResNet(*given["shape"])
    network.load_state_dict(given["state"])
    plain, label = Classifier(network), given["label"]
    fabric, model = initialize_fabric(CONFIG)[0], plain
    batch = given["image"], label, label  # its sets give a class and a superclass

    def answer(what: Any) -> None:
        print(json.dumps(what), file=answers, flush=True)

    answer(f"{version('supreme-unlearning')}'s finetune, PyTorch {torch.__version__}")
    for _ in sys.stdin:
        model = finetune(
            fabric=fabric,
            num_gpus=1,
            wandb_logging_flag=False,
            model=model,
            retain_train_dataloader=[batch],
            # It evaluates after every epoch: one image, that this takes next to nothing.
            retain_test_dataloader=[tuple(part[:1] for part in batch)],
        )
        answer(plain.losses(label))


if __name__ == "__main__":
    with contextlib.redirect_stdout(io.StringIO()):  # the package prints among the answers
        main(sys.argv[1], sys.__stdout__)
