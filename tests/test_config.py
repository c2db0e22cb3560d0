"""What a valid config is: every field, alone and with others, and every shipped config."""

import importlib
import math
import re
import subprocess
import sys
from pathlib import Path

import command
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import default
from ec_jax import config as config_lib
from ec_jax import data_config, registry
from ec_jax import rules as field_rules
from ec_jax.data import sources
from ec_jax.errors import InputError
from ec_jax.models import resnet

ROOT = Path(__file__).parent.parent
SHIPPED = {
    ("default", None): (3,),
    ("digits", None): (3,),
    ("fashion_mnist", None): (1, 5, 8),
    ("fashion_mnist", "three"): (1, 5, 8),
    ("fashion_mnist", "one"): (5,),
    ("fashion_mnist", "samples"): (),
    ("cifar10", None): (3,),
    ("cifar10", "one"): (3,),
    ("cifar10", "three"): (1, 5, 8),
    ("cifar100", None): 10,
    ("cifar100", "random10"): 10,
    ("cifar100", "one"): 1,
    ("cifar100", "three"): 3,
    ("cifar100_resnet50", None): 10,
    ("imagenet_resnet50", None): 100,
    ("imagenet_resnet50", "random100"): 100,
    ("imagenet_swin_tiny", None): 100,
}
LISTED = ("paper_random100", "paper_top100_cub")  # scenarios whose classes stand in the user's file

INT_MAX = 2**31 - 1
# field: (lowest, highest, lowest allowed, highest allowed, integer), written anew from the
# comments of configs/default.py.
COUNT, COUNT_OR_0 = (1, INT_MAX, True, True, True), (0, INT_MAX, True, True, True)
POSITIVE, NOT_NEGATIVE = (0, math.inf, False, False, False), (0, math.inf, True, False, False)
SHARE = (0, 1, True, False, False)
RANGES = {
    "seed": COUNT_OR_0,
    "data.subset": COUNT_OR_0,
    "data.image_size": COUNT_OR_0,
    "data.resize": COUNT,
    "data.batch_size": COUNT,
    "data.retain_batch_size": COUNT,
    "data.forget_batch_size": COUNT,
    "data.eval_batch_size": COUNT,
    "forget.seed": COUNT_OR_0,
    "model.depth": (1, 1000, True, True, True),
    "model.width": (1, 16384, True, True, True),
    "model.patch": COUNT,
    "original.epochs": POSITIVE,
    "modules.epochs": NOT_NEGATIVE,
    "unlearn.steps": COUNT,
    "unlearn.min_spread": SHARE,
    "data.validation": SHARE,
    "ec.weights_sum": POSITIVE,
    "ec.lambda": NOT_NEGATIVE,
    "ec.temperature": POSITIVE,
    "ec.weight": NOT_NEGATIVE,
    "ec.pseudo": NOT_NEGATIVE,
    "ec.proxy": NOT_NEGATIVE,
    "proxy.share": (0, 1, False, True, False),
    "evaluation.train_images": COUNT_OR_0,
    "evaluation.cka_batch_size": (4, INT_MAX, True, True, True),
    "evaluation.neighbors": COUNT,
    "evaluation.recovery_fraction": (0, 1, False, True, False),
    "evaluation.recovery_images": COUNT,
    "evaluation.recovery_steps": COUNT,
    "evaluation.idi_seeds": COUNT,
    "evaluation.idi_steps": COUNT,
    "evaluation.idi_images": (64, INT_MAX, True, True, True),
    "parallel.devices": COUNT_OR_0,
    "parallel.at_once": COUNT_OR_0,
    "parallel.processes": COUNT,
    "parallel.process": COUNT_OR_0,
    "checkpoint.every": COUNT,
    "checkpoint.keep": COUNT,
    "report.log_every": COUNT,
    "report.profile": COUNT_OR_0,
}
for _stage in ("original", "modules", "unlearn"):
    RANGES |= {
        f"{_stage}.optimizer.learning_rate": POSITIVE,
        f"{_stage}.optimizer.momentum": SHARE,
        f"{_stage}.optimizer.weight_decay": NOT_NEGATIVE,
        f"{_stage}.optimizer.warmup_steps": COUNT_OR_0,
        f"{_stage}.optimizer.clip": NOT_NEGATIVE,
    }
