"""A tiny network and what a method is given of it: losses and real updates in seconds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from command import changed

from configs import default
from ec_jax import config as config_lib
from ec_jax import methods, parallel, recipes, rng
from ec_jax.models.network import Outputs, build
from ec_jax.training import prepare
from ec_jax.training.optimizer import make_optimizer
from ec_jax.training.plan import plan
from ec_jax.training.state import create
from ec_jax.training.update import Recipe, make_update

SHAPE, CLASSES, FORGET = (8, 8, 1), 5, (3, 4)
POINTS = ("stage1", "stage2", "stage3")  # of a network of depth 8
LAST = POINTS[-1]
MEAN, STD = np.float32([0.5]), np.float32([0.3])
COUNTS = {"retain": 8, "forget": 4}  # images in a batch


# What a method is built of and prepared with.


def config(name, **settings):
    """A complete and valid config of a method.

    ``settings`` are fields of its own group, or of another: ``ec__plugin=True``.
    """
    base = changed(default.get_config(), method=name, model__depth=8, model__width=4)
    own = {f if "__" in f else f"{name}__{f}": value for f, value in settings.items()}
    made = changed(recipes.complete(base), **own)
    config_lib.validate(made)
    return made


def method(name, **settings):
    return methods.build(config(name, **settings), POINTS)


@functools.cache
def network(modules=None):
    """With EC modules of this kind, or without."""
    made = config("finetune").model
    return build(made, CLASSES, module_kind=modules, axis_name=parallel.AXIS)


_init = jax.jit(lambda network, key: network.init(key, SHAPE), static_argnums=0)


@functools.cache
def backbone(seed=1):
    """{"params", "batch_stats"} on the host, of a BatchNorm that has seen something."""
    variables = jax.device_get(_init(network(), jax.random.key(seed)))
    draw = np.random.default_rng(seed)
    seen = jax.tree.map(
        lambda a: a + draw.uniform(0, 0.3, a.shape).astype(np.float32), variables["batch_stats"]
    )
    return {"params": variables["params"]["backbone"], "batch_stats": seen["backbone"]}


def images(count, labels, seed=0):
    """{"image": uint8, "label": int32}, drawn."""
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    return {"image": pixels, "label": draw.choice(list(labels), count).astype(np.int32)}


def normalized(part):
    """The same images as the network sees them."""
    return {**part, "image": ((part["image"] / 255 - MEAN) / STD).astype(np.float32)}


def classes_of(forget, earlier=()):
    """{stream: its classes}; where none is forgotten, samples of all of them are."""
    kept = [c for c in range(CLASSES) if c not in (*forget, *earlier)]
    return {"retain": kept, "forget": list(forget) or kept}


def context(forget=FORGET, retain_count=20, forget_count=10, earlier=()):
    """What ``prepare`` is given; ``earlier`` are classes of an earlier request."""
    counts = {"retain": retain_count, "forget": forget_count}
    sets = {
        f"{name}_train": normalized(images(counts[name], classes, seed))
        for seed, (name, classes) in enumerate(classes_of(forget, earlier).items())
    }

    def batches(split, size):
        pictures, labels = sets[split]["image"], sets[split]["label"]
        for start in range(0, len(labels), size):
            part = slice(start, start + size)
            yield jnp.asarray(pictures[part]), labels[part]

    models = {"original": backbone()}
    return methods.Context(models, tuple(forget), network(), batches, jax.random.key(7), earlier)


def two_models(forget=FORGET, **counts):
    """A context with a proxy."""
    found = context(forget, **counts)
    return dataclasses.replace(found, models={**found.models, "proxy": backbone(7)})


def whole(given, stream):
    """All of a context's images of a stream, as one part of a batch."""
    pictures, labels = next(given.batches(f"{stream}_train", 10**6))
    return {"image": np.asarray(pictures), "label": labels}


# What a method makes of it.


def outputs_and_batch(streams=("retain", "forget"), scale=2.0, points=(LAST,), width=3):
    """Random outputs and their labels."""
    draw = np.random.default_rng(0)
    outputs, batch = {}, {}
    for name, classes in classes_of(FORGET).items():
        count = COUNTS[name]
        logits = {p: jnp.float32(scale * draw.normal(size=(count, CLASSES))) for p in points}
        features = {p: jnp.float32(draw.normal(size=(count, width))) for p in points}
        labels = jnp.asarray(draw.choice(classes, count), jnp.int32)
        if name in streams:
            outputs[name] = Outputs(logits=logits, embeddings=features)
            batch[name] = {"label": labels}
    return outputs, batch


def teachers(batch):
    """The batch with random teacher logits."""
    draw = np.random.default_rng(5)
    return {
        name: {**part, "teacher": jnp.float32(2 * draw.normal(size=(len(part["label"]), CLASSES)))}
        for name, part in batch.items()
    }


def value(made, outputs, batch, devices=1, *, extras=None, params=None, progress=0.0, count=0):
    """The method's (loss, metrics) of whole arrays, by a program for each device."""
    mesh = parallel.make_mesh(devices)

    def program(state, shared, b):
        return made.loss(methods.Step(*b, *shared, jax.random.key(0)))

    shared = (extras or {}, params or {}, np.float32(progress), np.int32(count))
    run = parallel.per_device(program, mesh)
    given = parallel.shard((outputs, batch), mesh)
    return jax.device_get(run({}, parallel.replicate(shared, mesh), given))


