"""SSD and DAMP against computations of their own on a tiny real network."""

import jax
import numpy as np
import pytest
import tiny
from flax import traverse_util
from scipy.optimize import minimize

from ec_jax.methods.damp import directions, residual
from ec_jax.models import resnet


@pytest.fixture(scope="module")
def gradients():
    """The context, and {stream: each image's gradient of the cross-entropy, one at a time}."""
    context = tiny.context((3,), forget_count=5, retain_count=9)
    rest = {"batch_stats": tiny.backbone()["batch_stats"]}

    @jax.jit
    def gradient(params, image, label):
        def loss(params):
            return -tiny.log_likelihood({"params": params, **rest}, image[None], label[None])[0]

        return jax.grad(loss)(params)

    params = tiny.backbone()["params"]
    found = {}
    for stream in ("forget", "retain"):
        pairs = zip(*tiny.whole(context, stream).values(), strict=True)
        found[stream] = [jax.device_get(gradient(params, x, y)) for x, y in pairs]
    return context, found


def importance(grads):
    return jax.tree.map(lambda *g: np.mean(np.square(np.stack(g, dtype=np.float64)), 0), *grads)


@pytest.mark.parametrize("images", [0, 4])
def test_ssd_dampens_what_matters_to_the_forget_set(gradients, images):
    context, grads = gradients
    found = tiny.method("ssd", alpha=1.5, lam=0.8, images=images).edit(context)
    limit = images or None
    forget, retain = (importance(grads[n][:limit]) for n in ("forget", "retain"))
    changed = []

    def check(new, old, f, d):
        near = np.abs(f - 1.5 * d) <= 1e-4 * f  # either way, by rounding
        picked = f > 1.5 * d
        expected = np.where(
            picked, np.minimum(0.8 * d / np.where(picked, f, 1), 1) * old.astype(np.float64), old
        )
        np.testing.assert_allclose(np.where(near, 0, new), np.where(near, 0, expected), rtol=1e-3)
        left = ~picked & ~near
        np.testing.assert_array_equal(np.asarray(new)[left], old[left])
        changed.append(picked.mean())

    jax.tree.map(check, found["params"], context.original["params"], forget, retain)
    assert 0 < np.mean(changed) < 1
    jax.tree.map(
        np.testing.assert_array_equal, found["batch_stats"], context.original["batch_stats"]
    )


@pytest.mark.parametrize(("n", "d"), [(3, 5), (8, 4), (1, 3)])
def test_the_residual_is_what_the_nearest_mixture_leaves(n, d):
    draw = np.random.default_rng(0)
    others, prototype = draw.random((n, d)), draw.random(d) + 1
    found = minimize(
        lambda w: np.square(prototype - w @ others).sum(),
        np.full(n, 1 / n),
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
        tol=1e-12,
    )
    np.testing.assert_allclose(residual(prototype, others), prototype - found.x @ others, atol=1e-3)


def test_a_prototype_among_the_others_has_no_direction():
    others = np.random.default_rng(0).random((4, 3))
    assert len(directions(others[1:2], others)) == 0
    assert len(directions(others[:2].mean(axis=0)[None], others)) == 0
    assert len(directions(np.zeros((1, 3)), np.zeros((2, 3)))) == 0
    same = np.stack([others[0] + 1, others[0] + 1])
    assert len(directions(same, others)) == 1


def prototypes(context, classes):
    """{point: {stream: mean of the spatial means, a row for each class}}."""
    variables = {c: {"backbone": t} for c, t in tiny.backbone().items()}
    run = jax.jit(lambda v, x: tiny.network().activations(v, x)[0])
    found = {}
    for stream, own in classes.items():
        part = tiny.whole(context, stream)
        for point, maps in run(variables, part["image"]).items():
            gap = np.asarray(maps, np.float64).mean(axis=(1, 2))
            rows = [gap[part["label"] == c].mean(axis=0) for c in own]
            found.setdefault(point, {})[stream] = np.stack(rows)
    return found


@pytest.mark.parametrize("forget", [(3,), (1, 3)])
def test_damp_hides_the_direction_from_what_reads_the_stage(forget):
    context = tiny.context(forget, forget_count=12, retain_count=24)
    edited = tiny.method("damp", strength=0.9).edit(context)
    new, old = (
        traverse_util.flatten_dict(jax.device_get(t["params"])) for t in (edited, context.original)
    )
    found, read = prototypes(context, tiny.classes_of(forget)), set()
    for i, (point, part) in enumerate(sorted(found.items())):
        share = 0.9 * (i + 1) / len(tiny.POINTS)
        rest = np.stack([residual(p, part["retain"]) for p in part["forget"]])
        projector = np.linalg.pinv(rest) @ rest
        assert np.trace(projector) == pytest.approx(len(forget))
        for path in resnet.readers(8, point):
            read.add(path)
            by_channel = np.moveaxis(old[path], -2, 0).reshape(len(projector), -1)
            expected = by_channel - share * projector @ by_channel
            result = np.moveaxis(new[path], -2, 0).reshape(len(projector), -1)
            np.testing.assert_allclose(result, expected, atol=1e-4)
    for path in old.keys() - read:
        np.testing.assert_array_equal(new[path], old[path])
    jax.tree.map(
        np.testing.assert_array_equal, edited["batch_stats"], context.original["batch_stats"]
    )


def test_damp_takes_a_sampled_forget_set_as_one_class():
    context = tiny.context(())
    found = tiny.method("damp").prototypes(context, "forget_train")
    assert [found[p].shape for p in tiny.POINTS] == [(1, w) for w in (4, 8, 16)]
    assert np.isfinite(tiny.method("damp").edit(context)["params"]["head"]["kernel"]).all()
