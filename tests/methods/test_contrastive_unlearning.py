"""Contrastive unlearning against a loop, and the case in which its loss would be zero."""

import numpy as np
import pytest
import tiny

from ec_jax.errors import InputError


def by_loops(outputs, batch, candidates, tau, weight):
    z, y = (
        {n: np.asarray(outputs[n].embeddings[tiny.LAST], np.float64) for n in outputs},
        {n: batch[n]["label"] for n in batch},
    )
    z = {n: v / np.linalg.norm(v, axis=1, keepdims=True) for n, v in z.items()}
    values = []
    for i, (anchor, own) in enumerate(zip(z["forget"], y["forget"], strict=True)):
        rows = [j for j in range(len(y[candidates])) if candidates == "retain" or j != i]
        scores = np.exp(z[candidates][rows] @ anchor / tau)
        positive = y[candidates][rows] != own
        if positive.any():
            values.append(-np.log(scores[positive] / scores.sum()).mean())
    retain = tiny.cross_entropy(outputs["retain"].logits[tiny.LAST], y["retain"])
    return retain + weight * np.mean(values)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("candidates", ["retain", "forget"])
def test_the_sum_of_both_losses(candidates, devices):
    outputs, batch = tiny.drawn_outputs()
    batch["forget"]["label"] = np.int32([2, 3, 3, 2])
    made = tiny.method("contrastive", candidates=candidates, weight=2.0)
    loss, _ = tiny.value(made, outputs, batch, devices=devices)
    assert loss == pytest.approx(by_loops(outputs, batch, candidates, 0.7, 2.0), rel=1e-5)


def test_one_class_among_itself_is_refused():
    made = tiny.method("contrastive", candidates="forget")
    with pytest.raises(InputError, match=r"contrastive\.candidates"):
        made.prepare(tiny.context()[0])
    for forget in ((2, 3), ()):
        assert made.prepare(tiny.context(forget)[0]) == {}


def test_it_trains():
    _, history = tiny.trained(tiny.method("contrastive"), "contrastive", tiny.context()[0])
    assert np.isfinite([h["loss"] for h in history]).all()