def value_inside(made, outputs, batch, extras=None, count=0):
    """The loss on one device, for ``jax.grad``."""

    def program(batch):
        key = jax.random.key(0)
        step = methods.Step(outputs, batch, extras or {}, {}, 0.0, jnp.int32(count), key)
        return made.loss(step)[0]

    with_axis = jax.vmap(program, axis_name=parallel.AXIS)
    return with_axis(jax.tree.map(lambda a: a[None], batch))[0]


def viewed(made, batch, extras, devices=1, count=0):
    """The batch after ``Method.view``, the parts of all devices together."""
    mesh = parallel.make_mesh(devices)
    forward = functools.partial(methods.forward, network())

    def program(state, shared, given):
        before = jax.tree.structure(given)
        step = methods.Step({}, given, shared, {}, 0.0, np.int32(count), jax.random.key(0))
        found = made.view(step, forward)
        assert jax.tree.structure(given) == before  # what was given is as it was
        return {}, jax.tree.map(lambda a: jax.lax.all_gather(a, parallel.AXIS, tiled=True), found)

    given = parallel.replicate(extras, mesh), parallel.shard(batch, mesh)
    return jax.device_get(parallel.per_device(program, mesh)({}, *given))[1]


def updates(name, given=None, devices=1, steps=2, **settings):
    """(state, metrics a step) of real updates from ``backbone()``, by the method's recipe."""
    c, made, mesh = config(name, **settings), method(name, **settings), parallel.make_mesh(devices)
    given = given or context()
    classes = classes_of(given.forget_classes)
    splits = {f"{stream}_train": np.arange(8) for stream in classes}
    training = dataclasses.replace(plan("unlearn", c, splits, POINTS, made), steps=steps)
    net = network("conv" if training.modules else None)
    start = jax.device_get(_init(net, jax.random.key(1)))
    for collection, tree in given.original.items():
        start[collection]["backbone"] = jax.tree.map(np.copy, tree)  # updates take it over
    training, start = prepare.with_parameters(training, start, given)
    optimizer = make_optimizer(c.unlearn.optimizer, steps, head_only=training.head_only)
    recipe = Recipe(
        made.loss,
        optimizer,
        training.trained,
        training.batch_norm_train,
        steps=steps,
        view=made.view,
        limit=made.limit,
    )
    update = parallel.per_device(make_update(net, recipe, MEAN, STD), mesh)
    state = create(net, start, optimizer, training.trained, made.streams)
    state = parallel.replicate(state, mesh)
    shared = {"key": rng.key(0, "test"), "extras": made.prepare(given)}
    shared = parallel.replicate(shared, mesh)
    history = []
    for step in range(steps):
        batch = {s: images(COUNTS[s], classes[s], 10 + step) for s in made.reads(step, steps)}
        state, metrics = update(state, shared, parallel.shard(batch, mesh))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


def check_finite(history):
    for metrics in history:
        assert all(np.isfinite(v) for v in metrics.values()), metrics


# What it should have made of it.


@jax.jit
def _forward(tree, pictures):
    return methods.forward(network(), tree, pictures)


def pooled(tree, pictures):
    """Pooled features and logits of normalised images, float64."""
    out = _forward(tree, jnp.asarray(pictures))
    return tuple(np.asarray(a[LAST], np.float64) for a in (out.embeddings, out.logits))


def log_likelihood(tree, pictures, labels):
    """Of each image's label, for ``jax.grad``."""
    logits = methods.forward(network(), tree, pictures).logits[LAST]
    return jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]


def logits_of(outputs, stream, point=LAST):
    return np.asarray(outputs[stream].logits[point], np.float64)


def features_of(outputs, stream, point=LAST):
    return np.asarray(outputs[stream].embeddings[point], np.float64)


def log_softmax(logits):
    """In float64."""
    z = np.asarray(logits, np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def cross_entropy(logits, labels):
    """Of each example, float64, by a loop."""
    rows = log_softmax(logits)
    return np.array([-row[y] for row, y in zip(rows, np.asarray(labels), strict=True)])


def cross_entropies(outputs, batch, point=LAST):
    """{stream: of each example}."""
    return {n: cross_entropy(logits_of(outputs, n, point), batch[n]["label"]) for n in batch}


def kl(teacher, student, out=None, temperature=1.0):
    """T² · KL of each example, float64, by a loop; its teacher leaves the classes ``out`` out."""
    teacher, student = (np.asarray(a, np.float64) / temperature for a in (teacher, student))
    values = []
    for t, s, left in zip(teacher, student, out or [()] * len(teacher), strict=True):
        inside = [c for c in range(len(t)) if c not in left]
        log_p, log_q = log_softmax(t[inside]), log_softmax(s)[inside]
        values.append(sum(np.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True)))
    return temperature**2 * np.array(values)


def contrastive(features, labels, anchors, candidates, temperature, same):
    """Mean over the anchors with positives, float64; these are of the ``same`` class or not."""
    z = np.asarray(features, np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    values = []
    for i in anchors:
        rest = [a for a in candidates if a != i]
        total = sum(np.exp(z[i] @ z[a] / temperature) for a in rest)
        own = [a for a in rest if (labels[a] == labels[i]) == same]
        if own:
            values.append(
                -np.mean([np.log(np.exp(z[i] @ z[p] / temperature) / total) for p in own])
            )
    return np.mean(values)
