"""Methods that are a loss: real updates on one device and on two."""

import jax
import numpy as np
import pytest
import tiny

# A few that stand for the others: test_every_method.py takes every method through the pipeline.
NAMES = ("gradient_ascent", "pseudo_label", "scrub", "random_label", "opc", "salun")


@pytest.mark.parametrize("name", NAMES)
def test_two_devices_do_what_one_does(name):
    one, history = tiny.updates(name)
    two, histories = tiny.updates(name, devices=2)
    for got, want in zip(histories, history, strict=True):
        assert got.keys() == want.keys()
        for metric, expected in want.items():
            assert np.isfinite(expected)
            np.testing.assert_allclose(got[metric], expected, rtol=1e-3, atol=1e-4, err_msg=metric)
    moved = [
        (np.abs(a - b).max(), np.abs(a - c).max())
        for a, b, c in zip(
            *map(jax.tree.leaves, (one.params["backbone"], two.params["backbone"])),
            jax.tree.leaves(tiny.backbone()["params"]),
            strict=True,
        )
    ]
    # Rounding alone tells the two apart.
    assert max(d for d, _ in moved) < 0.02 * max(m for _, m in moved)
