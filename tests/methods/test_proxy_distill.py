"""Proxy distillation: the proxy teaches every point, with the forgotten class left out."""

import numpy as np
import pytest
import tiny


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("forget", [(2, 3), ()])
def test_the_mean_over_the_points(forget, devices):
    outputs, batch = tiny.drawn_outputs(points=tiny.POINTS)
    teacher = np.float32(np.random.default_rng(2).normal(size=(4, tiny.CLASSES)))
    batch["forget"]["teacher"] = teacher
    extras = {"forgotten": np.isin(np.arange(tiny.CLASSES), forget)}
    made = tiny.method("proxy_distill", alpha=0.4)
    loss, metrics = tiny.value(made, outputs, batch, extras, devices=devices)
    values = []
    for point in tiny.POINTS:
        log_q = tiny.log_softmax(outputs["forget"].logits[point])
        for i, y in enumerate(batch["forget"]["label"]):
            masked = list(forget) or [y]
            inside = [c for c in range(tiny.CLASSES) if c not in masked]
            log_p = tiny.log_softmax(teacher[i, inside])
            values.append((np.exp(log_p) * (log_p - log_q[i, inside])).sum())
    retain = tiny.cross_entropy(outputs["retain"].logits[tiny.LAST], batch["retain"]["label"])
    assert loss == pytest.approx(0.4 * np.mean(values) + retain, rel=1e-5)
    assert set(metrics) == {"retain", *(f"divergence/{p}" for p in tiny.POINTS)}


def test_the_teacher_is_the_proxy_and_every_point_trains():
    made = tiny.method("proxy_distill")
    assert (made.needs, made.uses_modules) == (("proxy",), True)
    context, sets = tiny.context(models={"proxy": tiny.backbone(7)}, forget_count=4)
    pictures, labels = sets["forget_train"]
    batch = {"forget": {"image": pictures, "label": labels}}
    found = tiny.seen(made, batch, made.prepare(context))["forget"]["teacher"]
    np.testing.assert_allclose(found, tiny.pooled(tiny.backbone(7), pictures)[1], atol=1e-4)
    _, history = tiny.trained(made, "proxy_distill", context)
    assert {f"divergence/{p}" for p in tiny.POINTS} <= set(history[0])
    assert np.isfinite([h["loss"] for h in history]).all()
