"""Which kernels read a point's activation: those, and no others, feel a change of it."""

import command
import jax
import numpy as np
import pytest
from flax import traverse_util

from ec_jax.models import resnet
from ec_jax.models.network import build


@pytest.mark.parametrize("depth", sorted(resnet.STAGE_SIZES))
def test_the_kernels_are_there_and_read_as_many_channels_as_the_point_has(depth):
    model = command.model(depth=depth, width=3)
    net = build(model, 5)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), (8, 8, 3)))["params"]["backbone"]
    shapes = traverse_util.flatten_dict(shapes)
    for point, width in zip(net.points, net.backbone.widths, strict=True):
        for path in resnet.readers(depth, point):
            assert shapes[path].shape[-2] == width


@pytest.mark.parametrize(("depth", "point"), [(8, "stage1"), (8, "stage2"), (50, "stage3")])
def test_without_them_the_rest_of_the_network_is_blind_to_the_point(depth, point):
    model = command.model(depth=depth, width=2)
    net = build(model, 5)
    width = dict(zip(net.points, net.backbone.widths, strict=True))[point]
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), (8, 8, 3)))
    # Every variable positive: no unit is dead, so whatever is read is felt.
    tree = jax.tree.map(lambda a: np.float32(draw.random(a.shape)), shapes)
    maps = np.float32(draw.random((2, 2, 4, 4, width)))
    run = jax.jit(lambda tree, x: net.after(tree, point, x))
    paths = resnet.readers(depth, point)
    kernels = traverse_util.flatten_dict(tree["params"]["backbone"])
    for blinded in ([], *([p] for p in paths), paths):
        changed = {**kernels, **{p: np.zeros_like(kernels[p]) for p in blinded}}
        params = {"backbone": traverse_util.unflatten_dict(changed)}
        one, two = (np.asarray(run({**tree, "params": params}, x)) for x in maps)
        assert np.array_equal(one, two) == (blinded == paths)
