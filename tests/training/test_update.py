"""The update step: the same numbers on any number of devices and under both maps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from ec_jax import methods, parallel, rng
from ec_jax.models.network import build
from ec_jax.training import supervised
from ec_jax.training.optimizer import make_optimizer, make_schedule
from ec_jax.training.state import create
from ec_jax.training.update import Recipe, make_update

SHAPE, CLASSES = (8, 8, 1), 4
MEAN, STD = np.float32([0.5]), np.float32([0.3])


def config(**unlearn):
    c = default.get_config().unlock()
    c.model.width = 4
    c.unlearn.update(unlearn)
    return c


def batches(count):
    draw = np.random.default_rng(0)

    def part(size, labels):
        return {
            "image": draw.integers(0, 256, (size, *SHAPE), dtype=np.uint8),
            "label": draw.choice(labels, size).astype(np.int32),
        }

    return [{"retain": part(16, [0, 1]), "forget": part(8, [2, 3])} for _ in range(count)]


def train(devices, kind="shard_map", batch_norm="inference", augment="none", steps=10, given=None):
    c = config()
    mesh = parallel.make_mesh(devices)
    network = build(c.model, CLASSES, module_kind="conv", axis_name=parallel.AXIS)
    variables = jax.jit(network.init, static_argnums=1)(jax.random.key(1), SHAPE)
    optimizer = make_optimizer(c.unlearn.optimizer, steps)
    parts = ("backbone", "modules")
    recipe = Recipe(
        methods.build(c, network.points).loss,
        optimizer,
        parts,
        parts if batch_norm == "train" else (),
        augment,
    )
    update = parallel.per_device(make_update(network, recipe, MEAN, STD), mesh, kind)
    state = parallel.replicate(
        create(network, variables, optimizer, parts, ("retain", "forget")), mesh
    )
    shared = parallel.replicate({"key": rng.key(0, "test"), "extras": {}}, mesh)
    history = []
    for batch in given or batches(steps):
        state, metrics = update(state, shared, parallel.shard(batch, mesh))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


@pytest.fixture(scope="module")
def reference():
    return {mode: train(1, batch_norm=mode, augment="crop+flip") for mode in ("inference", "train")}


@pytest.mark.parametrize("batch_norm", ["inference", "train"])
@pytest.mark.parametrize(
    ("devices", "kind"), [(2, "shard_map"), (8, "shard_map"), (1, "pmap"), (2, "pmap"), (8, "pmap")]
)
def test_devices_and_maps_agree_after_ten_steps(reference, devices, kind, batch_norm):
    state, history = train(devices, kind, batch_norm, augment="crop+flip")
    expected, expected_history = reference[batch_norm]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.params, expected.params
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        state.batch_stats,
        expected.batch_stats,
    )
    for got, want in zip(history, expected_history, strict=True):
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_ten_steps_change_the_parameters_and_lower_the_loss(reference):
    state, history = reference["inference"]
    assert int(state.step) == 10
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[0]["spread"] == 1.0


def test_forget_features_that_fall_into_one_point_count_as_a_collapse():
    """Among retain features that do not, they would hide in the variance of both together."""
    first, second = batches(2)
    for name in ("image", "label"):
        second["forget"][name][:] = second["forget"][name][:1]
    _, history = train(2, given=[first, second])
    assert history[0]["spread"] == 1
    assert history[1]["spread"] < 1e-6


def test_one_image_a_stream_has_no_variance_to_lose():
    one = {name: jax.tree.map(lambda a: a[:1], part) for name, part in batches(1)[0].items()}
    _, history = train(1, given=[one, one])
    assert [h["spread"] for h in history] == [1, 1]


@pytest.mark.slow
def test_images_are_those_of_all_devices():
    for devices in (1, 2):
        _, history = train(devices, steps=1)
        assert [h["images"] for h in history] == [16 + 8]


def test_frozen_batch_norm_leaves_the_statistics_alone(reference):
    fresh = build(config().model, CLASSES, module_kind="conv").init(jax.random.key(1), SHAPE)
    state, _ = reference["inference"]
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats, fresh["batch_stats"])


def test_training_the_modules_leaves_the_backbone_bit_for_bit():
    c, mesh = config(), parallel.make_mesh(2)
    network = build(c.model, CLASSES, module_kind="pool", axis_name=parallel.AXIS)
    # On the host: the update takes over the buffers of what it is given.
    variables = jax.device_get(network.init(jax.random.key(1), SHAPE))
    optimizer = make_optimizer(c.modules.optimizer, 3)
    recipe = Recipe(
        supervised.make_loss(network.points[:-1]), optimizer, ("modules",), ("modules",)
    )
    update = parallel.per_device(make_update(network, recipe, MEAN, STD), mesh)
    state = parallel.replicate(
        create(network, variables, optimizer, ("modules",), ("train",)), mesh
    )
    shared = parallel.replicate({"key": rng.key(0), "extras": {}}, mesh)
    for batch in batches(3):
        state, _ = update(state, shared, parallel.shard({"train": batch["retain"]}, mesh))
    after = jax.device_get(state)
    jax.tree.map(
        np.testing.assert_array_equal, after.params["backbone"], variables["params"]["backbone"]
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        after.batch_stats["backbone"],
        variables["batch_stats"]["backbone"],
    )
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), after.params["modules"], variables["params"]["modules"]
    )
    assert all(jax.tree.leaves(moved))


def test_the_state_is_donated():
    c, mesh = config(), parallel.make_mesh(1)
    network = build(c.model, CLASSES, axis_name=parallel.AXIS)
    optimizer = make_optimizer(c.original.optimizer, 3)
    recipe = Recipe(
        supervised.make_loss(network.points[-1:]), optimizer, ("backbone",), ("backbone",)
    )
    update = parallel.per_device(make_update(network, recipe, MEAN, STD), mesh)
    variables = network.init(jax.random.key(1), SHAPE)
    state = parallel.replicate(
        create(network, variables, optimizer, ("backbone",), ("train",)), mesh
    )
    kernel = state.params["backbone"]["head"]["kernel"]
    update(
        state,
        {"key": rng.key(0), "extras": {}},
        parallel.shard({"train": batches(1)[0]["retain"]}, mesh),
    )
    assert kernel.is_deleted()


def recipe_of(**changes):
    recipe = default.get_config().original.optimizer.unlock()
    recipe.update(changes)
    return recipe


def test_schedules_start_at_the_peak_end_at_zero_and_warm_up():
    for name in ("linear", "cosine"):
        schedule = make_schedule(recipe_of(schedule=name, learning_rate=0.5), 20)
        assert float(schedule(0)) == pytest.approx(0.5)
        assert float(schedule(20)) == pytest.approx(0.0, abs=1e-7)
    warm = make_schedule(recipe_of(schedule="constant", learning_rate=0.5, warmup_steps=5), 20)
    assert [float(warm(i)) for i in (0, 5, 20)] == pytest.approx([0.0, 0.5, 0.5])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_spares_vectors(name):
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2,))}
    optimizer = make_optimizer(
        recipe_of(name=name, weight_decay=0.1, schedule="constant", learning_rate=0.1), 5
    )
    updates, _ = optimizer.update(
        jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params
    )
    moved = optax.apply_updates(params, updates)
    assert bool((moved["kernel"] < 1).all())
    assert bool((moved["bias"] == 1).all())


def test_the_global_gradient_norm_is_clipped():
    params = {"kernel": jnp.zeros((2, 2))}
    recipe = recipe_of(clip=1.0, momentum=0.0, weight_decay=0.0, learning_rate=1.0)
    optimizer = make_optimizer(recipe, 5)
    updates, _ = optimizer.update(
        {"kernel": jnp.full((2, 2), 100.0)}, optimizer.init(params), params
    )
    assert float(optax.global_norm(updates)) == pytest.approx(1.0)