# The groups of the methods are theirs: tests/test_registry.py.
OF_METHODS = {f"{name}.{f}" for name in registry.names() for f in registry.settings(name)}
FIELDS = tuple(f for f in config_lib.flatten(default.get_config()) if f not in OF_METHODS)
OPTIMIZERS = tuple(f"{s}.optimizer" for s in ("original", "modules", "unlearn"))

# {field: a valid value that is not the default}; of methods and models there is one.
OTHER = {
    "seed": 7,
    "stages": "oracle,report",
    "data.name": "fashion_mnist",
    "data.data_dir": "some/where",
    "data.manual_dir": "some/where",
    "data.subset": 300,
    "data.groups": "0,1,2,3,4|5,6,7,8,9",
    "data.validation": 0.25,
    "data.augment": "crop",
    "data.image_size": 28,
    "data.resize": 32,
    "data.damaged": "skip",
    "data.normalize": "0.5,0.5,0.5;0.25,0.25,0.25",
    "forget.classes": "random:2",
    "forget.earlier": "3,5",
    "model.depth": 20,
    "model.stem": "imagenet",
    "model.padding": "symmetric",
    "model.remat": True,
    "model.dtype": "bfloat16",
    "original.checkpoint": "a/model",
    "oracle.checkpoint": "an/oracle",
    "evaluation.recovery_fraction": 0.5,
    "evaluation.idi_images": 64,
    "modules.kind": "mlp",
    "unlearn.batch_norm": "train",
    "ec.points": "stage1,stage3",
    "ec.weights": "1,0.5",
    "ec.candidates": "retain",
    "ec.gather": "bfloat16",
    "ec.targets": "pseudo",
    "ec.pseudo": 0.5,
    "ec.proxy": 0.5,
    "ec.calibrated": True,
    "ec.include_head": True,
    "ec.weight": 0.5,
    "proxy.share": 0.2,
    "evaluation.metrics": "accuracy,cka",
    "evaluation.features": "map",
    "evaluation.transfer": "cifar10",
    "evaluation.transfer_dir": ".",
    "evaluation.cka_batch_size": 16,
    "parallel.devices": 2,
    "parallel.at_once": 4,
    "parallel.coordinator": "localhost:7733",
    "parallel.processes": 2,
    "parallel.process": 1,
    **{f"{o}.name": "adamw" for o in OPTIMIZERS},
    **{f"{o}.schedule": "linear" for o in OPTIMIZERS},
    **{f"{o}.momentum": 0.25 for o in OPTIMIZERS},
    "unlearn.min_spread": 0.25,
}
OTHER |= {f: 8 for f in RANGES if f not in OTHER}


def changed(**fields):
    return command.changed(default.get_config(), **fields)


def set_field(field, value):
    return changed(**{field.replace(".", "__"): value})


def refusal(config, check=config_lib.validate, *args):
    with pytest.raises(InputError) as error:
        check(config, *args)
    message = str(error.value)
    assert "\n" not in message
    return message


# Each field alone.

