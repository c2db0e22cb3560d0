"""SCRUB, bad teacher and DELETE against PyTorch and loops; their teachers on a real network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny


def kl(teacher, student, temperature=1.0):
    """T² · KL of each example, by PyTorch in float64."""
    import torch
    from torch.nn import functional

    t, s = (
        torch.tensor(np.asarray(a), dtype=torch.float64) / temperature for a in (teacher, student)
    )
    terms = functional.kl_div(
        functional.log_softmax(s, -1), functional.softmax(t, -1), reduction="none"
    )
    return temperature**2 * terms.sum(-1).numpy()


def divergences(outputs, batch, temperature=1.0):
    return {
        name: kl(batch[name]["teacher"], tiny.logits_of(outputs, name), temperature)
        for name in batch
    }


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(
    ("progress", "count", "up"), [(0.0, 0, True), (0.1, 7, False), (0.3, 8, False), (0.29, 8, True)]
)
def test_scrub_goes_up_every_other_step_and_then_no_more(progress, count, up, devices):
    outputs, batch = tiny.outputs_and_batch()
    batch = tiny.teachers(batch)
    method = tiny.method_of("scrub", alpha=0.4, gamma=0.9, temperature=3.0, max_share=0.3)
    loss, _ = tiny.value(method, outputs, batch, devices, progress=progress, count=count)
    parts = divergences(outputs, batch, 3.0)
    retain = tiny.cross_entropy(tiny.logits_of(outputs, "retain"), batch["retain"]["label"]).mean()
    down = 0.4 * parts["retain"].mean() + 0.9 * retain
    assert loss == pytest.approx(-parts["forget"].mean() if up else down, rel=1e-5)


@pytest.mark.parametrize(
    ("count", "moved", "still"), [(0, "forget", "retain"), (1, "retain", "forget")]
)
def test_a_step_of_scrub_moves_one_of_both_sets(count, moved, still):
    outputs, batch = tiny.outputs_and_batch()
    batch = tiny.teachers(batch)

    def loss(logits):
        changed = {n: o.replace(logits={tiny.LAST: logits[n]}) for n, o in outputs.items()}
        return tiny.value_inside(tiny.method_of("scrub"), changed, batch, count=count)

    gradients = jax.grad(loss)({n: o.logits[tiny.LAST] for n, o in outputs.items()})
    assert np.abs(gradients[moved]).max() > 0
    assert (np.asarray(gradients[still]) == 0).all()


def seen(method, given):
    """A batch of real images as the method sees it."""
    batch = {}
    for name, labels in (("retain", (0, 1, 2)), ("forget", tiny.FORGET)):
        pixels, own = tiny.images(4, labels, seed=9)
        batch[name] = {"image": tiny.normalized(pixels), "label": jnp.asarray(own)}
    batch = {name: part for name, part in batch.items() if name in method.streams}
    extras = method.prepare(given)
    return batch, tiny.viewed(method, batch, extras), extras


@pytest.mark.parametrize("name", ["scrub", "delete"])
def test_the_teacher_is_the_original(name):
    given = tiny.context()
    batch, found, _ = seen(tiny.method_of(name), given)
    assert found.keys() == batch.keys()
    for stream, part in batch.items():
        logits = given.forward(given.original, part["image"]).logits[tiny.LAST]
        np.testing.assert_allclose(found[stream]["teacher"], logits, rtol=1e-5, atol=1e-6)
        assert "teacher" not in part


def test_delete_lets_a_retain_batch_pass_that_another_term_reads():
    batch = {
        name: {"image": tiny.normalized(tiny.images(4, (0, 3))[0]), "label": jnp.zeros(4, int)}
        for name in ("retain", "forget")
    }
    method = tiny.method_of("delete")
    found = tiny.viewed(method, batch, method.prepare(tiny.context()))
    assert found["retain"] is batch["retain"]
    assert set(found["forget"]) == {"image", "label", "teacher"}


def test_the_bad_teacher_is_a_random_network_on_the_forget_set_alone():
    given = tiny.context()
    batch, found, extras = seen(tiny.method_of("bad_teacher"), given)
    same = jax.tree.map(lambda a, b: a.shape == b.shape, extras["random"], given.original)
    assert all(jax.tree.leaves(same))
    for stream, tree in (("retain", given.original), ("forget", extras["random"])):
        logits = given.forward(tree, batch[stream]["image"]).logits[tiny.LAST]
        np.testing.assert_allclose(found[stream]["teacher"], logits, rtol=1e-5, atol=1e-6)
    kernels = [
        tiny.method_of("bad_teacher").prepare(tiny.context(key=key))["random"]["params"]["head"][
            "kernel"
        ]
        for key in (7, 7, 8)
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    assert not np.array_equal(kernels[0], given.original["params"]["head"]["kernel"])


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_bad_teachers_loss_is_the_mean_over_all_images(temperature, devices):
    outputs, batch = tiny.outputs_and_batch()
    batch = tiny.teachers(batch)
    method = tiny.method_of("bad_teacher", temperature=temperature)
    loss, metrics = tiny.value(method, outputs, batch, devices)
    parts = divergences(outputs, batch, temperature)
    assert loss == pytest.approx(np.concatenate(list(parts.values())).mean(), rel=1e-5)
    for name, values in parts.items():
        assert metrics[f"divergence/{name}"] == pytest.approx(values.mean(), rel=1e-5)


def masked(teacher, student, out):
    """KL of one image whose teacher leaves the classes ``out`` out, by a loop in float64."""
    inside = [c for c in range(len(teacher)) if c not in out]
    p = np.exp(tiny.log_softmax(np.asarray(teacher)[inside]))
    q = tiny.log_softmax(student)[inside]
    return sum(a * (np.log(a) - b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("forget", [tiny.FORGET, ()], ids=["classes", "samples"])
@pytest.mark.parametrize("mask", ["own", "forgotten"])
def test_delete_leaves_out_the_own_class_or_all_forgotten_ones(mask, forget, devices):
    outputs, batch = tiny.outputs_and_batch(("forget",))
    batch = tiny.teachers(batch)
    method = tiny.method_of("delete", mask=mask)
    assert method.streams == ("forget",)
    extras = {"masked": method.prepare(tiny.context(forget))["masked"]}
    loss, _ = tiny.value(method, outputs, batch, devices, extras=extras)
    whole = set(forget) if mask == "forgotten" else set()
    values = [
        masked(t, s, whole or {int(y)})
        for t, s, y in zip(
            np.asarray(batch["forget"]["teacher"]),
            tiny.logits_of(outputs, "forget"),
            batch["forget"]["label"],
            strict=True,
        )
    ]
    assert loss == pytest.approx(np.mean(values), rel=1e-5)


def test_delete_pushes_the_own_class_down():
    outputs, batch = tiny.outputs_and_batch(("forget",))
    logits = outputs["forget"].logits[tiny.LAST]
    batch["forget"]["teacher"] = logits  # at the first step the student is the teacher
    extras = {"masked": jnp.zeros(tiny.CLASSES, bool)}

    def loss(logits):
        changed = {"forget": outputs["forget"].replace(logits={tiny.LAST: logits})}
        return tiny.value_inside(tiny.method_of("delete"), changed, batch, extras=extras)

    for scale in (1.0, 1e4):
        gradient = np.asarray(jax.grad(loss)(scale * logits))
        assert np.isfinite(gradient).all()
    own = np.asarray(batch["forget"]["label"])
    gradient = np.asarray(jax.grad(loss)(logits))
    for row, label in zip(gradient, own, strict=True):
        assert row[label] > 0
        assert (np.delete(row, label) <= 1e-7).all()
