"""A training step's text: each product once and in its type, and nothing that a step does not need.

Of the traced step everywhere, and of what the compiler for TPUs makes of it where that is there.
"""

import collections
import functools
import importlib.util
import json
import re
import tempfile
from pathlib import Path

import jax
import pytest
from command import changed, command

from configs import digits
from ec_jax import parallel, pipeline
from ec_jax.models.network import named_arrays
from ec_jax.preflight import hlo, programs
from ec_jax.recipes import complete

CHIPS = 4
_MISSING = importlib.util.find_spec("libtpu") is None


def on_a_tpu(test):
    """A test that compiles for TPUs, which takes long."""
    skip = pytest.mark.skipif(_MISSING, reason="libtpu is for Linux on x86 alone")
    return pytest.mark.slow(skip(test))


VIT = {"name": "vit", "depth": 4, "width": 64, "patch": 2}
SWIN = {"name": "swin", "depth": 4, "width": 32, "patch": 1}
CONVNEXT = {"name": "convnext", "depth": 4, "width": 8, "patch": 1}
BLOCKS = {"resnet": 0, "vit": 4, "swin": 4, "convnext": 0}  # with attention
# {name: (stages, the model's fields, others)}, all of the digits' config, or of CIFAR-10's
CASES = {
    "resnet": ("original,modules,unlearn", {"dtype": "bfloat16"}, {}),
    "vit": ("unlearn", {**VIT, "dtype": "bfloat16"}, {}),
    "wide": (
        "unlearn",
        {"depth": 8, "dtype": "bfloat16"},
        {"data.retain_batch_size": 512, "data.forget_batch_size": 512},
    ),
}


def config(stages="unlearn", **model):
    fields = {f"model__{name}": value for name, value in model.items()}
    made = changed(
        digits.get_config(),
        stages=stages,
        parallel__devices=CHIPS,
        parallel__at_once=8,
        data__normalize="0.5;0.5",
        **fields,
    )
    return complete(made, ["method"])


@functools.cache
def compiled(name):
    """What preflight says of a case's last program, its first line, and the operations of each."""
    stages, model, others = CASES[name]
    given = {"stages": stages, **{f"model.{k}": v for k, v in model.items()}, **others}
    flags = [f"--config.{field}={value}" for field, value in given.items()]
    file = "cifar10" if name == "wide" else "digits"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        done = command(
            f"--config=configs/{file}.py",
            f"--topology=v5e:2x{CHIPS // 2}",
            f"--text={folder / 'text'}",
            f"--json={folder / 'found.json'}",
            *flags,
            module="ec_jax.preflight",
            timeout=900,
            XLA_FLAGS="",
        )
        assert (done.returncode, done.stderr) == (0, "")
        texts = {p.stem: p.read_text() for p in (folder / "text").iterdir()}
        assert sorted(texts) == sorted(stages.split(","))
        found = json.loads((folder / "found.json").read_text())["programs"][-1]
    operations = {stage: hlo.operations(text) for stage, text in texts.items()}
    return found, texts["unlearn"].partition("\n")[0], operations


def products(operations):
    """Those of matrices: products with vectors are sums, such as a LayerNorm's."""
    found = [o for o in operations.values() if o.kind in hlo.PRODUCTS]
    shapes = [[o.shape, *(operations[x].shape for x in o.operands)] for o in found]
    return [o for o, sides in zip(found, shapes, strict=True) if min(map(len, sides)) > 1]


def kernels(made):
    """How many kernels the backbone has, and how many the modules."""
    scenario, _ = pipeline.checked(made)
    network = scenario.network()
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), scenario.image_shape))
    names = [name for name in named_arrays(variables["params"]) if name.endswith("kernel")]
    own = sum(name.startswith("modules") for name in names)
    return len(names) - own, own, len(network.points)


def needed(made):
    """Products that EC's step cannot do without.

    Of every kernel one forwards and one for its own gradient, and for its input's but where that
    is the images; of attention's two products two gradients each; at every point the contrast's
    product, and its gradients for anchors and candidates.
    """
    backbone, modules, points = kernels(made)
    return 3 * (backbone + modules) - 1 + 6 * BLOCKS[made.model.name] + 3 * points


@functools.cache
def traced(**model):
    """The program of EC's step, and its text as it is traced for TPUs."""
    made = config(**model)
    (found,) = programs.programs(made, parallel.make_mesh(CHIPS))
    traced = found.function.trace(*found.arguments).lower(lowering_platforms=("tpu",))
    return found, traced.as_text(dialect="hlo")


