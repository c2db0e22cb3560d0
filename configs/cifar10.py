"""CIFAR-10, one class (3, cat) or three (1, 5, 8) forgotten, ResNet-18.

Scenarios: ``one`` (the default) and ``three``.

Command:  python -m ec_jax.main --config=configs/cifar10.py --workdir=runs/cifar10
          The images are downloaded through TFDS, or taken from --config.data.manual_dir.
Measured: not measured yet; the recipe is the field's usual one.
"""

from configs import default

SCENARIOS = {"one": "3", "three": "1,5,8"}


def get_config(scenario: str = "one"):
    """CIFAR-10 with ResNet-18."""
    c = default.get_config()
    c.data.name = "cifar10"
    c.data.augment = "crop+flip"
    c.forget.classes = default.pick(scenario, SCENARIOS)
    c.model.depth = 18
    c.model.width = 64
    c.original.epochs = 60.0
    c.modules.epochs = 5.0
    c.unlearn.steps = 1_000
    return c
