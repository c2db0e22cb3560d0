"""Proxy distillation: the proxy teaches every point, with the forgotten class left out."""

import dataclasses

import numpy as np
import pytest
import tiny


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("forget", [tiny.FORGET, ()])
def test_the_mean_over_the_points(forget, devices):
    outputs, batch = tiny.outputs_and_batch(points=tiny.POINTS)
    batch = tiny.teachers(batch)
    extras = {"forgotten": np.isin(np.arange(tiny.CLASSES), forget)}
    made = tiny.method("proxy_distill", alpha=0.4)
    loss, metrics = tiny.value(made, outputs, batch, devices, extras=extras)
    part = batch["forget"]
    masked = [forget] * len(part["label"])  # of samples, whose class stays, nothing is left out
    values = [
        tiny.kl(part["teacher"], tiny.logits_of(outputs, "forget", point), masked)
        for point in tiny.POINTS
    ]
    retain = tiny.cross_entropies(outputs, batch)["retain"].mean()
    assert loss == pytest.approx(0.4 * np.mean(values) + retain, rel=1e-5)
    assert set(metrics) == {"retain", *(f"divergence/{p}" for p in tiny.POINTS)}


def test_the_teacher_is_the_proxy_and_every_point_trains():
    made = tiny.method("proxy_distill")
    assert (made.needs, made.uses_modules) == (("proxy",), True)
    context, proxy = tiny.context(), tiny.backbone(7)
    context = dataclasses.replace(context, models={**context.models, "proxy": proxy})
    part = tiny.whole(context, "forget")
    found = tiny.viewed(made, {"forget": part}, made.prepare(context))["forget"]["teacher"]
    np.testing.assert_allclose(found, tiny.pooled(proxy, part["image"])[1], atol=1e-4)
    _, history = tiny.updates("proxy_distill", context)
    assert {f"divergence/{p}" for p in tiny.POINTS} <= set(history[0])
    tiny.check_finite(history)
