"""ImageNet-1K, 100 classes forgotten, Swin-Tiny.

Scenarios: those of ``imagenet_resnet50.py``.

Command:  python -m ec_jax.convert import swin_tiny_patch4_window7_224.pth --model=swin_t \
              --out=models/swin_t
          python -m ec_jax.main --config=configs/imagenet_swin_tiny.py --workdir=runs/swin \
              --config.original.checkpoint=models/swin_t --config.data.data_dir=DIR
Measured: not measured; the recipe of training is that of Liu et al. 2021 (arXiv 2103.14030) without
          its mixing of images, stochastic depth, RandAugment, erasing and label smoothing, and with
          gradients clipped at 1, that of unlearning is carried over from small sets.
"""

from configs import imagenet_resnet50


def get_config(scenario: str = "random100"):
    """ImageNet with Swin-Tiny."""
    c = imagenet_resnet50.get_config(scenario)
    c.model.name = "swin"
    c.model.depth = 12
    c.model.width = 96
    c.original.epochs = 300.0
    for group in (c.original, c.modules):  # methods' recipes are those of SGD
        group.optimizer.name = "adamw"
        group.optimizer.learning_rate = 1e-3
        group.optimizer.weight_decay = 0.05
    c.original.optimizer.warmup_steps = 25_020  # twenty epochs
    return c
