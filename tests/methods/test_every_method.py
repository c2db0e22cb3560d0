"""Every method through the real pipeline: two steps from a trained original."""

import json
import shutil

import jax
import numpy as np
import pytest
from small_run import small

from ec_jax import methods, recipes, registry
from ec_jax.checkpoint import Checkpoints
from ec_jax.errors import InputError
from ec_jax.methods._plugin import Plugged
from ec_jax.methods.ec import EC
from ec_jax.pipeline import Experiment

NAMES = registry.names()
SETTINGS = {
    "original__epochs": 1.0,
    "modules__kind": "pool",
    "forget__classes": "3,5",
    "proxy__share": 0.5,
    "data__retain_batch_size": 32,
    "data__forget_batch_size": 16,
}
FEW = {"unlearn.steps": 2}
# Images of two steps, and of the preparation: EC runs both sets; SCRUB first goes up and then down;
# UNSIR runs noise, and looks at one image.
READ = {"ec": 2 * (32 + 16), "scrub": 16 + 32, "unsir": 2 * (32 + 32) + 1}
# One of each kind: the others are slow tests.
QUICK = ("boundary_expand", "ec", "proxy_distill", "retrain", "salun", "scrub", "ssd", "unsir")
QUICK_PLUGINS = ("salun",)  # the others are slow tests


def config(method, **overrides):
    settings = {**SETTINGS, "method": method, **overrides}
    fields = {name.replace("__", "."): value for name, value in settings.items()}
    completed = recipes.complete(small(**settings), kept=(*fields, *FEW)).unlock()
    completed.update_from_flattened_dict(FEW)
    return completed.lock()


@pytest.fixture(scope="module")
def forerunners(tmp_path_factory):
    """A workdir with what any method may start from."""
    folder = tmp_path_factory.mktemp("forerunners") / "digits"
    stages = "original,proxy,modules"
    Experiment(config("proxy_distill", stages=stages), folder).run()
    return folder


def run(forerunners, folder, method, **overrides):
    shutil.copytree(forerunners, folder)
    (folder / "events.jsonl").unlink()  # which tells of another forget set, perhaps
    made = Experiment(config(method, stages="proxy,unlearn", **overrides), folder)
    made.run()
    return made


def trees(experiment):
    return experiment.model("original"), experiment.model("unlearned")


def check(experiment):
    """What holds of every method."""
    original, unlearned = trees(experiment)
    assert jax.tree.structure(unlearned) == jax.tree.structure(original)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(unlearned))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), original["params"], unlearned["params"])
    assert any(jax.tree.leaves(moved))
    checkpoints = Checkpoints(experiment.workdir / "checkpoints" / "unlearn")
    cost = checkpoints.cost()
    checkpoints.close()
    assert cost["images"] > 0
    return cost


@pytest.mark.parametrize(
    "method",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES],
)
def test_a_method_takes_its_steps(forerunners, tmp_path, method):
    experiment = run(forerunners, tmp_path / "run", method)
    made = methods.build(experiment.config, experiment.scenario.network().points)
    cost = check(experiment)
    # A fresh network is trained as long as the oracle; a closed form takes no step.
    steps = 0 if made.closed_form else 2
    assert cost["steps"] == steps or made.fresh is not None
    assert cost["flops"] > 0
    if method in READ:
        assert cost["images"] == READ[method]


@pytest.mark.parametrize(
    "method",
    [n if n in QUICK_PLUGINS else pytest.param(n, marks=pytest.mark.slow) for n in NAMES],
)
def test_ec_is_added_to_every_gradient_method(forerunners, tmp_path, method):
    plain = methods.build(config(method), ("stage1", "stage2", "stage3"))
    folder = tmp_path / "run"
    own = isinstance(plain, (EC, Plugged))
    if plain.closed_form or plain.fresh is not None or plain.head_only or own:
        with pytest.raises(InputError, match=r"ec\.plugin = True: "):
            run(forerunners, folder, method, ec__plugin=True)
        return
    experiment = run(forerunners, folder, method, ec__plugin=True)
    assert check(experiment)["images"] >= 2 * (32 + 16)
    if method not in QUICK_PLUGINS:
        return
    weightless = run(forerunners, tmp_path / "none", method, ec__plugin=True, ec__weight=0.0)
    _, with_ec = trees(experiment)
    _, without = trees(weightless)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), with_ec["params"], without["params"])
    assert not all(jax.tree.leaves(same))


@pytest.mark.parametrize(
    "method", ["pseudo_label", *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES)]
)
def test_samples_can_be_forgotten(forerunners, tmp_path, method):
    check(run(forerunners, tmp_path / "run", method, forget__classes="samples:100"))


@pytest.mark.parametrize("method", ["damp", "duck", "scar"])  # which look for the nearest class
def test_all_classes_but_one_can_be_forgotten(forerunners, tmp_path, method):
    check(run(forerunners, tmp_path / "run", method, forget__classes="0,1,2,3,4,5,6,7,8"))


@pytest.mark.slow
def test_all_of_ecs_variants_at_once(forerunners, tmp_path):
    variants = {"ec__targets": "pseudo", "ec__pseudo": 0.5, "ec__proxy": 0.3}
    variants["ec__calibrated"] = True
    check(run(forerunners, tmp_path / "alone", "ec", **variants))
    check(run(forerunners, tmp_path / "added", "scrub", ec__plugin=True, **variants))


def test_the_recipe_fills_what_was_not_given():
    given = recipes.complete(small(method="head_distill"), kept=())
    assert given.method == "head_distill"
    for name in NAMES:
        config = small(method=name).unlock()
        config.recipes = {}  # what was found for digits would take their place
        filled = recipes.complete(config.lock())
        for field, value in registry.recipe(name).items():
            assert json.loads(json.dumps(value)) == _field(filled, field)


def _field(config, dotted):
    for part in dotted.split("."):
        config = config[part]
    return config
