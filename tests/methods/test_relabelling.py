"""Random labels, pseudo-labels and SalUn's mask, against independent computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ec_jax import methods, parallel
from ec_jax.methods.random_label import random_labels
from ec_jax.methods.salun import most_salient
from ec_jax.models.network import Outputs


def drawn(key, count, classes, devices=1):
    """The labels of a whole batch."""
    mesh = parallel.make_mesh(devices)

    def program(state, key, batch):
        labels = random_labels(key, batch.shape[0], jnp.arange(classes))
        return jax.lax.all_gather(labels, parallel.AXIS, tiled=True), ()

    run = parallel.per_device(program, mesh)
    return np.asarray(run({}, key, parallel.shard(jnp.zeros(count), mesh))[0])


def test_random_labels_depend_on_the_step_and_not_on_the_devices():
    first = drawn(jax.random.key(0), 64, 5)
    assert first.dtype == np.int32
    for devices in (2, 8):
        np.testing.assert_array_equal(drawn(jax.random.key(0), 64, 5, devices), first)
    assert (drawn(jax.random.key(1), 64, 5) != first).mean() > 0.5


def test_random_labels_are_uniform_over_all_classes():
    counts = np.bincount(drawn(jax.random.key(3), 5000, 5), minlength=5)
    # 99.99 % of draws of a fair die with five sides stay below 23.5.
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 23.5


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("name", ["random_label", "salun"])
def test_the_forget_batch_learns_the_random_labels(name, devices):
    outputs, batch = tiny.outputs_and_batch()
    method = tiny.method(name, retain_weight=0.5)
    loss, _ = tiny.value(method, outputs, batch, devices, extras={"classes": np.arange(5)})
    labels = drawn(jax.random.key(0), 4, tiny.CLASSES)  # the step's key
    forget = tiny.cross_entropy(tiny.logits_of(outputs, "forget"), labels).mean()
    retain = tiny.cross_entropies(outputs, batch)["retain"].mean()
    assert loss == pytest.approx(forget + 0.5 * retain, rel=1e-5)


@pytest.mark.parametrize("name", ["random_label", "salun"])
def test_without_a_retain_term_no_retain_image_is_read(name):
    method = tiny.method(name, retain_weight=0.0)
    assert method.streams == ("forget",)
    outputs, batch = tiny.outputs_and_batch(("forget",))
    extras = {"classes": np.arange(5)}
    assert np.isfinite(tiny.value(method, outputs, batch, extras=extras)[0])


@pytest.mark.parametrize("earlier", [(), (1,)], ids=["first", "later"])
@pytest.mark.parametrize("forget", [tiny.FORGET, ()], ids=["classes", "samples"])
def test_pseudo_labels_are_the_originals_best_guess_among_the_others(forget, earlier):
    given, method = tiny.context(forget, earlier=earlier), tiny.method("pseudo_label")
    part = tiny.whole(given, "forget")
    found = tiny.viewed(method, {"forget": part}, method.prepare(given))["forget"]["pseudo"]
    assert found.dtype == jnp.int32
    logits = tiny.pooled(given.original, part["image"])[1]
    for row, label, pseudo in zip(logits, part["label"], found, strict=True):
        out = {*(forget or {int(label)}), *earlier}
        assert pseudo == max((c for c in range(tiny.CLASSES) if c not in out), key=lambda c: row[c])


@pytest.mark.parametrize("devices", [1, 2])
def test_pseudo_labels_take_the_place_of_the_labels(devices):
    outputs, batch = tiny.outputs_and_batch()
    pseudo = jnp.array([0, 2, 1, 1], jnp.int32)
    batch["forget"]["pseudo"] = pseudo
    loss, _ = tiny.value(tiny.method("pseudo_label"), outputs, batch, devices)
    forget = tiny.cross_entropy(tiny.logits_of(outputs, "forget"), pseudo).mean()
    retain = tiny.cross_entropies(outputs, batch)["retain"].mean()
    assert loss == pytest.approx(forget + retain, rel=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0, 1e-6])
def test_the_mask_holds_the_largest_share_of_all_weights_together(share):
    draw = np.random.default_rng(0)
    tree = {"a": draw.normal(size=(7, 3)), "b": {"c": 10 * draw.normal(size=11)}, "d": np.zeros(8)}
    mask = most_salient(jax.tree.map(np.float32, tree), share)
    sizes = np.abs(np.concatenate([a.ravel() for a in jax.tree.leaves(tree)]))
    chosen = np.concatenate([a.ravel() for a in jax.tree.leaves(mask)])
    assert chosen.sum() == max(int(share * 40), 1)
    assert sizes[chosen].min() >= sizes[~chosen].max(initial=0)


def test_saliency_is_the_gradient_over_the_whole_forget_set(monkeypatch):
    from ec_jax.methods import salun

    monkeypatch.setattr(salun, "_BATCH", 4)  # three batches, the last of them smaller
    given = tiny.context()
    mask = tiny.method("salun", share=0.3).prepare(given)["mask"]
    part = tiny.whole(given, "forget")

    def likelihood(params):
        tree = {**given.original, "params": params}
        return tiny.log_likelihood(tree, part["image"], part["label"]).mean()

    gradient = jax.jit(jax.grad(likelihood))(given.original["params"])
    sizes = np.concatenate([np.abs(np.ravel(g)) for g in jax.tree.leaves(gradient)])
    chosen = np.concatenate([np.ravel(m) for m in jax.tree.leaves(mask)])
    edge = np.sort(sizes)[::-1][int(0.3 * sizes.size) - 1]
    clear = np.abs(sizes - edge) > 1e-4 * edge  # at the edge rounding may decide
    np.testing.assert_array_equal(chosen[clear], (sizes > edge)[clear])
    assert clear.mean() > 0.99


def test_masked_weights_stay_to_the_bit_and_the_others_move():
    state, _ = tiny.updates("salun", steps=3, share=0.5)
    mask = tiny.method("salun", share=0.5).prepare(tiny.context())["mask"]
    before, after, may = (
        np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree)])
        for tree in (tiny.backbone()["params"], state.params["backbone"], mask)
    )
    np.testing.assert_array_equal(after[~may], before[~may])
    assert (after[may] != before[may]).mean() > 0.95


def test_what_is_not_the_backbone_moves_freely():
    kept = {"backbone": {"a": jnp.ones(2)}, "modules": {"a": jnp.ones(2)}}
    extras = {"mask": {"a": jnp.array([True, False])}}
    limited = tiny.method("salun").limit(kept, extras)
    assert limited["backbone"]["a"].tolist() == [1, 0]
    assert limited["modules"]["a"].tolist() == [1, 1]
    assert isinstance(tiny.method("salun"), methods.Method)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("name", ["random_label", "salun"])
def test_no_random_label_is_a_class_forgotten_earlier(name, devices):
    method = tiny.method(name, retain_weight=0.0)
    extras = method.prepare(tiny.context(earlier=(1,)))
    draw = np.random.default_rng(0)
    logits = {tiny.LAST: np.float32(draw.normal(size=(400, tiny.CLASSES)))}
    outputs = {"forget": Outputs(logits=logits, embeddings={})}
    batch = {"forget": {"label": np.full(400, 3, np.int32)}}
    gone = {tiny.LAST: logits[tiny.LAST] - 1e6 * np.float32(np.arange(tiny.CLASSES) == 1)}
    without = {"forget": outputs["forget"].replace(logits=gone)}
    # A single image with the label would cost 1e6 / 400.
    assert tiny.value(method, without, batch, devices, extras=extras)[0] < 100
