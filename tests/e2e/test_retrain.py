"""Retraining as a control: the untrained network, other draws, the original's initial weights."""

import functools
import json

import jax
import pytest
from small_run import small

from ec_jax import pipeline, rng
from ec_jax.data.loader import Stream
from ec_jax.pipeline import Experiment

FAST = {
    "method": "retrain",
    "original__epochs": 0.1,  # three updates
    "evaluation__metrics": "accuracy,agreement,cka,variance,gap",
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """An original, which every run here brings along; its training's start, caught on the way."""
    folder, caught = tmp_path_factory.mktemp("original"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "train", functools.partial(_catching, pipeline.train, caught))
        Experiment(small(**FAST, stages="original"), folder).run()
    ((state, _),) = caught
    return folder / "checkpoints" / "original", state


def _catching(train, caught, name, state, step_fn, **others):
    """The training loop, but where it starts and what it reads is kept."""
    caught.append((jax.device_get(state), step_fn))
    return train(name, state, step_fn, **others)


def prepared(original, folder, stages="unlearn", **overrides):
    given = {"original__checkpoint": str(original[0]), "stages": stages, **FAST, **overrides}
    return Experiment(small(**given), folder)


def run(original, folder, stages="unlearn", **overrides):
    made = prepared(original, folder, stages, **overrides)
    made.run()
    return made


def start(original, folder, monkeypatch, **overrides):
    """(initial parameters, indices that the first three steps read) of a retraining."""
    caught = []
    made = prepared(original, folder, **overrides)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "train", lambda *a, **kw: _catching(_never, caught, *a, **kw))
        with pytest.raises(NotImplementedError):
            made.run()
    ((state, steps),) = caught
    read = [steps.streams["retain"](i).tolist() for i in range(3)]
    return state.params["backbone"], read, steps, made.scenario


def _never(*_, **__):
    """Trains nothing."""
    raise NotImplementedError


def initial(experiment, name):
    """{"params", "batch_stats"} of a fresh backbone, from a random stream of this name."""
    network, shape = experiment.scenario.network(modules=False), (8, 8, 1)
    init = jax.jit(network.init, static_argnums=1)
    variables = init(rng.key(experiment.config.seed, name, "init"), shape)
    return {collection: tree["backbone"] for collection, tree in variables.items()}


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


@pytest.mark.parametrize(("draw", "stream"), [(0, "unlearn"), (3, "unlearn/draw3")])
def test_without_an_update_it_is_a_fresh_network(original, tmp_path, draw, stream):
    made = run(original, tmp_path, retrain__share=0.0, retrain__draw=draw)
    assert same(made.model("unlearned"), initial(made, stream))
    assert not same(made.model("unlearned")["params"], original[1].params["backbone"])


@pytest.mark.parametrize("draw", [0, 1])
def test_without_an_update_it_may_be_what_the_original_started_from(original, tmp_path, draw):
    settings = {"retrain__share": 0.0, "retrain__initial": "original", "retrain__draw": draw}
    found = run(original, tmp_path, **settings).model("unlearned")
    assert same(found["params"], original[1].params["backbone"])
    assert same(found["batch_stats"], original[1].batch_stats["backbone"])


def test_the_untrained_network_is_measured_and_cost_nothing(original, tmp_path):
    stages = "oracle,unlearn,evaluate,report"
    run(original, tmp_path, stages, retrain__share=0.0)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    spent = metrics["cost"]["unlearn"]
    assert (spent["steps"], spent["images"], spent["flops"]) == (0, 0, 0)
    assert metrics["models"]["unlearned"]["accuracy/retain_test"] < 50
    table = (tmp_path / "table.md").read_text()
    assert "Unlearning took 0.0 % of the oracle's steps, 0.0 % of its images and 0.0 %" in table
    run(original, tmp_path, stages, retrain__share=0.0)  # it is done


def test_draws_differ_in_weights_and_order_and_the_first_is_the_stages_own(
    original, tmp_path, monkeypatch
):
    found = {
        draw: start(original, tmp_path / str(draw), monkeypatch, retrain__draw=draw)
        for draw in (0, 1, 2)
    }
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not same(found[a][0], found[b][0])
        assert found[a][1] != found[b][1]
    again = start(original, tmp_path / "again", monkeypatch, retrain__draw=1)
    assert same(again[0], found[1][0])
    assert again[1] == found[1][1]
    _, read, steps, scenario = found[0]
    config, rows = scenario.config, scenario.splits["retain_train"]
    own = Stream(rows, config.data.batch_size, config.seed, "unlearn/retain")
    assert read == [own.batch_indices(i).tolist() for i in range(3)]
    key = jax.random.key_data(steps.shared["key"])
    assert (key == jax.random.key_data(rng.key(config.seed, "unlearn"))).all()


def test_the_originals_initial_weights_leave_the_order_to_the_draw(original, tmp_path, monkeypatch):
    own = start(original, tmp_path / "own", monkeypatch, retrain__draw=1)
    shared = start(
        original, tmp_path / "o", monkeypatch, retrain__draw=1, retrain__initial="original"
    )
    assert shared[1] == own[1]
    assert same(shared[0], original[1].params["backbone"])
    assert not same(own[0], shared[0])


# The oracle takes three steps of 64 images.
@pytest.mark.parametrize(
    ("share", "images", "steps"), [(0.0, 130, 2), (0.0, 1, 1), (0.0, 64, 1), (1.0, 64, 4)]
)
def test_it_may_read_as_many_images_as_a_method_does(original, tmp_path, share, images, steps):
    run(original, tmp_path, retrain__images=images, retrain__share=share)
    assert [p.name for p in (tmp_path / "checkpoints" / "unlearn").iterdir()] == [str(steps)]
