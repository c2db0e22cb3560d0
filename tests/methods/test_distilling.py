"""SCRUB, bad teacher and DELETE against loops; their teachers on a real network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

ALL = np.ones(tiny.CLASSES, bool)


def divergences(outputs, batch, temperature=1.0):
    return {
        name: tiny.kl(
            batch[name]["teacher"], tiny.logits_of(outputs, name), temperature=temperature
        )
        for name in batch
    }


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(
    ("progress", "count", "up"), [(0.0, 0, True), (0.1, 7, False), (0.3, 8, False), (0.29, 8, True)]
)
def test_scrub_goes_up_every_other_step_and_then_no_more(progress, count, up, devices):
    outputs, batch = tiny.outputs_and_batch()
    batch = tiny.teachers(batch)
    method = tiny.method("scrub", alpha=0.4, gamma=0.9, temperature=3.0, max_share=0.3)
    loss, _ = tiny.value(method, outputs, batch, devices, progress=progress, count=count)
    parts = divergences(outputs, batch, 3.0)
    retain = tiny.cross_entropies(outputs, batch)["retain"].mean()
    down = 0.4 * parts["retain"].mean() + 0.9 * retain
    assert loss == pytest.approx(-parts["forget"].mean() if up else down, rel=1e-5)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("stream", ["forget", "retain"])
def test_a_step_of_scrub_alone_needs_one_set(stream, devices):
    outputs, batch = tiny.outputs_and_batch((stream,))
    batch = tiny.teachers(batch)
    method = tiny.method("scrub", alpha=0.4, gamma=0.9, temperature=3.0)
    loss, metrics = tiny.value(method, outputs, batch, devices)
    divergence = divergences(outputs, batch, 3.0)[stream].mean()
    retain = tiny.cross_entropies(outputs, batch)[stream].mean()
    expected = -divergence if stream == "forget" else 0.4 * divergence + 0.9 * retain
    assert loss == pytest.approx(expected, rel=1e-5)
    assert metrics[f"divergence/{stream}"] == pytest.approx(divergence, rel=1e-5)


@pytest.mark.parametrize(("share", "steps"), [(0.3, 10), (0.29, 100), (0.0, 7), (1.0, 7)])
def test_scrub_reads_what_its_loss_reads(share, steps):
    method = tiny.method("scrub", max_share=share)
    read = [method.reads(count, steps) for count in range(steps)]
    for count, streams in enumerate(read):
        up = count * 100 < round(share * 100) * steps and count % 2 == 0
        assert streams == (("forget",) if up else ("retain",))


def test_real_steps_of_scrub_run_one_set_alike_on_one_and_two_devices():
    runs = {d: tiny.updates("scrub", devices=d, steps=4, max_share=0.6) for d in (1, 2)}
    (one, history), (two, _) = runs[1], runs[2]
    # Steps 0 and 2 go up.
    assert [h["images"] for h in history] == [4, 8, 4, 8]
    assert [h["spread"] for h in history[:2]] == [1, 1]  # each stream's own first step
    assert all((h["spread"] != 1) for h in history[2:])
    tiny.check_finite(history)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one.params, two.params)


@pytest.mark.parametrize(
    ("count", "moved", "still"), [(0, "forget", "retain"), (1, "retain", "forget")]
)
def test_a_step_of_scrub_moves_one_of_both_sets(count, moved, still):
    outputs, batch = tiny.outputs_and_batch()
    batch = tiny.teachers(batch)

    def loss(logits):
        changed = {n: o.replace(logits={tiny.LAST: logits[n]}) for n, o in outputs.items()}
        return tiny.value_inside(tiny.method("scrub"), changed, batch, count=count)

    gradients = jax.grad(loss)({n: o.logits[tiny.LAST] for n, o in outputs.items()})
    assert np.abs(gradients[moved]).max() > 0
    assert (np.asarray(gradients[still]) == 0).all()


def seen(method, given):
    """A batch of real images as the method sees it."""
    batch = {name: tiny.whole(given, name) for name in method.streams}
    extras = method.prepare(given)
    return batch, tiny.viewed(method, batch, extras), extras


@pytest.mark.parametrize("name", ["scrub", "delete"])
def test_the_teacher_is_the_original(name):
    given = tiny.context()
    batch, found, _ = seen(tiny.method(name), given)
    assert found.keys() == batch.keys()
    for stream, part in batch.items():
        logits = tiny.pooled(given.original, part["image"])[1]
        np.testing.assert_allclose(found[stream]["teacher"], logits, rtol=1e-5, atol=1e-6)


def test_delete_lets_a_retain_batch_pass_that_another_term_reads():
    given, method = tiny.context(), tiny.method("delete")
    batch = {name: tiny.whole(given, name) for name in ("retain", "forget")}
    found = tiny.viewed(method, batch, method.prepare(given))
    jax.tree.map(np.testing.assert_array_equal, found["retain"], batch["retain"])
    assert set(found["forget"]) == {"image", "label", "teacher"}


def test_the_bad_teacher_is_a_random_network_on_the_forget_set_alone():
    given = tiny.context()
    batch, found, extras = seen(tiny.method("bad_teacher"), given)
    same = jax.tree.map(lambda a, b: a.shape == b.shape, extras["random"], given.original)
    assert all(jax.tree.leaves(same))
    for stream, tree in (("retain", given.original), ("forget", extras["random"])):
        logits = tiny.pooled(tree, batch[stream]["image"])[1]
        np.testing.assert_allclose(found[stream]["teacher"], logits, rtol=1e-5, atol=1e-6)
    kernels = []
    for seed in (7, 7, 8):
        other = dataclasses.replace(given, key=jax.random.key(seed))
        random = tiny.method("bad_teacher").prepare(other)["random"]
        kernels.append(random["params"]["head"]["kernel"])
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    assert not np.array_equal(kernels[0], given.original["params"]["head"]["kernel"])


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_bad_teachers_loss_is_the_mean_over_all_images(temperature, devices):
    outputs, batch = tiny.outputs_and_batch()
    batch = tiny.teachers(batch)
    method = tiny.method("bad_teacher", temperature=temperature)
    loss, metrics = tiny.value(method, outputs, batch, devices, extras={"left": ALL})
    parts = divergences(outputs, batch, temperature)
    assert loss == pytest.approx(np.concatenate(list(parts.values())).mean(), rel=1e-5)
    for name, values in parts.items():
        assert metrics[f"divergence/{name}"] == pytest.approx(values.mean(), rel=1e-5)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("forget", [tiny.FORGET, ()], ids=["classes", "samples"])
@pytest.mark.parametrize("mask", ["own", "forgotten"])
def test_delete_leaves_out_the_own_class_or_all_forgotten_ones(mask, forget, devices):
    outputs, batch = tiny.outputs_and_batch(("forget",))
    batch = tiny.teachers(batch)
    method = tiny.method("delete", mask=mask)
    assert method.streams == ("forget",)
    extras = {"masked": method.prepare(tiny.context(forget))["masked"], "left": ALL}
    loss, _ = tiny.value(method, outputs, batch, devices, extras=extras)
    whole = set(forget) if mask == "forgotten" else set()
    part, logits = batch["forget"], tiny.logits_of(outputs, "forget")
    values = tiny.kl(part["teacher"], logits, [whole or {int(y)} for y in part["label"]])
    assert loss == pytest.approx(values.mean(), rel=1e-5)


def test_delete_pushes_the_own_class_down():
    outputs, batch = tiny.outputs_and_batch(("forget",))
    logits = outputs["forget"].logits[tiny.LAST]
    batch["forget"]["teacher"] = logits  # at the first step the student is the teacher
    extras = {"masked": jnp.zeros(tiny.CLASSES, bool), "left": ALL}

    def loss(logits):
        changed = {"forget": outputs["forget"].replace(logits={tiny.LAST: logits})}
        return tiny.value_inside(tiny.method("delete"), changed, batch, extras=extras)

    for scale in (1.0, 1e4):
        gradient = np.asarray(jax.grad(loss)(scale * logits))
        assert np.isfinite(gradient).all()
    own = np.asarray(batch["forget"]["label"])
    gradient = np.asarray(jax.grad(loss)(logits))
    for row, label in zip(gradient, own, strict=True):
        assert row[label] > 0
        assert (np.delete(row, label) <= 1e-7).all()


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("name", ["bad_teacher", "delete"])
def test_no_teacher_hands_an_image_to_a_class_forgotten_earlier(name, devices):
    method = tiny.method(name)
    outputs, batch = tiny.outputs_and_batch(method.streams)
    batch = tiny.teachers(batch)
    extras = method.prepare(dataclasses.replace(tiny.context(), earlier=(1,)))
    loss, _ = tiny.value(method, outputs, batch, devices, extras=extras)
    values = []
    for stream, part in batch.items():
        own = [{1, int(y)} if name == "delete" else {1} for y in part["label"]]
        values += list(tiny.kl(part["teacher"], tiny.logits_of(outputs, stream), own))
    assert loss == pytest.approx(np.mean(values), rel=1e-5)
