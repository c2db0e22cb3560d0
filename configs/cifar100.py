"""CIFAR-100, ten random classes, one or three forgotten, ResNet-18.

Scenarios: ``random10`` (the default: ten classes drawn by forget.seed), ``one`` (apple) and
``three`` (apple, bicycle, wolf).

Command:  python -m ec_jax.main --config=configs/cifar100.py --workdir=runs/cifar100
          The images are downloaded through TFDS, or taken from --config.data.manual_dir.
Measured: not measured yet; the recipe is the field's usual one.
"""

from configs import cifar10, default

SCENARIOS = {"random10": "random:10", "one": "apple", "three": "apple,bicycle,wolf"}


def get_config(scenario: str = "random10"):
    """CIFAR-100 with CIFAR-10's recipe, trained longer."""
    c = cifar10.get_config()
    c.data.name = "cifar100"
    c.forget.classes = default.pick(scenario, SCENARIOS)
    c.original.epochs = 100.0
    return c
