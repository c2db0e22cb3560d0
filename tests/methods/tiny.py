"""A tiny real network on drawn images, and a method's loss and steps on it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from configs import default
from ec_jax import methods, parallel
from ec_jax.models.network import Outputs, build
from ec_jax.recipes import complete
from ec_jax.training import prepare
from ec_jax.training.optimizer import make_optimizer
from ec_jax.training.plan import Training
from ec_jax.training.state import create
from ec_jax.training.update import Recipe, make_update

SHAPE, CLASSES = (8, 8, 1), 4
POINTS = ("stage1", "stage2", "stage3")
LAST = POINTS[-1]
MEAN, STD = np.float32([0.5]), np.float32([0.25])


def config(name, **settings):
    c = default.get_config().unlock()
    c.method, c.model.depth, c.model.width = name, 8, 4
    c = complete(c).unlock()
    if settings:
        methods.chosen(c).update(settings)
    return c


def method(name, **settings):
    return methods.build(config(name, **settings), POINTS)


@functools.cache
def network(kind=None):
    return build(config("ec").model, CLASSES, module_kind=kind, axis_name=parallel.AXIS)


@functools.cache
def _variables(seed, kind):
    made = jax.jit(network(kind).init, static_argnums=1)(jax.random.key(seed), SHAPE)
    return jax.device_get(made)


def backbone(seed=1):
    """A network's {"params", "batch_stats"}, on the host."""
    return {c: jax.tree.map(np.copy, t["backbone"]) for c, t in _variables(seed, None).items()}


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def normalised(pictures):
    return ((pictures / 255.0 - MEAN) / STD).astype(np.float32)


def context(forget=(3,), models=None, forget_count=7, retain_count=17, seed=0):
    """Every class but the forgotten ones is in the retain set; where none is, all are in both."""
    draw = np.random.default_rng(seed)
    kept = [c for c in range(CLASSES) if c not in forget]
    sizes = {
        "forget_train": (forget_count, list(forget) or list(range(CLASSES))),
        "retain_train": (retain_count, kept),
    }
    sets = {
        name: (normalised(images(n, seed + i)), draw.choice(labels, n).astype(np.int32))
        for i, (name, (n, labels)) in enumerate(sizes.items())
    }

    def batches(split, size):
        pictures, labels = sets[split]
        for start in range(0, len(labels), size):
            yield jnp.asarray(pictures[start : start + size]), labels[start : start + size]

    models = {"original": backbone(), **(models or {})}
    made = methods.Context(models, tuple(forget), network(), batches, jax.random.key(5))
    return made, sets


def drawn_outputs(seed=0, width=3, points=(LAST,), streams=("retain", "forget"), forget=(2, 3)):
    """Outputs and labels of a step, drawn; features are not negative, as pooled ones are."""
    draw = np.random.default_rng(seed)
    outputs, batch = {}, {}
    for name, count, labels in (("retain", 8, (0, 1)), ("forget", 4, forget)):
        if name in streams:
            outputs[name] = Outputs(
                logits={p: np.float32(draw.normal(size=(count, CLASSES))) for p in points},
                embeddings={p: np.float32(draw.random((count, width))) for p in points},
            )
            batch[name] = {"label": draw.choice(labels, count).astype(np.int32)}
    return outputs, batch


def value(made, outputs, batch, extras=None, params=None, devices=1, progress=0.0):
    """(loss, metrics) of a step, per device."""
    mesh = parallel.make_mesh(devices)

    def program(state, shared, given):
        step = methods.Step(
            *given, shared["extras"], shared["params"], progress, 0, jax.random.key(0)
        )
        return made.loss(step)

    shared = {"extras": extras or {}, "params": params or {}}
    run = parallel.per_device(program, mesh)
    return jax.device_get(run({}, shared, parallel.shard((outputs, batch), mesh)))


def seen(made, batch, extras, devices=1, count=0):
    """The batch after ``Method.view``, its parts of all devices together."""
    mesh = parallel.make_mesh(devices)
    run = functools.partial(methods.forward, network())

    def program(state, shared, given):
        step = methods.Step({}, given, shared, {}, 0.0, count, jax.random.key(0))
        return {}, jax.tree.map(
            lambda a: jax.lax.all_gather(a, parallel.AXIS, tiled=True), made.view(step, run)
        )

    return jax.device_get(parallel.per_device(program, mesh)({}, extras, batch))[1]


def trained(made, name, given, steps=2, devices=1, seed=0):
    """The parameters and metrics after some real updates by the method's own recipe."""
    c, mesh = config(name), parallel.make_mesh(devices)
    net = network("conv" if made.uses_modules else None)
    start = jax.tree.map(np.copy, _variables(1, "conv" if made.uses_modules else None))
    parts = ("backbone", "modules") if made.uses_modules else ("backbone",)
    plan = Training({}, steps, "unlearn", made.loss, made.uses_modules, parts, (), method=made)
    plan, start = prepare.with_parameters(plan, start, given)
    optimizer = make_optimizer(c.unlearn.optimizer, steps)
    recipe = Recipe(
        made.loss, optimizer, plan.trained, (), steps=steps, view=made.view, limit=made.limit
    )
    update = parallel.per_device(make_update(net, recipe, MEAN, STD), mesh)
    state = parallel.replicate(create(net, start, optimizer, plan.trained, made.streams), mesh)
    extras = made.prepare(given)
    shared = parallel.replicate({"key": jax.random.key(seed), "extras": extras}, mesh)
    draw, history = np.random.default_rng(seed), []
    labels = {"retain": [0, 1, 2], "forget": [3]}
    for i in range(steps):
        batch = {
            name: {
                "image": images(8, 10 * i + j),
                "label": draw.choice(labels[name], 8).astype(np.int32),
            }
            for j, name in enumerate(made.streams)
        }
        state, metrics = update(state, shared, parallel.shard(batch, mesh))
        history.append(jax.device_get(metrics))
    return jax.device_get(state.params), history


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def cross_entropy(logits, labels):
    return -np.mean([row[y] for row, y in zip(log_softmax(logits), labels, strict=True)])


def agree(one, two, atol=1e-5):
    """The same trees on one device and on several."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), one, two)


def pooled(tree, pictures):
    """Pooled features and logits of normalised images, float64."""
    out = _forward(tree, jnp.asarray(pictures))
    return tuple(np.asarray(a[LAST], np.float64) for a in (out.embeddings, out.logits))


@jax.jit
def _forward(tree, pictures):
    return methods.forward(network(), tree, pictures)
