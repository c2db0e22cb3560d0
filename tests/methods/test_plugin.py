"""EC on top of another method: what the host is, it stays."""

import jax
import numpy as np
import pytest
import tiny

from ec_jax.errors import InputError


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_weights_that_the_host_holds_fast_stay_to_the_bit():
    state, _ = tiny.updates("salun", steps=3, share=0.5, ec__plugin=True)
    mask = tiny.method("salun", share=0.5).prepare(tiny.context())["mask"]
    before, after = flat(tiny.backbone()["params"]), flat(state.params["backbone"])
    np.testing.assert_array_equal(after[~flat(mask)], before[~flat(mask)])
    assert (after[flat(mask)] != before[flat(mask)]).mean() > 0.9


def test_what_the_host_refuses_is_refused_with_ec_too():
    plugged = tiny.method("contrastive", candidates="forget", ec__plugin=True)
    plugged.check((3, 4))
    with pytest.raises(InputError, match=r"contrastive\.candidates"):
        plugged.check((3,))


@pytest.mark.parametrize("name", ["random_label", "pour_d"])
def test_without_weight_the_backbone_moves_as_with_the_host_alone(name):
    # In inference mode, as these have it: images in one pass do not meet in its statistics.
    plain = {"unlearn__optimizer__clip": 0.0}  # the norm would hold the modules' gradient, too
    alone, _ = tiny.updates(name, **plain)
    nothing, _ = tiny.updates(name, ec__plugin=True, ec__weight=0.0, **plain)
    something, _ = tiny.updates(name, ec__plugin=True, **plain)
    host, zero, one = (flat(s.params["backbone"]) for s in (alone, nothing, something))
    assert np.abs(host - flat(tiny.backbone()["params"])).max() > 1e-5
    np.testing.assert_allclose(zero, host, atol=1e-6)
    assert np.abs(one - host).max() > 1e-5


@pytest.mark.parametrize(("mode", "moves"), [("train", True), ("inference", False)])
def test_batch_norms_mode_is_the_configs(mode, moves):
    state, _ = tiny.updates("finetune", unlearn__batch_norm=mode)
    before, after = (
        flat(tree) for tree in (tiny.backbone()["batch_stats"], state.batch_stats["backbone"])
    )
    assert (np.abs(after - before).max() > 1e-3) == moves


def test_a_retain_only_hosts_statistics_hold_the_forget_batch_once_ec_is_added():
    alone, _ = tiny.updates("finetune")
    plugged, _ = tiny.updates("finetune", ec__plugin=True, ec__weight=0.0)
    a, b = (flat(s.batch_stats["backbone"]) for s in (alone, plugged))
    assert np.abs(a - b).max() > 1e-4  # docs/methods.md says so
