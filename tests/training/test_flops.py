"""Floating point operations: XLA's count against loops, on any number of devices, compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from ec_jax import parallel
from ec_jax.models.network import build
from ec_jax.training import supervised
from ec_jax.training.optimizer import make_optimizer
from ec_jax.training.state import create
from ec_jax.training.update import Recipe, make_update

KINDS = ("shard_map", "pmap")


def product(weights, shared, batch):
    return weights, batch @ weights


def by_loop(rows, inner, columns):
    """A multiplication and an addition for each term of each entry of a product."""
    return sum(2 for _ in range(rows) for _ in range(columns) for _ in range(inner))


@pytest.mark.parametrize(("rows", "inner", "columns"), [(1, 1, 1), (8, 5, 3), (16, 7, 2)])
def test_a_product_counts_its_terms(rows, inner, columns):
    given = jnp.ones((inner, columns)), {}, jnp.ones((rows, inner))
    assert parallel.flops(jax.jit(product), *given) == by_loop(rows, inner, columns)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), given)
    assert parallel.flops(jax.jit(product), *shapes) == by_loop(rows, inner, columns)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_counts_the_pixels_that_there_are(stride):
    size, inside, outside = 5, 3, 4

    def convolve(image, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        strides = (stride, stride)
        return jax.lax.conv_general_dilated(
            image, kernel, strides, ((1, 1), (1, 1)), dimension_numbers=layout
        )

    taps = 0
    for y in range(0, size, stride):
        for x in range(0, size, stride):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    taps += 0 <= y + dy < size and 0 <= x + dx < size
    given = jnp.ones((2, size, size, inside)), jnp.ones((3, 3, inside, outside))
    assert parallel.flops(jax.jit(convolve), *given) == 2 * taps * 2 * inside * outside


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_it_is_the_sum_over_the_devices(devices, kind):
    mesh = parallel.make_mesh(devices)

    def program(state, shared, batch):
        return state, jax.lax.pmean(jnp.sum(batch @ state), parallel.AXIS)

    run = parallel.per_device(program, mesh, kind)
    given = jnp.ones((5, 3)), {}, parallel.shard(np.ones((16, 5), np.float32), mesh)
    found = run.flops(*given)
    # Beside the product, which is cut over the devices, each of them adds up its share.
    assert by_loop(16, 5, 3) < found <= by_loop(16, 5, 3) + 16 * 3 + 2 * devices
    run(*given)  # nothing was donated


def forward_and_step(devices=1, kind="shard_map"):
    """Operations of one update, and of the forward pass of its batch."""
    c = default.get_config().unlock()
    c.model.depth, c.model.width = 8, 4
    mesh, shape, size = parallel.make_mesh(devices), (8, 8, 1), 16
    network = build(c.model, 4, module_kind=None, axis_name=parallel.AXIS)
    variables = jax.jit(network.init, static_argnums=1)(jax.random.key(1), shape)
    optimizer = make_optimizer(c.original.optimizer, 10)
    parts = ("backbone",)
    recipe = Recipe(supervised.make_loss(network.points[-1:]), optimizer, parts, parts)
    moments = np.float32([0.5]), np.float32([0.3])
    update = parallel.per_device(make_update(network, recipe, *moments), mesh, kind)
    state = create(network, variables, optimizer, parts, (supervised.STREAM,))
    images = {"image": np.zeros((size, *shape), np.uint8), "label": np.zeros(size, np.int32)}
    batch = parallel.shard({supervised.STREAM: images}, mesh)
    shared = parallel.replicate({"key": jax.random.key(0), "extras": {}}, mesh)
    step = update.flops(parallel.replicate(state, mesh), shared, batch)
    forward = jax.jit(lambda v, images: network.activations(v, images)[1])
    return parallel.flops(forward, variables, jnp.zeros((size, *shape))), step


def test_an_update_is_about_three_forward_passes():
    forward, step = forward_and_step()
    assert 2.5 * forward < step < 4 * forward


@pytest.mark.parametrize("kind", KINDS)
def test_on_several_devices_only_what_each_does_for_itself_is_added(kind):
    _, alone = forward_and_step()
    _, on_four = forward_and_step(4, kind)
    assert alone < on_four < 1.5 * alone  # the optimizer's work, of so small a batch


# What a backend says.


class Stage:
    """Of a program that says ``lowered`` before and ``compiled`` after it was compiled."""

    def __init__(self, *answers):
        self.answers = answers

    def lower(self, *arguments):
        return self

    def compile(self):
        return Stage(*self.answers[1:])

    def cost_analysis(self):
        if isinstance(self.answers[0], Exception):
            raise self.answers[0]
        return self.answers[0]


UNKNOWN = jax.errors.JaxRuntimeError("INTERNAL: no")


@pytest.mark.parametrize(
    ("answers", "count"),
    [
        (({"flops": 7.0}, {"flops": 9.0}), 7),
        ((None, {"flops": 9.0}), 9),
        ((UNKNOWN, {"flops": 9.0}), 9),
        ((None, None), None),
        ((None, UNKNOWN), None),
        ((None, {"bytes accessed": 3.0}), None),
        (({"flops": -1.0}, None), None),
        (({"flops": 0.0}, None), 0),
    ],
)
def test_a_backend_that_does_not_say_has_no_count(answers, count):
    assert parallel.flops(Stage(*answers)) == count
    run = parallel.PerDevice(Stage(*answers), devices=3)
    assert run.flops({}, {}, {}) == (None if count is None else 3 * count)


@pytest.fixture
def compilations():
    seen = []

    def listen(event, seconds, **_):
        seen.extend([event] if event.endswith("backend_compile_duration") else [])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("silent", [False, True])  # about what is not compiled, as on a GPU
def test_a_program_is_compiled_once(compilations, monkeypatch, kind, silent):
    if silent:
        analysis = parallel._analysis

        def compiled_alone(stage):
            return analysis(stage) if isinstance(stage, jax.stages.Compiled) else {}

        monkeypatch.setattr(parallel, "_analysis", compiled_alone)
    mesh = parallel.make_mesh(2)
    run = parallel.per_device(lambda *given: product(*given), mesh, kind)
    state = parallel.replicate(np.ones((5, 3), np.float32), mesh)
    batch = run._cut(parallel.shard(np.ones((8, 5), np.float32), mesh))
    compilations.clear()
    found = parallel.flops(run.program, state, {}, batch)
    # XLA takes one away for each array that enters or leaves a device's program.
    assert by_loop(4, 5, 3) - 4 <= found <= by_loop(4, 5, 3)
    assert len(compilations) == silent
    jax.block_until_ready(run.program(state, {}, batch))
    assert len(compilations) == 1
