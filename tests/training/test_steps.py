"""Where a step's images come from does not change what it computes."""

from functools import partial

import jax
import jpegs
import numpy as np
import pytest
from command import changed

from configs import default
from ec_jax import methods, parallel, scenario
from ec_jax.data import sources
from ec_jax.errors import InputError
from ec_jax.training.optimizer import make_optimizer
from ec_jax.training.plan import plan
from ec_jax.training.state import create
from ec_jax.training.steps import Steps, at_once, make_steps

STEPS = 3
SMALL = {"model__depth": 8, "model__width": 4, "data__batch_size": 6, "parallel__devices": 1}


def started(config):
    """The steps of the stage ``original``, and the state before the first."""
    found = scenario.Scenario(config)
    network = found.network(modules=False)
    training = plan(
        "original", config, found.splits, network.points, methods.build(config, network.points)
    )
    optimizer = make_optimizer(config.original.optimizer, training.steps)
    variables = network.init(jax.random.key(0), found.image_shape)
    state = create(network, variables, optimizer, training.trained, tuple(training.streams))
    steps = make_steps(found, training, network, optimizer, {})
    return steps, parallel.replicate(state, found.mesh)


def trained(config):
    """Parameters after the steps of the stage ``original``, and one more tried as ``loop`` does."""
    steps, state = started(config)
    for step in range(STEPS):
        state, _ = steps(state, step)
    params = jax.device_get(state.params)
    _, metrics = steps(state, STEPS)
    assert np.isfinite(metrics["loss"])
    return params


def test_pictures_are_read_up_to_the_step_that_is_tried_at_the_end(tmp_path):
    jpegs.folder(tmp_path)
    sources.load.cache_clear()
    pictures = {"data__name": "folder", "data__data_dir": str(tmp_path), "data__image_size": 16}
    pictures |= {"data__resize": 20, "data__augment": "crop+flip", "forget__classes": "bee"}
    config = changed(default.get_config(), **SMALL, **pictures, original__epochs=0.75)
    assert len(jax.tree.leaves(trained(config))) > 10


def test_images_on_the_device_and_on_the_host_are_the_same(monkeypatch):
    found, read = {}, {}
    for kept in (scenario.RESIDENT, 0):
        monkeypatch.setattr(scenario, "RESIDENT", kept)
        config = changed(
            default.get_config(), **SMALL, data__augment="crop", original__epochs=STEPS * 6 / 1437
        )
        on_device = scenario.Scenario(config).resident
        assert (on_device is None) == (not kept)
        if kept:
            resident = jax.device_get(on_device)
            assert resident["image"].dtype == np.uint8
        found[kept] = trained(config)
        steps, _ = started(config)
        read[kept] = [jax.device_get(steps.batch(step, 1)) for step in range(STEPS)]
    for rows, batch in zip(*read.values(), strict=True):
        (rows,), (batch,) = rows.values(), batch.values()
        np.testing.assert_array_equal(resident["label"][rows], batch["label"])
        images = resident["image"][rows].reshape(batch["image"].shape)
        np.testing.assert_array_equal(images, batch["image"])
    # Two programs: sums may be in another order.
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, *found.values())


def test_a_forget_set_without_an_image_is_refused(tmp_path):
    jpegs.folder(tmp_path)
    for file in (tmp_path / "train" / "bee").iterdir():
        file.write_bytes(b"no picture")
    sources.load.cache_clear()
    pictures = {"data__name": "folder", "data__data_dir": str(tmp_path), "data__image_size": 16}
    pictures |= {"data__damaged": "skip", "forget__classes": "bee"}
    config = changed(default.get_config(), **SMALL, **pictures)
    with pytest.raises(InputError, match=r"forget.classes = 'bee': there is no training"):
        _ = scenario.Scenario(config).splits


def history(steps, state, counts):
    """The state, and every metric of every step, after calls of so many steps."""
    found, step = [], 0
    for count in counts:
        assert steps.together(step, count) == count
        state, metrics = steps(state, step, count)
        found += [{k: np.atleast_1d(v)[i] for k, v in metrics.items()} for i in range(count)]
        step += count
    return jax.device_get(state), found


@pytest.mark.parametrize("kind", ["shard_map", "pmap"])
def test_steps_at_once_are_those_one_by_one(kind):
    found = {}
    for size in (1, 4):
        config = changed(
            default.get_config(),
            **{**SMALL, "data__batch_size": 8, "parallel__devices": 2},
            parallel__map=kind,
            parallel__at_once=size,
            data__augment="crop",
            original__epochs=5 * 8 / 1437,
        )
        made, state = started(config)
        assert made.size == size
        found[size] = history(made, state, (4, 1) if size > 1 else (1,) * 5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found.values()
    )


def test_a_call_makes_steps_of_the_same_streams_alone():
    steps = Steps(None, {}, lambda step: ("forget",) if step % 4 == 0 else ("retain",), {}, None, 4)
    assert [steps.together(step, 9) for step in range(5)] == [1, 3, 2, 1, 1]
    assert steps.together(1, 2) == 2
    assert Steps(None, {}, lambda _: ("retain",), {}, None).together(0, 9) == 1


def test_a_call_makes_no_more_steps_than_a_line_of_the_log_is_of():
    many = {"parallel__at_once": 2**31 - 1, "report__log_every": 3, "checkpoint__every": 7}
    found = scenario.Scenario(changed(default.get_config(), **SMALL, **many))
    assert at_once(found) == 3
