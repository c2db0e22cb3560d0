"""Every field of a run with its default, unit and allowed values.

The other files in this folder are short deltas of this one. Any field can be
overridden on the command line::

    python -m ec_jax.main --config=configs/digits.py --workdir=runs/digits \
        --config.ec.temperature=0.1 --config.forget.classes=random:2

Scenario: scikit-learn's digits, one class forgotten (see ``digits.py``).
Measured: see the deltas; this file on its own is not a benchmark.
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from ec_jax.recipes import add_methods


def _optimizer(**changes) -> ConfigDict:
    """One recipe of an optimizer; every training stage has one of its own."""
    recipe = ConfigDict(
        {
            "name": "sgd",  # sgd (Nesterov momentum) | adamw
            "learning_rate": 0.1,  # peak value, > 0
            "momentum": 0.9,  # sgd only, in [0, 1)
            "weight_decay": 5e-4,  # >= 0, on kernels only: L2 for sgd, decoupled for adamw
            "schedule": "cosine",  # constant | linear | cosine; the last two end at zero
            "warmup_steps": 0,  # steps of linear warm-up, >= 0
            "clip": 1.0,  # global gradient norm at which gradients are clipped; 0 = off
        }
    )
    recipe.update(changes)
    return recipe


def pick(scenario: str, scenarios: dict[str, str]) -> str:
    """The forget classes of a named scenario (``--config=FILE:SCENARIO``)."""
    if scenario not in scenarios:
        raise ValueError(f"no scenario {scenario!r}; there are {', '.join(scenarios)}")
    return scenarios[scenario]


def tuned(name: str) -> ConfigDict:
    """What ``ec_jax.tune`` found for every method: ``configs/recipes/NAME.json``."""
    found = json.loads((Path(__file__).parent / "recipes" / f"{name}.json").read_text())
    recipes = {}
    for method, settings in found.items():
        for field, value in settings.items():
            *groups, last = (method, *field.split("."))
            place = recipes
            for group in groups:
                place = place.setdefault(group, {})
            place[last] = value
    return ConfigDict(recipes)


def get_config() -> ConfigDict:
    """The locked default configuration."""
    c = ConfigDict()
    c.seed = 0  # >= 0; every random stream is derived from it by name
    # all, or a comma list of original,oracle,proxy,modules,unlearn,evaluate,report
    c.stages = "all"
    c.method = "ec"  # a file in ec_jax/methods, an installed method, or a path module:object

    c.data = ConfigDict()
    # digits | fashion_mnist | cifar10 | cifar100 | folder | any set of TFDS with images and labels:
    # imagenet2012, imagenette/320px-v2, svhn_cropped, …
    c.data.name = "digits"
    # Where TFDS keeps prepared sets; empty = TFDS's own default. Of folder: the folder, with
    # train/CLASS/*.jpg and test/CLASS/*.jpg (or val).
    c.data.data_dir = ""
    c.data.manual_dir = ""  # folder of archives already downloaded; empty = download
    # Labels that are groups of classes: coarse (cifar100) | 0,2,4|1,3,5; empty: no groups.
    c.data.groups = ""
    # Share of the training images held out, of every class, to take the test images' place: what is
    # chosen by results is chosen there. 0: the test images.
    c.data.validation = 0.0
    # Pixels along the sides to which pictures are cut, decoded when they are used: a random part in
    # training (see augment), the middle in evaluation. 0 = images as they are, read into memory.
    c.data.image_size = 0
    c.data.resize = 256  # pixels of the shorter side before the middle is cut out; >= image_size
    # A picture that cannot be decoded: refuse = an error when it is read | skip = all are read once
    # at the start, and such ones are left out and counted.
    c.data.damaged = "refuse"
    # Mean and deviation by which images are normalised: data = those of the training images, for
    # which pictures on disk are all decoded once at every start |
    # imagenet | of every channel, of values in [0, 1]: 0.5,0.5,0.5;0.25,0.25,0.25
    c.data.normalize = "data"
    c.data.subset = 0  # training images kept, drawn stratified by class; 0 = all
    # none | flip | crop | crop+flip; crop: with 4 zero pixels around, of pictures with a size a
    # random part of 8 to 100 % of the area, scaled
    c.data.augment = "none"
    c.data.batch_size = 128  # images a step for original, oracle and modules, all devices together
    c.data.retain_batch_size = 128  # retain images an unlearning step, all devices together
    c.data.forget_batch_size = 64  # forget images an unlearning step, all devices together
    c.data.eval_batch_size = 500  # images a forward pass in evaluation, all devices together

    c.forget = ConfigDict()
    # Comma list of ids or names | random:K | file:PATH (one a line) | samples:N (N training images)
    # | samples:PATH (one a line, by its index in the whole set: not with data.subset or
    # data.validation). With ; between them, several requests of classes are unlearned one after the
    # other: 5;1,8;random:2.
    c.forget.classes = "3"
    c.forget.earlier = ""  # comma list of ids or names forgotten before: never trained on, measured
    # Draws random:K and samples:N; apart from `seed`, so that seeds share them (of the images of a
    # data.subset, which `seed` draws, they share the places alone).
    c.forget.seed = 0

    c.model = ConfigDict()
    c.model.name = "resnet"  # resnet | vit | swin | convnext
    # Layers. resnet: 8 10 14 18 20 26 32 34 44 50 101, and the number of stages follows
    # (docs/design.md); vit: blocks, >= 4 (12: ViT-Ti, S, B); swin: 4 12 24 (12: Swin-T); convnext:
    # 4 18 36 (18: -T).
    c.model.depth = 10
    # Channels of the first stage, >= 1; doubled at every further one, but in vit. In vit a multiple
    # of 64 if more than that, in swin of 32: the width of a head of attention.
    c.model.width = 16
    c.model.stem = "cifar"  # resnet: cifar (3x3) | imagenet (7x7 and pooling, a quarter the size)
    c.model.padding = "same"  # resnet, of strided layers: same | symmetric (PyTorch's)
    c.model.patch = 4  # vit, swin, convnext: pixels along the side of a patch, >= 1
    c.model.remat = False  # blocks are computed again for the gradient: less memory, more time
    c.model.dtype = "float32"  # float32 | bfloat16: compute type; parameters stay float32

    c.original = ConfigDict()
    c.original.checkpoint = ""  # start from this model (a checkpoint folder) and do not train one
    c.original.epochs = (
        12.0  # passes over the training set, > 0; the oracle trains as long on retain
    )
    c.original.optimizer = _optimizer()

    c.oracle = ConfigDict()
    c.oracle.checkpoint = ""  # take this oracle and do not train one; its forget set is not checked

    c.proxy = ConfigDict()
    c.proxy.share = 0.1  # of the oracle's steps that the proxy oracle trains, for what needs one

    c.modules = ConfigDict()
    c.modules.kind = "conv"  # conv | pool | mlp (docs/method.md)
    c.modules.epochs = (
        2.0  # passes over the training set with the backbone frozen, >= 0; 0 = fresh modules
    )
    c.modules.optimizer = _optimizer()

    c.unlearn = ConfigDict()
    c.unlearn.steps = 200  # update steps, >= 1
    c.unlearn.batch_norm = "inference"  # inference (statistics frozen) | train
    c.unlearn.min_spread = (
        1e-3  # stop if the features' variance falls under this share of its start
    )
    c.unlearn.optimizer = _optimizer(learning_rate=0.02)

    c.ec = ConfigDict()
    c.ec.points = "all"  # all, or a comma list of the model's points (stage1,stage2,...)
    # uniform | linear | geometric | reversed | late (the later half) | a number a point: 1,1,2,2
    c.ec.weights = "uniform"
    c.ec.weights_sum = 1.0  # the weights are scaled to this sum, > 0
    c.ec["lambda"] = 1.0  # weight of forgetting against retaining, >= 0
    c.ec.temperature = 0.1  # tau of the contrastive loss, > 0
    c.ec.candidates = "both"  # forget | retain | both
    # float32 | bfloat16: type in which devices exchange their embeddings for the contrastive loss.
    c.ec.gather = "float32"
    # Variants beyond the paper (docs/method.md):
    c.ec.targets = (
        "all"  # all | pseudo: forget samples are drawn to what the original takes them for
    )
    c.ec.pseudo = 0.0  # mu, of cross-entropy with that class at every point, >= 0; 0 = off
    c.ec.proxy = 0.0  # alpha, of the divergence from a proxy oracle at every point, >= 0; 0 = off
    # Forgetting at a point fades as its similarity to the original nears that of a proxy oracle.
    c.ec.calibrated = False
    c.ec.plugin = False  # add weight x EC's loss to that of `method`
    c.ec.weight = 1.0  # beta of the plug-in, >= 0
    c.ec.include_head = False  # the plug-in's terms at the last point, too; else the method's alone

    c.evaluation = ConfigDict()
    c.evaluation.metrics = "all"  # all, or a comma list of the metrics in docs/metrics.md
    c.evaluation.features = "gap"  # gap (spatial means) | map (CKA of whole activations, too)
    c.evaluation.train_images = 0  # of each training split that are measured, at most; 0 = all
    # Other sets on which k-NN measures the features, a comma list: caltech_birds2011,domainnet/real
    # or folder:PATH; with transfer_dir for those of TFDS, as data.data_dir.
    c.evaluation.transfer = ""
    c.evaluation.transfer_dir = ""
    c.evaluation.cka_batch_size = 512  # images a minibatch of unbiased CKA, >= 4
    c.evaluation.neighbors = 5  # k of k-NN, >= 1
    c.evaluation.recovery_fraction = 0.02  # share of the training images a new head sees, in (0, 1]
    c.evaluation.recovery_images = 32  # forget images, and as many retain, of a relearning step
    c.evaluation.recovery_steps = 20  # relearning steps of the whole network, >= 1
    c.evaluation.idi_seeds = 3  # critics a point, trained from different seeds, >= 1
    c.evaluation.idi_steps = 100  # training steps of a critic, >= 1
    c.evaluation.idi_images = 2048  # images that critics are trained and tested on, at most; >= 64

    c.parallel = ConfigDict()
    c.parallel.map = "shard_map"  # shard_map | pmap
    # Devices used, of all processes together; 0 = all. On CPU this many virtual devices are made.
    c.parallel.devices = 0
    # Steps that the devices are given at a time, where the training images lie on them; 0 = 8 on an
    # accelerator, 1 on a CPU, whose compiler makes loops slow (docs/performance.md). At most
    # report.log_every and checkpoint.every.
    c.parallel.at_once = 0
    # Of a run of several processes, which all get the same command (docs/scaling.md):
    c.parallel.coordinator = ""  # HOST:PORT of the first | auto: a TPU pod, Slurm, … says it all
    c.parallel.processes = 1  # how many, >= 1, where the coordinator is HOST:PORT
    c.parallel.process = 0  # which of them this one is, from 0; the one field that differs

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 100  # steps between two checkpoints, >= 1
    c.checkpoint.keep = 2  # newest checkpoints kept a stage, >= 1

    c.report = ConfigDict()
    c.report.log_every = 20  # steps between two log lines, >= 1
    # Steps of every training that is started of which a profile is recorded, for TensorBoard or
    # Perfetto (docs/performance.md), in WORKDIR/tensorboard/STAGE; 0 = none.
    c.report.profile = 0

    add_methods(c)  # a group a method that has settings: the head of ec_jax/methods/NAME.py
    c.recipes = ConfigDict()  # {method: {field: value}}: what a file says for one method only
    return c.lock()
