import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec_jax.evaluation.features import extract


class _Model:
    """A jitted forward pass that counts its calls and compilations."""

    def __init__(self, dtype=jnp.float32):
        self.calls, self.traces = 0, 0

        @jax.jit
        def forward(batch):
            self.traces += 1
            x = batch.astype(dtype)
            return {"stage1": x, "stage2": x.mean(axis=(1, 2))}, x.sum(axis=(1, 2)) * 2, {"map": x}

        self.forward = forward

    def __call__(self, batch):
        assert batch.dtype == np.uint8
        self.calls += 1
        return self.forward(batch)


def one(model, *args):
    return extract({"it": model}, *args)["it"]


def _images(count):
    images = np.random.default_rng(count).integers(256, size=(count, 2, 2, 3))
    return images.astype(np.uint8)


@settings(deadline=None, max_examples=25)
@given(count=st.integers(1, 30), batch_size=st.integers(1, 12))
def test_every_example_exactly_once_and_in_order(count, batch_size):
    model, images, labels = _Model(), _images(count), np.arange(count)
    got = one(model, images, labels, batch_size)
    values = images.astype(np.float32)
    np.testing.assert_array_equal(got.points["stage1"], values)
    np.testing.assert_allclose(got.points["stage2"], values.mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(got.logits, values.sum(axis=(1, 2)) * 2)
    np.testing.assert_array_equal(got.labels, labels)
    assert model.calls == -(-count // batch_size)
    assert model.traces == 1


@pytest.mark.parametrize("count", [0, 5])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_types_shapes_and_order_of_points(count, dtype):
    got = one(_Model(dtype), _images(count), np.arange(count, dtype=np.int64), 4)
    assert list(got.points) == ["stage1", "stage2"]
    assert got.points["stage1"].shape == (count, 2, 2, 3)
    assert got.points["stage2"].shape == got.logits.shape == (count, 3)
    assert got.labels.shape == (count,)
    assert got.labels.dtype == np.int32
    for values in (*got.points.values(), got.logits):
        assert isinstance(values, np.ndarray)
        assert values.dtype == np.float32


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="3 images, 2 labels"):
        one(_Model(), _images(3), np.arange(2), 4)
    with pytest.raises(ValueError, match="batch size 0"):
        one(_Model(), _images(3), np.arange(3), 0)


def test_maps_are_shown_batch_by_batch_and_models_share_the_batches():
    models, images, seen = {"a": _Model(), "b": _Model()}, _images(7), []
    found = extract(
        models, images, np.arange(7), 3, watch=lambda maps, valid: seen.append((maps, valid))
    )
    assert [valid for _, valid in seen] == [3, 3, 1]
    assert [m.calls for m in models.values()] == [3, 3]
    for name, part in found.items():
        shown = np.concatenate([np.asarray(maps[name]["map"])[:valid] for maps, valid in seen])
        np.testing.assert_array_equal(shown, part.points["stage1"])