# As it is traced.


@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        *(({}, "float32"), ({}, "bfloat16"), (VIT, "bfloat16")),
        *(pytest.param(model, "bfloat16", marks=pytest.mark.slow) for model in (SWIN, CONVNEXT)),
    ],
)
def test_no_product_is_asked_for_twice_and_each_in_its_type(model, dtype):
    made = config(dtype=dtype, **model)
    operations = hlo.operations(traced(dtype=dtype, **model)[1])
    found = products(operations)
    assert len(found) == needed(made)
    # Float32 whatever the type: the heads of all points, and the contrast.
    full = sum({operations[x].type for x in o.operands} == {"f32"} for o in found)
    _, _, points = kernels(made)
    assert full == (6 * points if dtype == "bfloat16" else len(found))
    half = sum({operations[x].type for x in o.operands} == {"bf16"} for o in found)
    assert half == len(found) - full


def test_only_remat_computes_again():
    made = config(remat=True)
    assert len(products(hlo.operations(traced(remat=True)[1]))) > needed(made)


def test_nothing_leaves_the_devices_as_it_is_traced():
    found, text = traced(dtype="float32")
    assert not outside(hlo.operations(text), text)
    # The learning rate is computed from the state's count: a constant one would need no cosine.
    assert kinds(hlo.operations(text))["cosine"] == 1
    # Whatever changes from step to step is an argument.
    state, shared, _ = found.arguments
    assert state.step.shape == shared["count"].shape == ()


def kinds(operations):
    return collections.Counter(o.kind for o in operations.values())


def outside(operations, text):
    """What a step would exchange with its host."""
    found = [k for k in kinds(operations) if re.match("infeed|outfeed|send|recv", k)]
    calls = re.findall(r'custom_call_target="([^"]*)"', text)
    found += [c for c in calls if re.search("callback|Host|Device", c, re.IGNORECASE)]
    return found + re.findall(r"\bS\(5\)", text)  # the host's memory


def test_what_goes_to_the_host_would_be_seen():
    def told(x):
        jax.debug.callback(lambda _: None, x)
        return x

    text = jax.jit(told).lower(1.0).as_text(dialect="hlo")
    assert outside(hlo.operations(text), text)


# As it is compiled for TPUs.

BOTH = ["resnet", "vit"]
ALL = [
    ("resnet", "unlearn"),
    ("resnet", "original"),
    ("resnet", "modules"),
    ("vit", "unlearn"),
]


def model_of(name):
    return config(**CASES[name][1])


@on_a_tpu
@pytest.mark.parametrize("name", BOTH)
def test_a_compiled_step_computes_nothing_twice(name):
    found, _, operations = compiled(name)
    made, ours = model_of(name), products(operations["unlearn"])
    assert len(ours) == needed(made) == {"resnet": 77, "vit": 116}[name]  # docs/performance.md
    backbone, modules, points = kernels(made)
    forward = backbone + modules + 2 * BLOCKS[made.model.name] + points
    assert sum(not o.backward for o in ours) == forward
    assert found["batch"] == 192


@on_a_tpu
def test_modules_alone_take_no_gradient_of_the_backbone():
    ours = products(compiled("resnet")[2]["modules"])
    backbone, modules, points = kernels(model_of("resnet"))
    # Without the backbone's head; a module's first convolution reads what does not move.
    assert sum(not o.backward for o in ours) == backbone - 1 + modules
    assert sum(o.backward for o in ours) == 2 * modules - (points - 1)
    assert len(ours) == 36
    assert not any(o.backward and "ResNet" in o.source for o in ours)


@on_a_tpu
def test_a_supervised_step_computes_nothing_twice():
    ours = products(compiled("resnet")[2]["original"])
    backbone, _, _ = kernels(model_of("resnet"))
    assert len(ours) == 3 * backbone - 1 == 38
    assert sum(not o.backward for o in ours) == backbone


@on_a_tpu
@pytest.mark.parametrize(("name", "stage"), ALL)
def test_a_compiled_step_is_bfloat16_but_for_heads_and_contrast(name, stage):
    operations = compiled(name)[2][stage]
    for one in products(operations):
        types = {operations[x].type for x in one.operands}
        if "highest" in one.rest:  # the contrast
            assert types == {"f32"}, one
        elif "/head/" in one.source:  # its operands are rounded as the matrix unit would do it
            assert one.backward or one.type == "f32", one
        else:
            assert types == {"bf16"}, one