REFUSED = [
    ("stages", "", "names no stage"),
    ("stages", "original,orakle", "no stage 'orakle'; did you mean 'oracle'?"),
    ("stages", 3, "give text"),
    ("method", "ecc", "did you mean 'ec'?"),
    ("data.name", "fashion", "did you mean 'fashion_mnist'?"),
    ("data.data_dir", "/no/such/folder", "no such folder"),
    ("data.manual_dir", "/no/such/folder", "no such folder"),
    ("data.groups", "coarse", "no superclasses"),
    ("data.groups", "0,1|2,3", "misses class 4"),
    ("data.groups", "0,1,2,3,4|5,6,7,8,9,9", "names a class twice"),
    ("data.groups", "0,1,2,3,4,5,6,7,8,9", "makes one group"),
    ("data.groups", "0,1,2,3,4|5,6,7,8,x", "'x' is no class"),
    ("forget.classes", "samples:0", "an integer N from 1 to 1436"),
    ("forget.classes", "samples:1437", "an integer N from 1 to 1436"),
    ("forget.classes", "samples:/no/such/file", "one image a line"),
    ("data.subset", 9, "at least 10, or 0"),
    ("data.augment", "flop", "did you mean 'flip'?"),
    ("forget.classes", "11", "ids go from 0 to 9"),
    ("forget.classes", "", "names no class"),
    ("forget.classes", "random:10", "from 1 to 9"),
    ("forget.classes", "0,1,2,3,4,5,6,7,8,9", "leave at least one"),
    ("forget.classes", 3, "give text"),
    ("forget.earlier", "11", "ids go from 0 to 9"),
    ("forget.earlier", "random:2", "no class is named 'random:2'"),
    ("forget.earlier", 3, "give text"),
    ("model.name", "resnt", "did you mean 'resnet'?"),
    ("model.depth", 19, "one of 8, 10, 14, 18"),
    ("model.depth", "18", "give an integer"),
    ("model.stem", "imagnet", "did you mean 'imagenet'?"),
    ("model.padding", "valid", "one of same, symmetric"),
    ("model.remat", 1, "one of True, False"),
    ("data.damaged", "drop", "one of refuse, skip"),
    ("data.damaged", "skip", "is for pictures that are cut to data.image_size"),
    ("data.normalize", "mean", "data, imagenet, or 1 means, a semicolon and 1 deviations"),
    ("data.normalize", "0.5;0", "data, imagenet, or"),
    ("data.normalize", "imagenet", "data, imagenet, or 1 means"),
    ("data.image_size", 8, "digits are taken as they are; use 0"),
    ("evaluation.transfer", "cifar10", "not coloured squares; leave it empty"),
    ("evaluation.transfer_dir", "/no/such/folder", "no such folder"),
    ("model.dtype", "float16", "float32, bfloat16"),
    ("original.checkpoint", 5, "give text"),
    ("oracle.checkpoint", 5, "give text"),
    ("modules.kind", "convv", "did you mean 'conv'?"),
    ("unlearn.batch_norm", "frozen", "one of inference, train"),
    ("ec.points", "stage5", "no point 'stage5'; all, or of stage1,stage2,stage3,stage4"),
    ("ec.points", "", "no point ''"),
    ("ec.points", "stage1, stage2", "no point ' stage2'"),
    ("ec.points", "stage2,stage1", "in the model's order: stage1,stage2"),
    ("ec.points", "stage1,stage1", "each point once"),
    ("ec.weights", "1,2,3", "4 finite numbers"),
    ("ec.weights", "1,2,3,-1", "none negative"),
    ("ec.weights", "1,2,3,nan", "4 finite numbers"),
    ("ec.weights", "1,2,3,inf", "4 finite numbers"),
    ("ec.weights", "1e308,1e308,1,1", "4 finite numbers"),
    ("ec.weights", "0,0,0,0", "not all zero"),
    ("ec.weights", "linaer", "uniform, linear, geometric, reversed"),
    ("ec.targets", "any", "one of all, pseudo"),
    ("ec.plugin", "yes", "one of True, False"),
    ("ec.calibrated", 1, "one of True, False"),
    ("ec.include_head", 1, "one of True, False"),
    ("ec.candidates", "all", "one of forget, retain, both"),
    ("ec.candidates", "forget", "identically zero"),
    ("ec.gather", "float16", "one of float32, bfloat16"),
    ("evaluation.metrics", "cka,accurracy", "no metric 'accurracy'; did you mean 'accuracy'?"),
    ("evaluation.metrics", "", "no metric ''"),
    ("evaluation.features", "flat", "one of gap, map"),
    ("parallel.map", "vmap", "did you mean 'pmap'?"),
    ("parallel.coordinator", "node0", "give HOST:PORT of the first process, auto where"),
    ("parallel.coordinator", "node0:99999", "give HOST:PORT of the first process, auto where"),
    ("parallel.processes", 2, "is for parallel.coordinator=HOST:PORT"),
    ("parallel.process", 1, "with parallel.processes=1 they are 0 to 0"),
    *((f"{o}.name", "sdg", "did you mean 'sgd'?") for o in OPTIMIZERS),
    *((f"{o}.schedule", "cosin", "did you mean 'cosine'?") for o in OPTIMIZERS),
]


