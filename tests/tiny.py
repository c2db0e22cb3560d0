"""A tiny network and what a method is given of it: losses and single updates in seconds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from command import changed

from configs import default
from ec_jax import config as config_lib
from ec_jax import methods, parallel, recipes, rng
from ec_jax.models.network import Outputs, build
from ec_jax.training.optimizer import make_optimizer
from ec_jax.training.state import create
from ec_jax.training.update import Recipe, make_update

SHAPE, CLASSES, FORGET = (8, 8, 1), 5, (3, 4)
MEAN, STD = np.float32([0.5]), np.float32([0.3])
LAST = "stage3"  # of a network of depth 8


def config_of(name, **settings):
    """A complete and valid config of a method; ``settings`` are fields of its own group."""
    base = changed(default.get_config(), method=name, model__depth=8, model__width=4)
    config = changed(
        recipes.complete(base), **{f"{name}__{field}": value for field, value in settings.items()}
    )
    config_lib.validate(config)
    return config


def method_of(name, **settings):
    return methods.build(config_of(name, **settings), ("stage1", "stage2", LAST))


def network():
    return build(config_of("finetune").model, CLASSES, axis_name=parallel.AXIS)


def images(count, labels, seed=0):
    """uint8 images and their labels."""
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    return pixels, draw.choice(labels, count).astype(np.int32)


def normalized(pixels):
    return jnp.asarray((pixels / 255 - MEAN) / STD, jnp.float32)


@functools.cache
def original(seed=1):
    """A network whose BatchNorm has seen something, so that statistics matter."""
    init = jax.jit(network().init, static_argnums=1)
    variables = jax.device_get(init(jax.random.key(seed), SHAPE))
    draw = np.random.default_rng(seed)
    stats = jax.tree.map(
        lambda a: a + draw.uniform(0, 0.3, a.shape).astype(np.float32), variables["batch_stats"]
    )
    return {"params": variables["params"]["backbone"], "batch_stats": stats["backbone"]}


def context(forget=FORGET, key=7):
    """What ``prepare`` is given: 10 forget images, or 10 samples of all classes, and 20 retain."""
    labels = {"forget_train": forget or range(CLASSES), "retain_train": (0, 1, 2)}
    sizes = {"forget_train": 10, "retain_train": 20}

    def batches(split, size):
        pixels, own = images(sizes[split], list(labels[split]))
        for start in range(0, len(own), size):
            part = slice(start, start + size)
            yield normalized(pixels[part]), own[part]

    return methods.Context(
        {"original": original()}, tuple(forget), network(), batches, jax.random.key(key)
    )


def outputs_and_batch(streams=("retain", "forget"), seed=0, scale=2.0):
    """Random outputs of 8 retain and 4 forget images, and their labels."""
    draw = np.random.default_rng(seed)
    outputs, batch = {}, {}
    for name, count, labels in (("retain", 8, (0, 1, 2)), ("forget", 4, FORGET)):
        logits = jnp.asarray(scale * draw.normal(size=(count, CLASSES)), jnp.float32)
        features = jnp.asarray(draw.normal(size=(count, 3)), jnp.float32)
        own = jnp.asarray(draw.choice(labels, count), jnp.int32)
        if name in streams:
            outputs[name] = Outputs(logits={LAST: logits}, embeddings={LAST: features})
            batch[name] = {"label": own}
    return outputs, batch


def teachers(batch, seed=5):
    """The batch with random teacher logits."""
    draw = np.random.default_rng(seed)
    return {
        name: {
            **part,
            "teacher": jnp.asarray(2 * draw.normal(size=(len(part["label"]), CLASSES)), np.float32),
        }
        for name, part in batch.items()
    }


def value(method, outputs, batch, devices=1, extras=None, params=None, progress=0.0, count=0):
    """The method's (loss, metrics) of whole arrays."""
    mesh = parallel.make_mesh(devices)
    shared = {"extras": extras or {}, "params": params or {}, "at": (progress, np.int32(count))}

    def program(state, shared, b):
        at = shared["at"]
        return method.loss(
            methods.Step(b[0], b[1], shared["extras"], shared["params"], *at, jax.random.key(0))
        )

    run = parallel.per_device(program, mesh)
    return jax.device_get(
        run({}, parallel.replicate(shared, mesh), parallel.shard((outputs, batch), mesh))
    )


def value_inside(method, outputs, batch, extras=None, count=0):
    """The loss on one device, for ``jax.grad``."""

    def program(batch):
        key = jax.random.key(0)
        step = methods.Step(outputs, batch, extras or {}, {}, 0.0, jnp.int32(count), key)
        return method.loss(step)[0]

    with_axis = jax.vmap(program, axis_name=parallel.AXIS)
    return with_axis(jax.tree.map(lambda a: a[None], batch))[0]


def viewed(method, batch, extras):
    """The batch as the method sees it: {stream: {"image": float32, "label"}} and what it adds."""
    step = methods.Step({}, batch, extras, {}, 0.0, 0, jax.random.key(0))
    forward = jax.tree_util.Partial(methods.forward, network())
    return method.view(step, forward)


def updates(name, devices=1, steps=2, forget=FORGET, **settings):
    """(start, end, metrics a step) of real updates of the tiny network, by the method's recipe."""
    config, method = config_of(name, **settings), method_of(name, **settings)
    mesh, given = parallel.make_mesh(devices), context(forget)
    optimizer = make_optimizer(config.unlearn.optimizer, steps)
    taken = ("backbone",) if config.unlearn.batch_norm == "train" else ()
    recipe = Recipe(
        method.loss,
        optimizer,
        ("backbone",),
        taken,
        steps=steps,
        view=method.view,
        limit=method.limit,
    )
    update = parallel.per_device(make_update(network(), recipe, MEAN, STD), mesh)
    start = {c: {"backbone": tree} for c, tree in given.original.items()}
    state = create(network(), start, optimizer, ("backbone",), method.streams)
    state = parallel.replicate(state, mesh)
    shared = {"key": rng.key(0, "test"), "extras": method.prepare(given)}
    shared = parallel.replicate(shared, mesh)
    history = []
    for step in range(steps):
        batch = {}
        for stream, count, labels in (("retain", 8, (0, 1, 2)), ("forget", 4, forget or (0, 3))):
            if stream in method.streams:
                pixels, own = images(count, labels, seed=step)
                batch[stream] = {"image": pixels, "label": own}
        state, metrics = update(state, shared, parallel.shard(batch, mesh))
        history.append(jax.device_get(metrics))
    return given.original, jax.device_get(state), history


def log_softmax(logits):
    """In float64."""
    z = np.asarray(logits, np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def cross_entropy(logits, labels):
    """Of each example, float64, by a loop."""
    rows = log_softmax(logits)
    return np.array([-row[y] for row, y in zip(rows, np.asarray(labels), strict=True)])


def logits_of(outputs, stream):
    return np.asarray(outputs[stream].logits[LAST])
