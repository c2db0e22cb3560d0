"""UNSIR: the noise is what it is said to be, and the two phases."""

import jax
import numpy as np
import pytest
import tiny


def objective(pictures, labels):
    nats = tiny.cross_entropy(tiny.pooled(tiny.backbone(), pictures)[1], labels)
    return 0.01 * np.square(np.float64(pictures)).sum(axis=(1, 2, 3)) - nats


@pytest.mark.parametrize(("forget", "earlier"), [((1, 3), ()), ((), ()), ((), (2,))])
def test_the_noise_climbs_the_originals_loss(forget, earlier):
    context = tiny.context(forget, earlier=earlier)
    settings = {"noise_images": 3, "noise_penalty": 0.01}
    start = tiny.method("unsir", noise_steps=0, **settings).prepare(context)
    learned = tiny.method("unsir", noise_steps=20, **settings).prepare(context)
    classes = list(forget) or [c for c in range(tiny.CLASSES) if c not in earlier]
    assert learned["label"].tolist() == classes * 3
    assert learned["image"].shape == (3 * len(classes), *tiny.SHAPE)
    before, after = (objective(np.asarray(e["image"]), e["label"]) for e in (start, learned))
    assert (after < before).all()


def test_a_step_of_noise_is_one_of_adam():
    torch = pytest.importorskip("torch")
    context = tiny.context((3,))
    made = {n: tiny.method("unsir", noise_images=2, noise_steps=n) for n in (0, 1)}
    start, after = (np.asarray(made[n].prepare(context)["image"]) for n in (0, 1))

    def loss(noise):
        log_q = tiny.log_likelihood(tiny.backbone(), noise, np.int32([3, 3]))
        return log_q.sum() + 0.1 * (noise**2).sum()

    noise = torch.tensor(start, requires_grad=True)
    adam = torch.optim.Adam([noise], lr=0.1)
    noise.grad = torch.tensor(np.array(jax.jit(jax.grad(loss))(start)))
    adam.step()
    np.testing.assert_allclose(after, noise.detach().numpy(), atol=1e-5)


def test_each_step_takes_the_next_noise_on_any_number_of_devices():
    made = tiny.method("unsir")
    extras = {"image": np.arange(10.0, dtype=np.float32)[:, None], "label": np.arange(10) % 2}
    batch = {"retain": {"image": np.zeros((6, 1), np.float32), "label": np.zeros(6, np.int32)}}
    for devices in (1, 2):
        for count, rows in ((0, [0, 1, 2, 3, 4, 5]), (1, [6, 7, 8, 9, 0, 1])):
            found = tiny.viewed(made, batch, extras, devices, count)["noise"]
            assert found["image"][:, 0].tolist() == rows
            assert found["label"].tolist() == [r % 2 for r in rows]


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(("progress", "share"), [(0.0, 1.0), (0.49, 1.0), (0.5, 0.0), (0.9, 0.0)])
def test_impair_then_repair(progress, share, devices):
    outputs, batch = tiny.outputs_and_batch()
    outputs["noise"], batch["noise"] = outputs.pop("forget"), batch.pop("forget")
    made = tiny.method("unsir")
    loss, _ = tiny.value(made, outputs, batch, devices, progress=progress)
    parts = tiny.cross_entropies(outputs, batch)
    assert loss == pytest.approx(parts["retain"].mean() + share * parts["noise"].mean(), rel=1e-5)


def test_it_trains_without_the_forget_set_alike_on_one_and_two_devices():
    assert tiny.method("unsir").streams == ("retain",)
    settings = {"steps": 3, "noise_images": 4, "noise_steps": 2}
    one, history = tiny.updates("unsir", **settings)
    assert [h["images"] for h in history] == [16, 16, 16]  # as many of noise as of the retain set
    two, _ = tiny.updates("unsir", devices=2, **settings)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one.params, two.params)
    tiny.check_finite(history)