@pytest.mark.parametrize(("field", "value", "remedy"), REFUSED)
def test_a_value_that_cannot_work_is_refused_with_its_remedy(field, value, remedy):
    message = refusal(set_field(field, value))
    assert message.startswith(f"{field} = {value!r}: ")
    assert remedy in message


def test_minibatches_of_whole_activations_have_four_images_at_least():
    few = {"evaluation__features": "map", "data__eval_batch_size": 3}
    assert "at least 4" in refusal(changed(**few))
    config_lib.validate(changed(**{**few, "data__eval_batch_size": 4}))
    config_lib.validate(changed(data__eval_batch_size=3))


def test_maps_that_would_vanish_are_refused(tmp_path):
    import jpegs

    data = {"data__name": "folder", "data__data_dir": str(jpegs.folder(tmp_path))}
    config = {**data, "data__image_size": 32, "data__resize": 32, "forget__classes": "ant"}
    config |= {"model__name": "convnext", "model__depth": 4, "evaluation__neighbors": 1}
    said = refusal(changed(**config, model__patch=8))
    assert said.startswith("model.patch = 8: leaves a map of 4x4, of which three halvings leave ")
    assert said.endswith("at most 4")
    config_lib.validate(changed(**config, model__patch=4))


def test_every_field_has_a_case_of_refusal():
    assert {field for field, *_ in REFUSED} | RANGES.keys() == set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [True, None, [1]], ids=str)
def test_a_value_of_another_kind_is_refused(field, value):
    if value is True and isinstance(config_lib.flatten(default.get_config())[field], float | bool):
        return  # ml_collections makes 1.0 of it, or it is of this kind
    assert refusal(set_field(field, value)).startswith(f"{field} = {value!r}: ")


def inside(value, low, high, low_allowed, high_allowed, integer):
    above = value >= low if low_allowed else value > low
    below = value <= high if high_allowed else value < high
    return above and below and not (integer and isinstance(value, float))


def numbers():
    edges = [0, -0.0, 1, -1, 3, 4, math.nan, math.inf, -math.inf, 1.0, 5e-324, INT_MAX, INT_MAX + 1]
    return st.one_of(
        st.sampled_from(edges),
        st.floats(),
        st.floats(-2, 2),
        st.integers(-(2**70), 2**70),
        st.integers(-5, 5),
    )


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(RANGES)), numbers())
def test_a_number_is_refused_exactly_outside_its_range(field, value):
    config = set_field(field, value)
    try:
        config_lib.validate(config)
        refused = ""
    except InputError as error:
        refused = str(error)
    value = config_lib.flatten(config)[field]  # the schema makes floats of integers
    own = f"{field} = {value!r}: give a"
    if not inside(value, *RANGES[field]):
        assert refused.startswith(own)
    else:
        assert not refused.startswith(own)
        # What does not go with the set's size or the batch sizes is refused as such.
        others = (
            "data.subset",
            "data.image_size",
            "model.depth",
            "evaluation.neighbors",
            "evaluation.train_images",
            "parallel.devices",
            "parallel.processes",
            "parallel.process",
        )
        assert not refused or field in others


def test_ten_to_the_four_hundred_is_too_many_steps():
    assert f"<= {INT_MAX}" in refusal(changed(unlearn__steps=10**400))


def test_other_values_than_the_defaults_are_taken(monkeypatch):
    monkeypatch.setattr(sources, "check", lambda *_: None)
    alone = {"method", "model.name", "ec.plugin", "parallel.map"}
    assert OTHER.keys() | alone == set(FIELDS)
    config_lib.validate(changed(parallel__map="pmap"))
    config_lib.validate(changed(**{f.replace(".", "__"): v for f, v in OTHER.items()}))


def test_missing_and_additional_fields_are_refused():
    c = default.get_config().unlock()
    del c.ec["lambda"]
    assert "ec.lambda = None: the config lacks this field" in refusal(c)
    c = default.get_config().unlock()
    c.ec.temprature = 0.1
    assert "ec.temprature = 0.1: no such field; did you mean 'ec.temperature'?" in refusal(c)


# Fields against each other.


