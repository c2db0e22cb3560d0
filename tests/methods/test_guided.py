"""Guided EC: its loss against loops, and what it is made of."""

import numpy as np
import pytest
import tiny
from test_ec import by_loops

from ec_jax import methods
from ec_jax.errors import InputError
from ec_jax.methods.ec import EC
from ec_jax.methods.proxy_distill import ProxyDistill


def guided(alpha=0.3, **fields):
    """The method on the tiny network, with some fields of EC changed."""
    c = tiny.config("ec_guided", alpha=alpha).unlock()
    c.ec.update(fields)
    return methods.build(c, tiny.POINTS)


@pytest.mark.parametrize("devices", [1, 2])
def test_it_is_the_proxys_answers_everywhere_and_ec_below_the_last_point(devices):
    outputs, batch = tiny.outputs_and_batch(points=tiny.POINTS)
    batch = tiny.teachers(batch)
    forgotten = {"forgotten": np.isin(np.arange(tiny.CLASSES), tiny.FORGET)}
    made = guided(0.4, weight=0.25, temperature=0.3, weights="1,2,3", weights_sum=6.0)
    loss, metrics = tiny.value(made, outputs, batch, devices, extras={"host": forgotten, "ec": {}})
    part = batch["forget"]
    masked = [tiny.FORGET] * len(part["label"])
    answers = [
        tiny.kl(part["teacher"], tiny.logits_of(outputs, "forget", point), masked)
        for point in tiny.POINTS
    ]
    retain = tiny.cross_entropies(outputs, batch)["retain"].mean()
    below = by_loops(outputs, batch, {"stage1": 1.0, "stage2": 2.0}, 1.0, 0.3)
    assert loss == pytest.approx(retain + 0.4 * np.mean(answers) + 0.25 * below, rel=1e-5)
    assert f"divergence/{tiny.LAST}" in metrics
    assert f"ec/forget/{tiny.LAST}" not in metrics


def test_it_is_proxy_distillation_with_ec_on_top():
    made = guided()
    assert made.host == ProxyDistill(tiny.LAST, 0.3)
    assert made.ec == EC(tiny.POINTS[:-1], made.ec.weights, 1.0, 0.1, "both", tiny.LAST)
    assert (made.needs, made.uses_modules) == (("proxy",), True)


def test_ec_is_not_added_a_second_time():
    with pytest.raises(InputError, match=r"ec\.plugin = True: ec_guided is no method"):
        guided(plugin=True)


def test_the_last_point_alone_leaves_ec_none():
    with pytest.raises(InputError, match=rf"ec\.points = '{tiny.LAST}': EC leaves the last point"):
        guided(points=tiny.LAST)


def test_its_terms_are_told_of_every_point():
    _, history = tiny.updates("ec_guided", tiny.two_models())
    tiny.check_finite(history)
    assert {f"divergence/{point}" for point in tiny.POINTS} <= set(history[-1])
    assert {f"ec/forget/{point}" for point in tiny.POINTS[:-1]} <= set(history[-1])


@pytest.mark.parametrize("method", ["finetune", "ec_guided"])
@pytest.mark.parametrize(
    ("points", "weights"), [("stage2,stage3", "late"), ("all", "0,0,1"), ("stage1,stage3", "0,2")]
)
def test_ec_with_no_weight_but_that_of_the_last_point_is_refused(method, points, weights):
    c = tiny.config(method).unlock()
    c.ec.update(points=points, weights=weights, plugin=method == "finetune")
    with pytest.raises(InputError, match=rf"^ec\.weights = '{weights}': weighs the last point al"):
        methods.build(c, tiny.POINTS)
    c.ec.include_head = True
    methods.build(c, tiny.POINTS)


def test_the_other_points_keep_their_weights():
    made = guided(weights="1,2,5", weights_sum=4.0)
    assert made.ec.weights == [0.5, 1.0]  # not the sum, as the last point's are left out
