"""Ablation of EC: one setting at a time away from the config's own; of guided EC; the controls.

Command:  python -m ec_jax.sweep --config=configs/digits.py --sweep=configs/sweeps/ec.py \
              --config.data.validation=0.2 \
              --config.evaluation.metrics=accuracy,cka,knn,probe,variance,agreement,gap \
              --workdir=runs/ablation/digits
          (what it is to decide is judged on held-out training images)
Measured: on Fashion-MNIST with three classes, on held-out training images: docs/results.md.
"""

from configs.sweeps import methods
from ec_jax import data_config

VALUES = {
    "ec.candidates": ("both", "retain", "forget"),
    "ec.temperature": (0.05, 0.1, 0.2, 0.5),
    "ec.lambda": (0.3, 1.0, 3.0),
    "ec.weights": ("uniform", "linear", "geometric", "reversed", "late"),
    "ec.weights_sum": (1.0, 4.0),
    "modules.kind": ("conv", "pool", "mlp"),
    "modules.epochs": (0.0, 2.0),  # fresh or pretrained
    "unlearn.batch_norm": ("inference", "train"),
}
POINTS = {  # used, of a network with four
    "last": "stage4",
    "last_two": "stage3,stage4",
    "last_three": "stage2,stage3,stage4",
    "first_two": "stage1,stage2",
}
BUDGETS = (0.25, 0.5, 2.0)  # times the config's steps
GUIDED = {  # what ec_guided is with its parts taken out
    "whole": {},
    "no_contrast": {"ec.lambda": 0.0},
    "no_proxy": {"ec_guided.alpha": 0.0},
    "no_ec": {"ec.weight": 0.0},
    "retain_only": {"ec.lambda": 0.0, "ec_guided.alpha": 0.0},
    "contrast_at_head": {"ec.include_head": True},
    "batch_norm_train": {"unlearn.batch_norm": "train"},
}


def get_rows(config):
    """{row: settings}: ``default``, a row for every other value, and the controls."""
    rows = {"default": {"method": "ec"}}
    for field, values in VALUES.items():
        group, name = field.split(".")
        for value in values:
            if value != config[group][name] and not _empty(config, value):
                rows[f"{name}={value}"] = {"method": "ec", field: value}
    for name, points in POINTS.items():
        rows[f"points={name}"] = {"method": "ec", "ec.points": points}
    for share in BUDGETS:
        steps = max(round(share * config.unlearn.steps), 1)
        rows[f"steps={steps}"] = {"method": "ec", "unlearn.steps": steps}
    for name, settings in GUIDED.items():
        rows[f"guided={name}"] = {"method": "ec_guided", **settings}
    controls = {**methods.controls(config), "head_distill": {"method": "head_distill"}}
    return rows | {f"control={name}": settings for name, settings in controls.items()}


def _empty(config, value):
    """Among the forget samples of a single label none is of another."""
    labels = data_config.labels(config, data_config.forget_classes(config))
    return value == "forget" and len(labels) == 1