@pytest.mark.parametrize(
    "fields",
    [
        {"ec__candidates": "forget", "forget__classes": "1,2"},
        {"ec__points": "stage1,stage3", "ec__weights": "0,2.5"},
        {"ec__points": "stage3", "ec__weights": "1"},
        {"model__depth": 20, "ec__weights": "1,2,3"},
        {"parallel__devices": 4},
        {"data__subset": 10},
        {"forget__classes": "5;1,2;random:3", "stages": ",".join(config_lib.STAGES)},
        {"forget__classes": "5", "forget__earlier": "1,2", "oracle__checkpoint": "an/oracle"},
        {"modules__epochs": 0.0, "unlearn__optimizer__clip": 0.0, "unlearn__min_spread": 0.0},
    ],
    ids=str,
)
def test_values_that_go_together_are_taken(fields):
    config_lib.validate(changed(**fields))


@pytest.mark.parametrize(("part", "value"), [("subset", 300), ("validation", 0.2)])
def test_a_file_of_samples_goes_with_the_whole_set_alone(part, value, tmp_path):
    path = tmp_path / "images.txt"
    path.write_text("3\n250\n")
    whole = {"forget__classes": f"samples:{path}"}
    config_lib.validate(changed(**whole))
    message = refusal(changed(**whole, **{f"data__{part}": value}))
    assert message.startswith(f"data.{part} = {value}: indices are those of the whole set")
    config_lib.validate(changed(forget__classes="samples:200", **{f"data__{part}": value}))


def test_a_file_of_samples_does_not_go_with_pictures_that_may_be_left_out(tmp_path):
    path = tmp_path / "images.txt"
    path.write_text("3\n250\n")
    whole = {"data__name": "cifar10", "data__image_size": 32, "data__damaged": "skip"}
    message = refusal(changed(forget__classes=f"samples:{path}", **whole))
    assert message.startswith("data.damaged = 'skip': indices are those of all pictures")


def test_points_follow_the_depth():
    assert "of stage1,stage2,stage3" in refusal(changed(model__depth=20, ec__points="stage4"))
    stages = {depth: len(sizes) for depth, (sizes, _) in resnet.STAGE_SIZES.items()}
    for depth in stages:
        last = f"stage{stages[depth]}"
        config_lib.validate(changed(model__depth=depth, ec__points=last))
        beyond = f"stage{stages[depth] + 1}"
        assert "no point" in refusal(changed(model__depth=depth, ec__points=beyond))
    listed = refusal(changed(model__depth=9)).partition("one of ")[2]
    assert [int(d) for d in listed.split(", ")] == sorted(stages)


@pytest.mark.parametrize(("subset", "images"), [(20, 20), (0, 1437)])
def test_more_neighbors_than_images_are_refused(subset, images):
    config_lib.validate(changed(data__subset=subset, evaluation__neighbors=images))
    message = refusal(changed(data__subset=subset, evaluation__neighbors=images + 1))
    assert message.startswith(f"evaluation.neighbors = {images + 1}: there are {images} training")


def test_a_subset_larger_than_the_set_is_refused():
    config_lib.validate(changed(data__subset=1437))
    message = refusal(changed(data__subset=1438))
    assert message == "data.subset = 1438: the set has 1437 training images; 0 for all"


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 600), st.integers(1, 64))
def test_the_batch_sizes_advised_can_be_shared_by_the_devices(size, devices):
    config = changed(
        data__batch_size=size,
        data__retain_batch_size=devices,
        data__forget_batch_size=devices,
    )
    if size % devices == 0:
        config_lib.check_batches(config, devices)
        return
    message = refusal(config, config_lib.check_batches, devices)
    assert message.startswith(f"data.batch_size = {size}: is not divisible by {devices} devices")
    advised = [int(n) for n in re.findall(r"\d+", message.partition("use ")[2])]
    assert advised
    for number in advised:
        assert number > 0
        assert number % devices == 0
        assert abs(number - size) < devices


@pytest.mark.parametrize("name", ["batch", "retain_batch", "forget_batch"])
def test_every_batch_size_is_checked_against_the_devices(name):
    config = changed(**{"parallel__devices": 4, f"data__{name}_size": 6})
    assert refusal(config).startswith(f"data.{name}_size = 6: is not divisible by 4 devices")


