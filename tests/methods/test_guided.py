"""Guided EC: the relation to the proxy against loops, its gradient, and what the method is."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec as P
from test_calibration import cka, drawn, spatial_means, two_models

from ec_jax import parallel
from ec_jax.methods import _calibration, ec


def guided(**fields):
    """The shipped variant on the tiny network, with some fields of EC changed."""
    c = tiny.config("ec_guided").unlock()
    c.ec.update(fields)
    return ec.build(c, tiny.POINTS)


def guided_batch(pairs):
    """Outputs and a batch whose forget features are these pairs: the student's, the proxy's."""
    outputs, batch = tiny.outputs_and_batch(points=tiny.POINTS)
    features = {p: student for p, (student, _) in pairs.items()}
    outputs["forget"] = outputs["forget"].replace(features=features)
    batch["forget"] |= {f"proxy/{p}": proxy for p, (_, proxy) in pairs.items()}
    batch["forget"]["proxy"] = np.float32(np.random.default_rng(2).normal(size=(4, 5)))
    return outputs, batch


EXTRAS = {"forgotten": np.isin(np.arange(5), tiny.FORGET)}


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_the_relation_is_what_is_left_to_the_proxys_similarity(devices):
    pairs = drawn()
    outputs, batch = guided_batch(pairs)
    weights = {"weights": "1,2,3", "weights_sum": 6.0}
    loss, metrics = tiny.value(
        guided(relation=0.7, **weights), outputs, batch, devices, extras=EXTRAS
    )
    without, told = tiny.value(guided(relation=0.0, **weights), outputs, batch, extras=EXTRAS)
    added = 0.0
    for weight, (point, pair) in enumerate(pairs.items(), start=1):
        expected = 0.7 * (1 - cka(*pair))
        assert metrics[f"relation/{point}"] == pytest.approx(expected, abs=1e-5)
        assert f"relation/{point}" not in told
        added += weight * expected
    assert loss - without == pytest.approx(added, rel=1e-4)


def similarity(one, other, devices=1):
    """The similarity as a step has it, a function of the whole batch."""
    mesh = parallel.make_mesh(devices)
    on_devices = jax.shard_map(
        _calibration.similarity,
        mesh=mesh,
        in_specs=(P(parallel.AXIS), P(parallel.AXIS)),
        out_specs=P(),
        check_vma=False,
    )
    return on_devices(one, other)


def test_its_gradient_leads_to_the_proxys_relation_and_ends_there():
    student, proxy = drawn(count=12, mixed=1.0)["stage1"]
    gradient = jax.jit(jax.grad(similarity))
    slope = np.asarray(gradient(student, proxy))
    step = 1e-2
    for place in ((0, 0), (5, 2), (11, 1)):
        moved = np.zeros_like(student)
        moved[place] = step
        expected = (cka(student + moved, proxy) - cka(student - moved, proxy)) / (2 * step)
        assert slope[place] == pytest.approx(expected, rel=0.02, abs=1e-4)
    turned = proxy[:, ::-1] * 3 + 1  # the same relation elsewhere
    assert float(similarity(turned, proxy)) == pytest.approx(1, abs=1e-5)
    assert np.abs(gradient(turned, proxy)).max() < 1e-5


def test_the_view_holds_the_proxys_features_and_answers():
    made, context = guided(), two_models()
    part = tiny.whole(context, "forget")
    assert set(made.prepare(context)) == {"forgotten", "proxy"}
    found = tiny.viewed(made, {"forget": part}, made.prepare(context))["forget"]
    proxy = context.models["proxy"]
    for point, expected in spatial_means(proxy, part["image"]).items():
        np.testing.assert_allclose(found[f"proxy/{point}"], expected, atol=1e-5)
    np.testing.assert_allclose(found["proxy"], tiny.pooled(proxy, part["image"])[1], atol=1e-4)


def test_the_shipped_variant_is_ec_with_a_proxy_at_the_later_points():
    made = guided()
    assert dataclasses.replace(made, weights=[]) == ec.EC(
        tiny.POINTS, [], 1.0, 0.1, "both", tiny.LAST, proxy=1.0, relation=3.0
    )
    assert made.weights == [0, 0.5, 0.5]
    assert made.needs == ("proxy",)


def test_its_terms_are_told_of_every_point():
    _, history = tiny.updates("ec_guided", two_models())
    tiny.check_finite(history)
    terms = ("retain", "forget", "proxy", "relation")
    assert {f"{term}/{point}" for term in terms for point in tiny.POINTS} <= set(history[-1])
