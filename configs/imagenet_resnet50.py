"""ImageNet-1K, 100 classes forgotten, ResNet-50 as torchvision has it.

Scenarios: ``random100`` (the default: a hundred classes drawn by forget.seed), and the paper's two,
``paper_random100`` and ``paper_top100_cub``, whose lists are the text files of these names in the
public repository yongwookim1/UUEF, put into the folder from which the command is started.

Command:  python -m ec_jax.convert import resnet50.pth --model=resnet50 --out=models/resnet50
          python -m ec_jax.main --config=configs/imagenet_resnet50.py --workdir=runs/imagenet \
              --config.original.checkpoint=models/resnet50 --config.data.data_dir=DIR
          Without original.checkpoint a ResNet-50 is trained, as the oracle always is, unless there
          is an oracle.checkpoint. docs/reproduce.md has the whole table.
Measured: not measured; the recipe of training is the field's usual one for batches of 1,024
          (Goyal et al. 2017, arXiv 1706.02677), that of unlearning is carried over from small sets.
"""

from configs import default

SCENARIOS = {
    "random100": "random:100",
    "paper_random100": "file:random100.txt",
    "paper_top100_cub": "file:top100_cub.txt",
}


def get_config(scenario: str = "random100"):
    """ImageNet with ResNet-50."""
    c = default.get_config()
    c.data.name = "imagenet2012"
    c.data.image_size = 224
    c.data.augment = "crop+flip"
    c.data.normalize = "imagenet"
    c.data.batch_size = 1_024
    c.data.retain_batch_size = 256
    c.data.forget_batch_size = 256
    c.forget.classes = default.pick(scenario, SCENARIOS)
    c.model.depth = 50
    c.model.width = 64
    c.model.stem = "imagenet"
    c.model.padding = "symmetric"
    c.model.dtype = "bfloat16"
    c.original.epochs = 90.0
    for group in (c.original, c.modules):
        group.optimizer.learning_rate = 0.4
        group.optimizer.weight_decay = 1e-4
    c.original.optimizer.warmup_steps = 6_255  # five epochs
    c.unlearn.steps = 2_000
    c.evaluation.metrics = "accuracy,agreement,cka,knn,variance,mia,gap"
    c.evaluation.train_images = 20_000
    c.checkpoint.every = 1_000
    return c
