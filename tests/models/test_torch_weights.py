"""Weights of PyTorch's models: the same numbers come out, and the same weights come back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_models
from ml_collections import ConfigDict

from ec_jax.convert import MODELS
from ec_jax.models import torch_weights
from ec_jax.models.network import build
from ec_jax.models.torch_layouts import Architecture

RESNET = tuple(f"layer{i}" for i in range(1, 5))
FEATURES = tuple(f"features.{i}" for i in (1, 3, 5, 7))
MAPS_FIRST = ("resnet", "convnext")  # whose maps PyTorch has with channels first


def tv(name):
    return lambda: getattr(torch_models.torchvision(), name)()


def timm(name):
    return lambda: torch_models.timm().create_model(name)


# {case: (our name, how it is made, its stages)}
CASES = {
    **{f"torchvision {n}": (n, tv(n), RESNET) for n in MODELS if n.startswith("resnet")},
    "timm resnet50": ("resnet50", timm("resnet50"), RESNET),
    "torchvision swin_t": ("swin_t", tv("swin_t"), FEATURES),
    "timm swin_t": (
        "swin_t",
        timm("swin_tiny_patch4_window7_224"),
        tuple(f"layers.{i}" for i in range(4)),
    ),
    "torchvision vit_b_16": (
        "vit_b_16",
        tv("vit_b_16"),
        tuple(f"encoder.layers.encoder_layer_{i}" for i in (2, 5, 8, 11)),
    ),
    **{
        f"timm vit_{short}_16": (
            f"vit_{short}_16",
            timm(f"vit_{size}_patch16_224"),
            tuple(f"blocks.{i}" for i in (2, 5, 8, 11)),
        )
        for short, size in (("ti", "tiny"), ("s", "small"), ("b", "base"))
    },
    "torchvision convnext_t": ("convnext_t", tv("convnext_tiny"), FEATURES),
    "timm convnext_t": (
        "convnext_t",
        timm("convnext_tiny"),
        tuple(f"stages.{i}" for i in range(4)),
    ),
}
IMAGES = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)


def network(architecture):
    a = architecture
    model = {"name": a.name, "depth": a.depth, "width": a.width, "dtype": "float32"}
    model |= {"stem": a.stem, "padding": "symmetric", "patch": a.patch, "remat": False}
    return build(ConfigDict(model), a.num_classes)


def far(found, wanted):
    """The largest difference, as a share of the largest value."""
    return np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max()


def compared(model, images, stages):
    """Sees that every stage and the logits are PyTorch's, and gives what was recognised."""
    state = torch_models.arrays(model)
    architecture = torch_weights.recognise({k: v.shape for k, v in state.items()})
    variables = torch_weights.to_variables(state, architecture)
    net = network(architecture)
    tree = {c: {"backbone": part} for c, part in variables.items()}
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), images.shape[1:]))
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, tree)
    maps, logits = jax.jit(net.activations)(tree, images)
    theirs, wanted = torch_models.run(model, images, stages)
    for stage, point in zip(stages, net.points, strict=True):
        activation = theirs[stage]
        if architecture.name in MAPS_FIRST:
            activation = np.moveaxis(activation, 1, -1)
        assert far(maps[point], activation) < 1e-4, point
    assert far(logits, wanted) < 1e-4
    return architecture, variables, state


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_stage_and_the_logits_are_pytorchs(case):
    name, make, stages = CASES[case]
    model = torch_models.randomized(make())
    architecture, variables, state = compared(model, IMAGES, stages)
    known = {"name": architecture.name, "depth": architecture.depth}
    known |= {"width": architecture.width, "patch": architecture.patch}
    assert MODELS[name].items() <= known.items()
    back = torch_weights.to_state(variables, architecture)
    make().load_state_dict({k: torch.from_numpy(v) for k, v in back.items()}, strict=True)
    for key, value in state.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(back[key], value)
    again = torch_weights.to_variables(back, architecture)
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, again))


def test_a_cifar_resnet_is_read_by_its_other_names_too():
    model = torch_models.randomized(torch_models.cifar_resnet())
    images = IMAGES[:, :32, :32]
    architecture, variables, state = compared(model, images, RESNET)
    assert architecture == Architecture("resnet", 18, 64, 10, "torchvision", stem="cifar")
    renamed = {
        k.replace(".downsample.", ".shortcut.").replace("fc.", "linear."): v
        for k, v in state.items()
    }
    assert renamed.keys() != state.keys()
    assert torch_weights.recognise({k: v.shape for k, v in renamed.items()}) == architecture
    again = torch_weights.to_variables(renamed, architecture)
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, again))


def layouts():
    for name, families in torch_weights.LAYOUTS.items():
        for layout in families:
            yield pytest.param(name, layout, id=f"{name}-{layout}")


SMALL = {"resnet": (18, 4, 0), "vit": (4, 8, 4), "swin": (4, 8, 4), "convnext": (4, 8, 4)}


@pytest.mark.parametrize(("name", "layout"), layouts())
def test_every_layout_comes_back_bit_by_bit(name, layout):
    depth, width, patch = SMALL[name]
    made = Architecture(name, depth, width, 5, layout, stem="imagenet", patch=patch)
    shapes = jax.eval_shape(lambda: network(made).init(jax.random.key(0), (32, 32, 3)))
    draw = np.random.default_rng(0)
    variables = {
        c: jax.tree.map(lambda s: draw.normal(size=s.shape).astype(np.float32), tree["backbone"])
        for c, tree in shapes.items()
    }
    state = torch_weights.to_state(variables, made)
    found = torch_weights.recognise({k: v.shape for k, v in state.items()})
    # timm's and torchvision's names of a ResNet are the same.
    assert (found.name, found.depth, found.width, found.num_classes) == (name, depth, width, 5)
    assert found.layout == ("torchvision" if name == "resnet" else layout)
    assert torch_weights.of_variables(variables, layout) == made
    again = torch_weights.to_variables(state, found)
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, again))


