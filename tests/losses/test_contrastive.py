import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

from ec_jax.losses.contrastive import (
    CANDIDATES,
    contrastive_forgetting_loss,
    l2_normalize,
    supervised_contrastive_loss,
)

SHAPES = [(1, 0, 3), (1, 4, 2), (4, 1, 3), (5, 0, 2), (6, 9, 5)]  # forget, retain, dimensions


@functools.partial(jax.jit, static_argnames="candidates")
def _loss(forget, forget_labels, retain, retain_labels, temperature, candidates):
    return contrastive_forgetting_loss(
        forget,
        forget_labels,
        retain,
        retain_labels,
        temperature=temperature,
        candidates=candidates,
    )


def _unit(row):
    length = np.sqrt(sum(float(v) ** 2 for v in row))
    return np.array([float(v) / length if length else 0.0 for v in row])


def _reference(forget, forget_labels, retain, retain_labels, temperature, candidates, targets=None):
    """The definition, sample by sample in float64."""
    losses, mask = [], []
    for i, (anchor, label) in enumerate(zip(forget, forget_labels, strict=True)):
        pool = []
        if candidates in ("forget", "both"):
            pool += [
                (x, y) for j, (x, y) in enumerate(zip(forget, forget_labels, strict=True)) if j != i
            ]
        if candidates in ("retain", "both"):
            pool += list(zip(retain, retain_labels, strict=True))
        scores = [float(_unit(anchor) @ _unit(x)) / temperature for x, _ in pool]
        positives = [
            s
            for s, (_, y) in zip(scores, pool, strict=True)
            if (y != label if targets is None else y == targets[i])
        ]
        mask.append(bool(positives))
        if not positives:
            losses.append(0.0)
            continue
        top = max(scores)
        log_total = top + np.log(sum(np.exp(s - top) for s in scores))
        losses.append(-sum(s - log_total for s in positives) / len(positives))
    return np.array(losses), np.array(mask)


def _batch(generator, n, m, d, classes):
    return (
        generator.normal(size=(n, d)).astype(np.float32),
        generator.integers(classes, size=n).astype(np.int32),
        generator.normal(size=(m, d)).astype(np.float32),
        generator.integers(classes, size=m).astype(np.int32),
    )


