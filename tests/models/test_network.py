"""ResNets, EC modules, and the network made of both."""

import command
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ec_jax.models import resnet
from ec_jax.models.modules import KINDS
from ec_jax.models.network import build

SHAPE = (8, 8, 3)


def make(depth=10, width=4, dtype="float32", kind="conv"):
    model = command.model(depth=depth, width=width, dtype=dtype)
    return build(model, 5, module_kind=kind)


def images(count=6):
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, *SHAPE)), jnp.float32)


@pytest.mark.parametrize("depth", sorted(resnet.STAGE_SIZES))
def test_every_depth_has_that_many_weighted_layers_and_sows_its_points(depth):
    net = make(depth, kind=None)
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), SHAPE))
    blocks = variables["params"]["backbone"]
    # Shortcut projections (the last conv of a block that has one too many) do not count.
    per_block = 3 if depth >= 50 else 2
    layers = 2 + per_block * sum("block" in name for name in blocks)
    assert layers == depth
    shapes, logits = jax.eval_shape(lambda v, x: net.activations(v, x), variables, images())
    assert tuple(shapes) == net.points
    assert [shapes[p].shape[-1] for p in net.points] == list(net.backbone.widths)
    assert [shapes[p].shape[1] for p in net.points] == [8, 4, 2, 1][: len(net.points)]
    assert logits.shape == (6, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_modules_embed_and_classify_every_point(kind):
    net = make(kind=kind)
    variables = net.init(jax.random.key(0), SHAPE)
    outputs, _ = net.apply(variables, images(), train_backbone=False, train_modules=False)
    assert tuple(outputs.logits) == tuple(outputs.embeddings) == net.points
    for i, point in enumerate(net.points):
        width = net.backbone.widths[i if kind == "pool" else -1]
        assert outputs.embeddings[point].shape == (6, width)
        assert outputs.logits[point].shape == (6, 5)
        assert outputs.embeddings[point].dtype == outputs.logits[point].dtype == jnp.float32


def test_the_last_point_is_the_networks_own_feature_and_head():
    net = make()
    variables = net.init(jax.random.key(0), SHAPE)
    outputs, _ = net.apply(variables, images(), train_backbone=False, train_modules=False)
    maps, logits = net.activations(variables, images())
    np.testing.assert_allclose(outputs.embeddings["stage4"], maps["stage4"].mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(outputs.logits["stage4"], logits, rtol=1e-6)
    head = variables["params"]["backbone"]["head"]
    expected = maps["stage4"].mean((1, 2)) @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trained", ["backbone", "modules"])
def test_batch_statistics_move_only_where_training_is_asked_for(trained):
    net = make()
    variables = net.init(jax.random.key(0), SHAPE)
    _, stats = net.apply(
        variables,
        images(),
        train_backbone=trained == "backbone",
        train_modules=trained == "modules",
    )
    for part, before in variables["batch_stats"].items():
        same = jax.tree.map(lambda a, b: bool((a == b).all()), before, stats[part])
        assert all(jax.tree.leaves(same)) == (part != trained)


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters():
    full, half = make(), make(dtype="bfloat16")
    variables = full.init(jax.random.key(0), SHAPE)
    assert {x.dtype for x in jax.tree.leaves(half.init(jax.random.key(0), SHAPE))} == {
        jnp.dtype("float32")
    }
    maps, logits = half.activations(variables, images())
    assert maps["stage1"].dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, full.activations(variables, images())[1], atol=0.05)
