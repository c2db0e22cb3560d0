"""Methods that are a loss: real updates on one device and on two, and what they read."""

import jax
import numpy as np
import pytest
import tiny

# Retraining's loss is fine-tuning's, and SalUn's that of random labels.
CASES = [
    ("finetune", {}),
    ("gradient_ascent", {}),
    ("pseudo_label", {}),
    ("salun", {}),
    ("l1_sparse", {}),
    ("scrub", {}),
    ("bad_teacher", {}),
    ("delete", {}),
    ("opc", {}),
    ("cola", {}),
]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_two_devices_do_what_one_does(name, settings):
    start, one, history = tiny.updates(name, **settings)
    _, two, histories = tiny.updates(name, devices=2, **settings)
    for got, want in zip(histories, history, strict=True):
        assert got.keys() == want.keys()
        for metric, expected in want.items():
            assert np.isfinite(expected)
            np.testing.assert_allclose(got[metric], expected, rtol=1e-3, atol=1e-4, err_msg=metric)
    moved = [
        (np.abs(a - b).max(), np.abs(a - c).max())
        for a, b, c in zip(
            *map(jax.tree.leaves, (one.params["backbone"], two.params["backbone"])),
            jax.tree.leaves(start["params"]),
            strict=True,
        )
    ]
    # Rounding alone tells the two apart.
    assert max(d for d, _ in moved) < 0.02 * max(m for _, m in moved)