@settings(deadline=None, max_examples=40)
@given(
    shape=st.sampled_from(SHAPES),
    candidates=st.sampled_from(CANDIDATES),
    temperature=st.sampled_from([0.05, 0.1, 0.5, 1.0, 10.0]),
    classes=st.integers(1, 4),
    zero_rows=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_a_loop(shape, candidates, temperature, classes, zero_rows, seed):
    batch = _batch(np.random.default_rng(seed), *shape, classes)
    if zero_rows:
        batch[0][0] = 0.0
    losses, mask = _loss(*batch, temperature, candidates)
    want, want_mask = _reference(*batch, temperature, candidates)
    assert losses.dtype == jnp.float32
    np.testing.assert_array_equal(mask, want_mask)
    np.testing.assert_allclose(losses, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("candidates", ["retain", "both"])
@pytest.mark.parametrize("seed", range(4))
def test_targets_draw_each_anchor_to_one_class(candidates, seed):
    draw = np.random.default_rng(seed)
    batch = _batch(draw, 5, 7, 3, 4)
    targets = draw.integers(0, 4, 5).astype(np.int32)
    losses, mask = contrastive_forgetting_loss(
        *batch, temperature=0.3, candidates=candidates, targets=targets
    )
    want, want_mask = _reference(*batch, 0.3, candidates, targets)
    np.testing.assert_array_equal(mask, want_mask)
    np.testing.assert_allclose(losses, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("candidates", CANDIDATES)
def test_small_temperature_is_exact_and_has_a_finite_gradient(candidates):
    batch = _batch(np.random.default_rng(1), 12, 20, 16, 3)
    batch[2][0] = -batch[0][0]  # the widest range of scores: 100 to -100
    losses, mask = _loss(*batch, 0.01, candidates)
    want, want_mask = _reference(*batch, 0.01, candidates)
    np.testing.assert_array_equal(mask, want_mask)
    # Scores reach 100, of which float32 keeps 1e-5.
    np.testing.assert_allclose(losses, want, rtol=1e-5, atol=3e-5)
    assert np.isfinite(_gradients(batch, 0.01, candidates)).all()


@functools.partial(jax.jit, static_argnames="candidates")
def _grad_pair(batch, temperature, candidates):
    def total(forget, retain):
        return _loss(forget, batch[1], retain, batch[3], temperature, candidates)[0].sum()

    return jax.grad(total, argnums=(0, 1))(batch[0], batch[2])


def _gradients(batch, temperature, candidates):
    return np.concatenate([np.asarray(g) for g in _grad_pair(batch, temperature, candidates)])


@pytest.mark.parametrize("candidates", CANDIDATES)
def test_gradient_agrees_with_differences_of_the_loop(candidates):
    batch = _batch(np.random.default_rng(2), 4, 5, 3, 3)
    got = _gradients(batch, 0.5, candidates)
    want, step = np.zeros_like(got, np.float64), 1e-5
    rows = np.concatenate([batch[0], batch[2]]).astype(np.float64)
    for index in np.ndindex(rows.shape):
        values = []
        for sign in (1, -1):
            moved = rows.copy()
            moved[index] += sign * step
            parts = (moved[:4], batch[1], moved[4:], batch[3])
            values.append(_reference(*parts, 0.5, candidates)[0].sum())
        want[index] = (values[0] - values[1]) / (2 * step)
    np.testing.assert_allclose(got, want, atol=1e-5)


def _degenerate_cases():
    ones, zeros = np.ones((4, 3), np.float32), np.zeros((4, 3), np.float32)
    same, mixed = np.zeros(4, np.int32), np.array([0, 1, 0, 1], np.int32)
    none = (np.zeros((0, 3), np.float32), np.zeros(0, np.int32))
    opposite = np.concatenate([ones[:2], -ones[:2]])
    return {
        "one class": (ones + np.eye(4, 3, dtype=np.float32), same, opposite, same),
        "no retain": (opposite, mixed, *none),
        "no retain, one class": (opposite, same, *none),
        "no candidate": (ones[:1], same[:1], *none),
        "no anchor": (*none, ones, same),
        "nothing": (*none, *none),
        "zeros": (zeros, mixed, zeros, mixed + 1),
        "zero anchors": (zeros, mixed, ones, mixed),
        "zero retain": (ones, mixed, zeros, mixed),
        "identical": (ones, mixed, ones, mixed),
        "opposite": (opposite, mixed, -opposite, same),
        "tiny": (opposite * np.float32(1e-30), mixed, opposite * np.float32(1e-11), same),
        "huge": (opposite * np.float32(1e30), mixed, ones * np.float32(1e37), same),
    }


@pytest.mark.parametrize("name", _degenerate_cases())
@pytest.mark.parametrize("candidates", CANDIDATES)
def test_degenerate_batches(name, candidates):
    temperature = 0.01
    batch = _degenerate_cases()[name]
    losses, mask = _loss(*batch, temperature, candidates)
    if name != "tiny":  # whose vectors of 1e-30 count as zero here, not in the loop
        want, want_mask = _reference(*batch, temperature, candidates)
        np.testing.assert_array_equal(mask, want_mask)
        np.testing.assert_allclose(losses, want, rtol=1e-5, atol=3e-5)
    assert (np.asarray(losses)[~np.asarray(mask)] == 0).all()
    gradients = _gradients(batch, temperature, candidates)
    assert np.isfinite(losses).all()
    assert np.isfinite(gradients).all()
    if not mask.any():
        assert (gradients == 0).all()


@pytest.mark.parametrize("candidates", CANDIDATES)
def test_zero_vectors_pass_no_gradient(candidates):
    batch = _batch(np.random.default_rng(3), 5, 5, 4, 3)
    batch[0][2] = 0.0
    gradients = _gradients(batch, 0.1, candidates)
    assert (gradients[2] == 0).all()
    assert np.abs(gradients).sum() > 0


def test_anchors_without_positives_do_not_move_anything():
    forget = np.random.default_rng(4).normal(size=(3, 4)).astype(np.float32)
    labels, retain_labels = np.array([0, 0, 1]), np.array([0])
    # Only the anchor of class 1 has positives in the retain batch.
    batch = (forget, labels, forget[:1] + 1, retain_labels)
    assert _loss(*batch, 0.5, "retain")[1].tolist() == [False, False, True]
    gradients = _gradients(batch, 0.5, "retain")
    assert (gradients[:2] == 0).all()


def test_collapsed_features_give_the_logarithm_of_the_number_of_candidates():
    ones = np.ones((6, 3), np.float32)
    losses, mask = _loss(ones, np.arange(6), ones, np.arange(6), 0.1, "both")
    assert mask.all()
    np.testing.assert_allclose(losses, np.log(11), rtol=1e-6)


def test_lengths_do_not_matter():
    batch = _batch(np.random.default_rng(5), 6, 9, 5, 3)
    scaled = (batch[0] * np.float32(1e20), batch[1], batch[2] * np.float32(1e-9), batch[3])
    want = _loss(*batch, 0.1, "both")[0]
    np.testing.assert_allclose(_loss(*scaled, 0.1, "both")[0], want, rtol=1e-5)


def test_nan_is_not_hidden():
    batch = _batch(np.random.default_rng(6), 4, 5, 3, 2)
    batch[2][0, 0] = np.nan
    losses, mask = _loss(*batch, 0.1, "both")
    assert np.isnan(np.asarray(losses)[np.asarray(mask)]).all()
    assert np.isnan(l2_normalize(jnp.array([[jnp.inf, 1.0], [jnp.nan, 0.0]]))).all()


@pytest.mark.parametrize("candidates", CANDIDATES)
def test_bfloat16_is_computed_in_float32(candidates):
    batch = _batch(np.random.default_rng(7), 6, 9, 5, 3)
    low = [jnp.asarray(a, jnp.bfloat16) if a.dtype == np.float32 else a for a in batch]
    exact = [np.asarray(a, np.float32) if a.dtype == jnp.bfloat16 else a for a in low]
    losses, mask = _loss(*low, 0.1, candidates)
    assert losses.dtype == jnp.float32
    want, want_mask = _reference(*exact, 0.1, candidates)
    np.testing.assert_array_equal(mask, want_mask)
    np.testing.assert_allclose(losses, want, rtol=1e-5, atol=1e-5)
    gradient = _grad_pair(tuple(low), 0.1, candidates)[0]
    assert gradient.dtype == jnp.bfloat16
    assert np.isfinite(gradient.astype(jnp.float32)).all()


@pytest.mark.parametrize("candidates", ["", "Both", "all", None])
def test_unknown_candidates_are_refused(candidates):
    batch = _batch(np.random.default_rng(8), 2, 2, 2, 2)
    with pytest.raises(ValueError, match="candidates"):
        contrastive_forgetting_loss(*batch, temperature=0.5, candidates=candidates)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf"), 0])
def test_temperatures_that_are_not_positive_are_refused(temperature):
    batch = _batch(np.random.default_rng(9), 2, 2, 2, 2)
    with pytest.raises(ValueError, match="temperature"):
        contrastive_forgetting_loss(*batch, temperature=temperature)


def _with_params(params, forget, forget_labels, retain, retain_labels, candidates, axis_name):
    """Losses of embeddings that depend on parameters, as a network's do."""
    return contrastive_forgetting_loss(
        jnp.tanh(forget @ params),
        forget_labels,
        jnp.tanh(retain @ params),
        retain_labels,
        temperature=0.2,
        candidates=candidates,
        axis_name=axis_name,
    )


def _step(params, *batch, candidates, axis_name):
    """Per-anchor losses, mask, and the gradient of this device's sum of losses."""

    def total(params):
        losses, mask = _with_params(params, *batch, candidates, axis_name)
        return losses.sum(), (losses, mask)

    gradient, (losses, mask) = jax.grad(total, has_aux=True)(params)
    if axis_name is not None:
        gradient = jax.lax.psum(gradient, axis_name)
    return losses, mask, gradient


def _on_shard_map(count, params, batch, candidates):
    mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
    whole, cut = PartitionSpec(), PartitionSpec("data")
    mapped = jax.shard_map(
        functools.partial(_step, candidates=candidates, axis_name="data"),
        mesh=mesh,
        in_specs=(whole, cut, cut, cut, cut),
        out_specs=(cut, cut, whole),
        check_vma=False,
    )
    return jax.jit(mapped)(params, *batch)


def _on_pmap(count, params, batch, candidates):
    mapped = jax.pmap(
        functools.partial(_step, candidates=candidates, axis_name="data"),
        axis_name="data",
        in_axes=(None, 0, 0, 0, 0),
        devices=jax.devices()[:count],
    )
    cut = [a.reshape(count, a.shape[0] // count, *a.shape[1:]) for a in batch]
    losses, mask, gradient = mapped(params, *cut)
    return losses.reshape(-1), mask.reshape(-1), gradient[0]


def _eight_device_batch(retain=16, classes=3):
    generator = np.random.default_rng(10)
    params = generator.normal(size=(5, 4)).astype(np.float32)
    return params, _batch(generator, 8, retain, 5, classes)


@pytest.mark.parametrize(
    ("program", "count", "candidates"),
    [(_on_shard_map, n, c) for n in (1, 2, 8) for c in CANDIDATES]
    + [(_on_pmap, n, "both") for n in (1, 2, 8)],
)
def test_devices_do_not_change_losses_or_gradients(program, candidates, count):
    params, batch = _eight_device_batch()
    one = functools.partial(_step, candidates=candidates, axis_name=None)
    want = jax.jit(one)(params, *batch)
    got = program(count, params, batch, candidates)
    assert want[1].any()
    np.testing.assert_array_equal(got[1], want[1])
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[2], want[2], rtol=1e-4, atol=1e-5)
    assert np.abs(want[2]).max() > 1e-2


@pytest.mark.parametrize("candidates", CANDIDATES)
@pytest.mark.parametrize("retain", [0, 8])
def test_degenerate_batches_on_several_devices(candidates, retain):
    params, batch = _eight_device_batch(retain, classes=1)
    losses, mask, gradient = _on_shard_map(4, params, batch, candidates)
    assert not mask.any()
    assert (losses == 0).all()
    assert (gradient == 0).all()


def test_gathered_embeddings_receive_gradients():
    # One device's anchors alone: the gradient reaches the other devices' samples too.
    _, batch = _eight_device_batch()
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    cut = PartitionSpec("data")

    def per_device(forget, forget_labels, retain, retain_labels):
        def first_device_only(forget, retain):
            losses, _ = contrastive_forgetting_loss(
                forget, forget_labels, retain, retain_labels, temperature=0.2, axis_name="data"
            )
            return jnp.where(jax.lax.axis_index("data") == 0, losses.sum(), 0.0)

        return jax.grad(first_device_only, argnums=(0, 1))(forget, retain)

    mapped = jax.shard_map(
        per_device, mesh=mesh, in_specs=(cut,) * 4, out_specs=(cut, cut), check_vma=False
    )
    got = jax.jit(mapped)(*batch)

    def first_half(forget, retain):
        return _loss(forget, batch[1], retain, batch[3], 0.2, "both")[0][:4].sum()

    want = jax.grad(first_half, argnums=(0, 1))(batch[0], batch[2])
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        assert np.abs(a[len(a) // 2 :]).max() > 1e-3


@pytest.mark.parametrize("candidates", CANDIDATES)
def test_candidates_may_be_exchanged_in_bfloat16(candidates):
    _, batch = _eight_device_batch()
    forget, forget_labels, retain, retain_labels = batch
    loss = functools.partial(
        contrastive_forgetting_loss, temperature=0.1, candidates=candidates, gather_dtype="bfloat16"
    )
    losses, mask = loss(*batch)
    rounded = [
        np.array([_unit(row) for row in rows], np.float32).astype(jnp.bfloat16).astype(np.float64)
        for rows in (forget, retain)
    ]
    want = []
    for i, label in enumerate(forget_labels):
        own = [
            (x, y) for j, (x, y) in enumerate(zip(rounded[0], forget_labels, strict=True)) if j != i
        ]
        others = list(zip(rounded[1], retain_labels, strict=True))
        pool = {"forget": own, "retain": others, "both": own + others}[candidates]
        scores = np.array([_unit(forget[i]) @ x / 0.1 for x, _ in pool])
        positive = np.array([y != label for _, y in pool])
        want.append(np.log(np.exp(scores).sum()) - scores[positive].mean() if positive.any() else 0)
    np.testing.assert_allclose(losses, want, rtol=1e-4, atol=1e-4)
    exact = _loss(*batch, 0.1, candidates)[0]
    assert 1e-4 < np.abs(losses - exact).max() < 2 * 0.004 / 0.1
    cut = PartitionSpec("data")
    mapped = jax.shard_map(
        functools.partial(loss, axis_name="data"),
        mesh=Mesh(np.array(jax.devices()[:4]), ("data",)),
        in_specs=(cut,) * 4,
        out_specs=(cut, cut),
        check_vma=False,
    )
    found = jax.jit(mapped)(*batch)
    np.testing.assert_allclose(found[0], losses, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[1], mask)


def _supcon(features, labels, temperature):
    """SupCon by the other loss's loop: with every label its own it has these positives."""
    losses, mask = [], []
    for i, label in enumerate(labels):
        rest = [j for j in range(len(labels)) if j != i]
        scores = {j: float(_unit(features[i]) @ _unit(features[j])) / temperature for j in rest}
        own = [scores[j] for j in rest if labels[j] == label]
        mask.append(bool(own))
        top = max(scores.values(), default=0.0)
        log_total = top + np.log(sum(np.exp(s - top) for s in scores.values()) or 1.0)
        losses.append(-sum(s - log_total for s in own) / len(own) if own else 0.0)
    return np.array(losses), np.array(mask)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("classes", [1, 3, 50])
def test_supcon_agrees_with_a_loop(classes, temperature):
    features, labels, *_ = _batch(np.random.default_rng(11), 10, 0, 4, classes)
    features[3] = 0.0

    def total(features):
        losses, mask = supervised_contrastive_loss(features, labels, temperature=temperature)
        return losses.sum(), (losses, mask)

    gradient, (losses, mask) = jax.grad(total, has_aux=True)(jnp.asarray(features))
    want, want_mask = _supcon(features, labels, temperature)
    assert losses.dtype == jnp.float32
    np.testing.assert_array_equal(mask, want_mask)
    np.testing.assert_allclose(losses, want, rtol=1e-5, atol=3e-5)
    assert np.isfinite(gradient).all()


def test_supcon_does_not_depend_on_the_devices():
    features, labels, *_ = _batch(np.random.default_rng(12), 8, 0, 4, 3)
    cut = PartitionSpec("data")
    mapped = jax.shard_map(
        functools.partial(supervised_contrastive_loss, temperature=0.2, axis_name="data"),
        mesh=Mesh(np.array(jax.devices()[:4]), ("data",)),
        in_specs=(cut, cut),
        out_specs=(cut, cut),
        check_vma=False,
    )
    losses, mask = jax.jit(mapped)(features, labels)
    want, want_mask = supervised_contrastive_loss(
        jnp.asarray(features), jnp.asarray(labels), temperature=0.2
    )
    np.testing.assert_array_equal(mask, want_mask)
    np.testing.assert_allclose(losses, want, rtol=1e-5)


def test_supcon_of_one_sample_or_none_is_nothing():
    for n in (0, 1):
        losses, mask = supervised_contrastive_loss(
            jnp.ones((n, 3)), jnp.zeros(n, jnp.int32), temperature=0.1
        )
        assert losses.shape == (n,)
        assert not mask.any()
        assert (losses == 0).all()