@on_a_tpu
@pytest.mark.parametrize(("name", "stage"), ALL)
def test_a_compiled_step_asks_nothing_of_its_host(name, stage):
    operations = compiled(name)[2][stage]
    text = "\n".join(f"{o.rest} {o.tiles}" for o in operations.values())
    assert "AssumeGatherIndicesInBound" in text  # calls are seen
    assert not outside(operations, text)
    assert kinds(operations)["while"] == 1  # eight steps are one loop
    assert not kinds(operations)["conditional"]  # what another platform would do is not there
    assert kinds(operations)["cosine"] == 1


@on_a_tpu
@pytest.mark.parametrize("name", BOTH)
def test_the_new_state_takes_the_old_ones_place(name):
    _, head, _ = compiled(name)
    (found,) = programs.programs(model_of(name), parallel.make_mesh(CHIPS))
    assert head.count("may-alias") == len(jax.tree.leaves(found.arguments[0]))


def turned(operations):
    """Where the network's own arrays are put into another order."""
    found = [o for o in operations.values() if o.kind in ("copy", "transpose")]
    return [o.source for o in found if re.search("ResNet|ViT|ECModules", o.source)]


@on_a_tpu
def test_no_activation_of_a_resnet_is_turned():
    for operations in compiled("resnet")[2].values():
        assert not turned(operations)


@on_a_tpu
def test_layer_norm_takes_no_products():  # as it is written its gradient has some, with vectors
    operations = compiled("vit")[2]["unlearn"].values()
    kinds = {o.kind for o in operations if "/norm" in o.source}
    assert "reduce" in kinds
    assert not kinds & set(hlo.PRODUCTS)


@on_a_tpu
def test_a_vit_turns_what_attention_reads_and_gives_alone():
    found = turned(compiled("vit")[2]["unlearn"])
    assert all("/attention/" in source for source in found)
    assert len(found) <= 6 * BLOCKS["vit"]


def maps(operations, images):
    """The convolutions that give activations [images, h, w, c], or their gradients."""
    return [o for o in products(operations) if len(o.shape) == 4 and o.shape[0] == images]


@on_a_tpu
def test_the_lanes_hold_channels_or_images_whichever_are_more():
    """16 + 32 images a chip; channels from 16 to 128."""
    found = maps(compiled("resnet")[2]["unlearn"], images=48)
    assert {o.shape[3] for o in found} == {16, 32, 64, 128}
    for one in found:
        assert one.used == max(one.shape[3], 48) / 128, one
        assert one.order[0] == (3 if one.shape[3] > 48 else 0), one


@on_a_tpu
def test_a_wide_step_of_256_images_a_chip_is_without_padding():
    found, _, operations = compiled("wide")
    ours = operations["unlearn"]
    assert {o.used for o in maps(ours, images=256)} == {1.0}
    assert not turned(ours)
    # Nowhere are the 50,000 images that lie on the chip moved to read some of them.
    assert all(o.shape[0] < 50_000 for o in ours.values() if o.kind == "copy" and o.shape)
    assert found["hbm"]["temporaries"] < 0.5 * 2**30
    assert found["flops"] == pytest.approx(by_hand(), rel=0.02)


def by_hand():
    """Of a ResNet-8 of width 64 on 32x32, 256 images a chip: a multiplication is two, a sum none.

    Three stages and a basic block in each; convolutions read no pixels beyond the border.
    """

    def pixels(side, kernel, stride):
        """Pairs of a pixel that is written and one that it reads, along one side, squared."""
        written = range(0, side, stride)
        first = (kernel - stride) // 2 if kernel > stride else 0
        return sum(0 <= i - first + k < side for i in written for k in range(kernel)) ** 2

    layers = [(32, 3, 1, 3, 64), (32, 3, 1, 64, 64), (32, 3, 1, 64, 64)]  # stem, stage 1
    layers += [(32, 3, 2, 64, 128), (16, 3, 1, 128, 128), (32, 1, 2, 64, 128)]
    layers += [(16, 3, 2, 128, 256), (8, 3, 1, 256, 256), (16, 1, 2, 128, 256)]
    layers += [(32, 3, 2, 64, 128), (16, 3, 2, 128, 256), (16, 3, 2, 128, 256)]  # the modules
    work = [2 * 256 * pixels(s, k, stride) * a * b for s, k, stride, a, b in layers]
    heads, contrast = 3 * 2 * 256 * 256 * 10, 3 * 2 * 128 * 1024 * 256
    return 3 * (sum(work) + heads + contrast) - work[0]
