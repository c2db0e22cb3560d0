"""Contrastive unlearning against a loop, and the case in which its loss would be zero."""

import numpy as np
import pytest
import tiny

from ec_jax.errors import InputError


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("candidates", ["retain", "forget"])
def test_the_sum_of_both_losses(candidates, devices):
    outputs, batch = tiny.outputs_and_batch()
    batch["forget"]["label"] = np.int32([2, 3, 3, 2])
    made = tiny.method("contrastive", candidates=candidates, weight=2.0)
    loss, _ = tiny.value(made, outputs, batch, devices)
    features = np.concatenate([tiny.features_of(outputs, n) for n in ("forget", "retain")])
    labels = np.concatenate([batch[n]["label"] for n in ("forget", "retain")])
    rows = range(4) if candidates == "forget" else range(4, 12)
    forget = tiny.contrastive(features, labels, range(4), rows, 0.7, same=False)
    retain = tiny.cross_entropies(outputs, batch)["retain"].mean()
    assert loss == pytest.approx(retain + 2.0 * forget, rel=1e-5)


def test_one_class_among_itself_is_refused():
    made = tiny.method("contrastive", candidates="forget")
    with pytest.raises(InputError, match=r"contrastive\.candidates"):
        made.check((3,))
    for forget in ((2, 3), ()):
        made.check(forget)


def test_it_trains():
    tiny.check_finite(tiny.updates("contrastive")[1])
