"""CIFAR-100, ten random classes forgotten, ResNet-50 with a stem for small images.

Scenarios: those of ``cifar100.py``; ``random10`` is the default.

Command:  python -m ec_jax.main --config=configs/cifar100_resnet50.py --workdir=runs/cifar100
Measured: not measured; the recipe is the field's usual one.
"""

from configs import cifar100


def get_config(scenario: str = "random10"):
    """CIFAR-100 with ResNet-50."""
    c = cifar100.get_config(scenario)
    c.model.depth = 50
    c.model.padding = "symmetric"
    return c
