"""Every family of backbones: its points, its parts, and what holds of all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from ml_collections import ConfigDict

from ec_jax import rules
from ec_jax.models import convnext, resnet, swin, transformer, vit
from ec_jax.models.modules import KINDS
from ec_jax.models.network import build
from ec_jax.training import optimizer

# {name: (depth, width, patch, image side, sides of the maps)}
SMALL = {
    "resnet": (10, 4, 1, 16, (16, 8, 4, 2)),
    "vit": (5, 16, 4, 16, (4, 4, 4, 4)),
    "swin": (4, 32, 1, 20, (20, 10, 5, 3)),
    "convnext": (4, 8, 2, 32, (16, 8, 4, 2)),
}
RECIPE = {"momentum": 0.0, "schedule": "constant", "warmup_steps": 0, "clip": 0}
each = pytest.mark.parametrize("name", SMALL)


def make(name, kind="conv", **changes):
    depth, width, patch, _, _ = SMALL[name]
    model = {"name": name, "depth": depth, "width": width, "patch": patch, "dtype": "float32"}
    model |= {"stem": "cifar", "padding": "same", "remat": False} | changes
    return build(ConfigDict(model), 5, module_kind=kind)


def started(name, net):
    side = SMALL[name][3]
    images = np.random.default_rng(0).normal(size=(3, side, side, 3)).astype(np.float32)
    return jax.jit(lambda: net.init(jax.random.key(0), images.shape[1:]))(), images


@each
def test_points_are_sown_in_their_order_with_their_widths_and_sides(name):
    net = make(name, kind=None)
    variables, images = started(name, net)
    maps, logits = jax.eval_shape(net.activations, variables, images)
    assert net.points == tuple(maps) == ("stage1", "stage2", "stage3", "stage4")
    assert logits.shape == (3, 5)
    assert logits.dtype == jnp.float32
    for (point, a), width, side in zip(
        maps.items(), net.backbone.widths, SMALL[name][4], strict=True
    ):
        shape = (3, 1 + side**2, width) if name == "vit" else (3, side, side, width)
        assert a.shape == shape, point


@each
def test_from_a_point_on_the_rest_is_the_same(name):
    net = make(name, kind=None)
    variables, images = started(name, net)

    @jax.jit
    def all_ways():
        maps, _ = net.activations(variables, images)
        outputs, _ = net.apply(variables, images, train_backbone=False, train_modules=False)
        pooled = {p: net.after(variables, p, activation) for p, activation in maps.items()}
        return outputs.embeddings["stage4"], pooled

    whole, found = all_ways()
    assert tuple(found) == net.points
    for pooled in found.values():
        np.testing.assert_allclose(pooled, whole, rtol=1e-5, atol=1e-6)


@each
@pytest.mark.parametrize("kind", KINDS)
def test_modules_embed_and_classify_every_point(name, kind):
    net = make(name, kind)
    images = jnp.zeros((3, *(SMALL[name][3],) * 2, 3))
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), images.shape[1:]))
    outputs, stats = jax.eval_shape(
        lambda v: net.apply(v, images, train_backbone=True, train_modules=True), variables
    )
    for i, point in enumerate(net.points):
        width = net.backbone.widths[i if kind == "pool" else -1]
        assert outputs.embeddings[point].shape == (3, width)
        assert outputs.logits[point].shape == (3, 5)
        assert outputs.features[point].shape == (3, net.backbone.widths[i])
    assert jax.tree.structure(stats) == jax.tree.structure(variables["batch_stats"])


def test_modules_do_not_read_the_class_token():
    net = make("vit", "pool")
    variables, images = started("vit", net)
    maps, _ = net.activations(variables, images)
    part = {c: tree["modules"] for c, tree in variables.items() if "modules" in tree}
    one, _ = net.modules.apply(part, maps, train=False)
    other = {p: a.at[:, 0].add(1.0) for p, a in maps.items()}
    two, _ = net.modules.apply(part, other, train=False)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, two))
    third = {p: a.at[:, 1].add(1.0) for p, a in maps.items()}
    three, _ = net.modules.apply(part, third, train=False)
    assert not jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, three))


@each
def test_rematerialised_blocks_compute_the_same_with_the_same_parameters(name):
    plain, remat = make(name, "pool"), make(name, "pool", remat=True)
    variables, images = started(name, plain)

    def loss(net, params):
        state = {**variables, "params": params}
        outputs, _ = net.apply(state, images, train_backbone=True, train_modules=True)
        return sum(jnp.square(z).sum() for z in outputs.logits.values())

    one, two = jax.jit(
        lambda p: [jax.value_and_grad(lambda p, n=net: loss(n, p))(p) for net in (plain, remat)]
    )(variables["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), one, two)
    text = str(jax.make_jaxpr(jax.grad(lambda p: loss(remat, p)))(variables["params"]))
    assert "remat" in text or "checkpoint" in text


@each
def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(name):
    full, half = make(name), make(name, dtype="bfloat16")
    variables, images = started(name, full)
    other = jax.eval_shape(lambda: half.init(jax.random.key(0), images.shape[1:]))
    assert {leaf.dtype for leaf in jax.tree.leaves(other)} == {jnp.dtype("float32")}
    maps, logits = jax.jit(half.activations)(variables, images)
    assert {a.dtype for a in maps.values()} == {jnp.dtype("bfloat16")}
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, jax.jit(full.activations)(variables, images)[1], atol=0.05)


@pytest.mark.parametrize("shape", [(7, 16), (3, 5, 8), (2, 3, 4, 32), (1, 1)])
def test_layer_norm_and_its_gradients_are_those_of_the_definition(shape):
    draw = np.random.default_rng(0)
    x, weights = draw.normal(2.0, 1.5, shape), draw.normal(size=shape)
    scale, bias = draw.normal(1.0, 0.3, shape[-1:]), draw.normal(size=shape[-1:])
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, scale, bias)]
    there = torch.nn.functional.layer_norm(tensors[0], shape[-1:], *tensors[1:], eps=1e-5)
    wanted = torch.autograd.grad((there * torch.tensor(weights)).sum(), tensors)

    def here(*arrays):
        y = transformer.layer_norm(*arrays, 1e-5)
        return (y * weights.astype(np.float32)).sum(), y

    arrays = [a.astype(np.float32) for a in (x, scale, bias)]
    (_, y), found = jax.value_and_grad(here, argnums=(0, 1, 2), has_aux=True)(*arrays)
    np.testing.assert_allclose(y, there.detach(), atol=1e-5)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@each
def test_only_kernels_are_decayed(name):
    net = make(name, kind="pool")
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), (SMALL[name][3],) * 2 + (3,)))
    params = variables["params"]
    made = optimizer.make_optimizer(
        ConfigDict(dict(RECIPE, name="sgd", learning_rate=1.0, weight_decay=0.1)), 1
    )
    ones = jax.tree.map(lambda p: jnp.ones(p.shape), params)
    updates, _ = made.update(jax.tree.map(jnp.zeros_like, ones), made.init(ones), ones)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        decayed = bool((update != 0).all())
        assert decayed == (path[-1].key == "kernel"), jax.tree_util.keystr(path)
    added = [p[-1].key for p, _ in jax.tree_util.tree_leaves_with_path(params["backbone"])]
    assert {"swin": "bias", "vit": "positions"}.get(name, "scale") in added


def test_a_config_knows_the_heads_width():
    assert rules.HEADS == {"swin": swin.HEAD_WIDTH, "vit": vit.HEAD_WIDTH}


def test_a_config_knows_the_depths_that_there_are():
    stages = {
        "resnet": {d: len(s) for d, (s, _) in resnet.STAGE_SIZES.items()},
        "vit": {},
        "swin": {d: len(s) for d, s in swin.STAGE_SIZES.items()},
        "convnext": {d: len(s) for d, s in convnext.STAGE_SIZES.items()},
    }
    assert stages == rules.DEPTHS
    assert all(sum(s) == d for sizes in (swin, convnext) for d, s in sizes.STAGE_SIZES.items())


def test_attention_does_not_reach_across_the_edge_of_a_shifted_map():
    """The first row of a map does not change with the last, which a cyclic shift puts beside it."""
    block = swin.WindowAttention(1, swin.WINDOW // 2, jnp.float32)
    x = np.random.default_rng(0).normal(size=(1, 14, 14, 4)).astype(np.float32)
    variables = block.init(jax.random.key(0), x)
    changed = x.copy()
    changed[:, -1] += 1.0
    one, two = block.apply(variables, x), block.apply(variables, changed)
    np.testing.assert_allclose(one[:, 0], two[:, 0], rtol=1e-6, atol=1e-6)
    assert not np.allclose(one[:, -2], two[:, -2])


@pytest.mark.parametrize(("side", "pooled"), [(32, 8), (33, 9)])
def test_the_imagenet_stem_quarters_the_image(side, pooled):
    net = make("resnet", kind=None, stem="imagenet", padding="symmetric")
    maps, _ = jax.eval_shape(
        lambda x: net.activations(net.init(jax.random.key(0), (side, side, 3)), x),
        jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
    )
    assert maps["stage1"].shape[1] == pooled


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_kernels_gradient_is_a_sum_over_all_axes_however_it_is_made(dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (2, 3, 4, 5), (5, 6), (2, 3, 4, 6)
    x, kernel, gradient = (
        jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)
    )
    made, back = jax.vjp(transformer.product, x, kernel)
    want, wanted = jax.vjp(lambda x, kernel: x @ kernel, x, kernel)
    found = jax.tree.map(lambda a: a.astype(jnp.float32), (made, *back(gradient)))
    expected = jax.tree.map(lambda a: a.astype(jnp.float32), (want, *wanted(gradient)))
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype == jnp.float32 else {"rtol": 2e-2, "atol": 2e-2}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **near), found, expected)
    assert [a.dtype for a in (made, *back(gradient))] == [dtype] * 3
    sides = [f(x, gradient) for f in (transformer._over_axes, transformer._over_one_axis)]
    np.testing.assert_allclose(*(np.asarray(a, np.float32) for a in sides), **near)