@pytest.mark.parametrize(
    ("spec", "stages"),
    [
        ("all", ("original", "oracle", "proxy", "modules", "unlearn", "evaluate", "report")),
        ("report, original,original", ("original", "report")),
        ("unlearn", ("unlearn",)),
    ],
)
def test_stages_run_in_their_order(spec, stages):
    assert config_lib.stage_names(changed(stages=spec)) == stages


def test_methods_are_the_files_of_the_folder():
    from ec_jax import methods

    listed = refusal(changed(method="zzz")).partition("one of ")[2]
    assert tuple(listed.split(", ")[:-1]) == methods.names()


def test_choices_are_those_of_the_code():
    """``config`` repeats them, so that a mistake is answered without importing JAX."""
    from ec_jax import parallel
    from ec_jax.data import augment
    from ec_jax.evaluation import suite
    from ec_jax.losses import contrastive
    from ec_jax.models import convnext, modules, swin
    from ec_jax.training import optimizer

    rules = config_lib._rules()
    assert rules["data.augment"] == augment.KINDS
    assert rules["modules.kind"] == modules.KINDS
    assert rules["parallel.map"] == parallel.MAPS
    assert rules["ec.candidates"] == contrastive.CANDIDATES
    for recipe in OPTIMIZERS:
        assert rules[f"{recipe}.name"] == optimizer.OPTIMIZERS
        assert rules[f"{recipe}.schedule"] == optimizer.SCHEDULES
    assert suite.chosen("all") == config_lib.METRICS
    kinds = {"resnet": resnet, "swin": swin, "convnext": convnext}
    assert {*kinds, "vit"} == set(field_rules.DEPTHS)
    for name, kind in kinds.items():
        stages = {
            depth: len(sizes[0] if name == "resnet" else sizes)
            for depth, sizes in kind.STAGE_SIZES.items()
        }
        assert field_rules.DEPTHS[name] == stages


# The shipped configs.


@pytest.mark.parametrize(("name", "scenario"), SHIPPED, ids=str)
def test_shipped_configs_are_valid_and_locked(name, scenario, monkeypatch):
    monkeypatch.setattr(sources, "check", lambda *_: None)  # the archives need not be here
    config = importlib.import_module(f"configs.{name}").get_config(
        *([scenario] if scenario else [])
    )
    config_lib.validate(config)
    assert config.is_locked
    fields = {f for f in config_lib.flatten(config) if not f.startswith("recipes.")}
    assert fields == {*FIELDS, *OF_METHODS}
    found, expected = data_config.forget_classes(config), SHIPPED[name, scenario]
    assert found == expected if isinstance(expected, tuple) else len(found) == expected


@pytest.mark.parametrize("name", sorted({name for name, _ in SHIPPED}))
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_shipped_configs_go_with_the_usual_numbers_of_devices(name, devices):
    config = importlib.import_module(f"configs.{name}").get_config()
    config_lib.check_batches(config, devices)


@pytest.mark.parametrize("name", sorted({name for name, _ in SHIPPED}))
def test_shipped_configs_say_what_they_are(name):
    module = importlib.import_module(f"configs.{name}")
    assert "python -m ec_jax.main --config=configs/" in module.__doc__
    assert "Measured: " in module.__doc__
    scenarios = getattr(module, "SCENARIOS", {})
    assert set(scenarios) - set(LISTED) == {s for n, s in SHIPPED if n == name and s}
    for scenario in scenarios:
        assert f"``{scenario}``" in module.__doc__


def test_no_config_is_untested():
    assert {p.stem for p in (ROOT / "configs").glob("*.py")} == {name for name, _ in SHIPPED}


def test_an_unknown_scenario_names_those_there_are():
    from configs import cifar10

    with pytest.raises(ValueError, match="no scenario 'two'; there are one, three"):
        cifar10.get_config("two")


def test_the_command_and_the_schema_do_without_jax():
    code = (
        "import sys, ec_jax.main, ec_jax.config as c;"
        "from configs import default;"
        "c.validate(default.get_config());"
        "print({'jax', 'flax', 'orbax', 'tensorflow'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stderr
