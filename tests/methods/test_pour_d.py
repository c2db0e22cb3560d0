"""POUR-D: the projection, the targets, and the loss."""

import numpy as np
import pytest
import tiny

from ec_jax.methods.pour_d import bases


def projection(kernel, forgotten):
    """I − A A⁺ of the centred columns, in float64."""
    centred = kernel - kernel.mean(axis=1, keepdims=True)
    columns = centred[:, forgotten]
    return np.eye(len(kernel)) - columns @ np.linalg.pinv(columns)


@pytest.mark.parametrize("forgotten", [[3], [0, 2], [0, 1, 2]])
def test_the_basis_spans_the_forgotten_directions(forgotten):
    kernel = np.random.default_rng(0).normal(size=(6, 4))
    mask = np.isin(np.arange(4), forgotten)
    (q,) = bases(kernel, mask)
    np.testing.assert_allclose(np.eye(6) - q @ q.T, projection(kernel, forgotten), atol=1e-5)


def test_dependent_and_missing_directions_are_no_trouble():
    kernel = np.ones((5, 3))  # every centred column is zero
    assert (bases(kernel, np.array([True, True, False])) == 0).all()
    kernel = np.random.default_rng(0).normal(size=(5, 3))
    kernel[:, 1] = kernel[:, 0]
    (q,) = bases(kernel, np.array([True, True, False]))
    assert np.trace(q @ q.T) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("forget", "earlier"), [((3,), ()), ((), ()), ((), (1,))])
@pytest.mark.parametrize("devices", [1, 2])
def test_targets_and_loss(forget, earlier, devices):
    made = tiny.method("pour_d", retain_weight=0.5)
    context = tiny.context(forget, forget_count=8, retain_count=8, earlier=earlier)
    batch = {name: tiny.whole(context, name) for name in ("retain", "forget")}
    found = tiny.viewed(made, batch, made.prepare(context), devices)
    kernel = tiny.backbone()["params"]["head"]["kernel"].astype(np.float64)
    expected = {n: tiny.pooled(tiny.backbone(), batch[n]["image"])[0] for n in batch}
    for i, y in enumerate(batch["forget"]["label"]):
        p = projection(kernel, list(forget) or [y])
        expected["forget"][i] = p @ expected["forget"][i]
    for name in batch:
        np.testing.assert_allclose(found[name]["target"], expected[name], atol=1e-4)
    outputs, given = tiny.outputs_and_batch(width=expected["forget"].shape[1])
    for name, part in given.items():
        part["target"] = np.float32(expected[name][: len(part["label"])])
    loss, _ = tiny.value(made, outputs, given, devices)
    off = {
        n: np.square(tiny.features_of(outputs, n) - given[n]["target"]).sum(axis=1).mean()
        for n in given
    }
    assert loss == pytest.approx(off["forget"] + 0.5 * off["retain"], rel=1e-5)


def test_by_default_the_retain_set_is_not_read():
    made = tiny.method("pour_d")
    assert made.streams == ("forget",)
    outputs, batch = tiny.outputs_and_batch()  # the other stream may be there all the same
    batch["forget"]["target"] = outputs["forget"].embeddings[tiny.LAST]
    assert tiny.value(made, outputs, batch)[0] == 0
    tiny.check_finite(tiny.updates("pour_d")[1])