def zeros(made):
    """A network's variables."""
    shapes = jax.eval_shape(lambda: network(made).init(jax.random.key(0), (32, 32, 3)))
    return {c: jax.tree.map(lambda s: np.zeros(s.shape), t["backbone"]) for c, t in shapes.items()}


def test_what_is_missing_and_what_is_left_over_is_named():
    made = Architecture("convnext", 4, 8, 5, "timm", patch=4)
    variables = zeros(made)
    state = torch_weights.to_state(variables, made)
    del state["head.norm.bias"]
    state |= {"aux.weight": np.zeros(3), "aux.num_batches_tracked": np.zeros(())}
    with pytest.raises(torch_weights.UnknownWeightsError) as caught:
        torch_weights.to_variables(state, made)
    assert str(caught.value) == "missing: head.norm.bias; unknown: aux.weight"
    with pytest.raises(torch_weights.UnknownWeightsError, match="none of resnet, vit, swin"):
        torch_weights.recognise({"encoder.weight": (3, 3)})
    with pytest.raises(torch_weights.UnknownWeightsError, match=r"a resnet, but lacks conv1\."):
        torch_weights.recognise({"layer1.0.conv1.weight": (3, 3, 3, 3), "layer1.0.bn1.bias": (3,)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layout", "module", "theirs"),
    [
        ("swin", "microsoft", "swin_transformer", "swin_tiny_patch4_window7_224"),
        ("convnext", "facebook", "convnext", "convnext_tiny"),
    ],
)
def test_the_authors_names_are_those_that_timm_reads(name, layout, module, theirs):
    model = torch_models.randomized(torch_models.timm().create_model(theirs))
    state = torch_models.arrays(model)
    found = torch_weights.recognise({k: v.shape for k, v in state.items()})
    variables = torch_weights.to_variables(state, found)
    made = torch_weights.of_variables(variables, layout)
    named = {k: torch.from_numpy(v) for k, v in torch_weights.to_state(variables, made).items()}
    assert torch_weights.recognise({k: v.shape for k, v in named.items()}) == made
    filtered = getattr(torch_models.timm().models, module).checkpoint_filter_fn(named, model)
    fresh = torch_models.timm().create_model(theirs)
    fresh.load_state_dict(filtered, strict=True)
    for key, value in torch_models.arrays(fresh).items():
        np.testing.assert_array_equal(value, state[key])


@pytest.mark.slow
def test_the_vit_of_the_earlier_benchmark_is_read():
    """arXiv 2503.06991's: a linear layer cuts patches, and its LayerNorm adds ten times ours.

    What that adds is a difference in the fourth digit, more than rounding is.
    """
    norm = functools.partial(torch.nn.LayerNorm, eps=1e-5)
    make = torch_models.timm().create_model
    model = torch_models.randomized(make("vit_tiny_patch16_224", norm_layer=norm))
    state = torch_models.arrays(model)
    conv = state.pop("patch_embed.proj.weight")
    state["patch_embed.1.weight"] = conv.transpose(0, 2, 3, 1).reshape(len(conv), -1)
    state["patch_embed.1.bias"] = state.pop("patch_embed.proj.bias")
    found = torch_weights.recognise({k: v.shape for k, v in state.items()})
    assert found == Architecture("vit", 12, 192, 1000, "uuef", patch=16)
    tree = {c: {"backbone": part} for c, part in torch_weights.to_variables(state, found).items()}
    logits = jax.jit(network(found).activations)(tree, IMAGES)[1]
    assert far(logits, torch_models.run(model, IMAGES, ())[1]) < 1e-3


def test_heads_of_another_width_are_refused():
    shapes = {"cls_token": (1, 1, 1280), "pos_embed": (1, 257, 1280)}
    shapes |= {"patch_embed.proj.weight": (1280, 3, 14, 14), "head.weight": (5, 1280)}
    with pytest.raises(torch_weights.UnknownWeightsError, match="heads that are not 64 wide"):
        torch_weights.recognise(shapes)


def test_convnexts_head_has_two_names():
    made = Architecture("convnext", 4, 8, 5, "facebook", patch=4)
    variables = zeros(made)
    state = torch_weights.to_state(variables, made)
    named = {k.replace("head.", "classifier."): v for k, v in state.items()}
    assert named.keys() != state.keys()
    assert torch_weights.recognise({k: v.shape for k, v in named.items()}) == made
    torch_weights.to_variables(named, made)


def test_what_is_no_network_of_ours_is_not_exported():
    dense = {"kernel": np.zeros((3, 4))}
    for params in ({"out": dense}, {"stem": dense, "head": dense}, {"stem": dense}):
        with pytest.raises(torch_weights.UnknownWeightsError):
            torch_weights.of_variables({"params": params}, "timm")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["torchvision swin_t", "torchvision convnext_t"])
def test_sizes_that_leave_a_remainder_are_pytorchs_too(case):
    """60, 30, 15 and 8 tokens a side: no window of 7 divides them, and a merge has an odd map."""
    _, make, stages = CASES[case]
    side = 240 if "swin" in case else 232
    images = np.random.default_rng(1).normal(size=(1, side, side, 3)).astype(np.float32)
    compared(torch_models.randomized(make()), images, stages)
