"""What a config takes of TPUs that are not there, and what it sends between them."""

import importlib.util
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command import changed, command, refused
from jax.sharding import PartitionSpec

from configs import digits
from docs import scaling
from ec_jax import parallel, pipeline, rng
from ec_jax import scenario as scenario_lib
from ec_jax.errors import InputError, TrainingError
from ec_jax.preflight import chips, collectives, compiled, hlo, programs, report
from ec_jax.recipes import complete
from ec_jax.training import prepare
from ec_jax.training.optimizer import make_optimizer
from ec_jax.training.plan import plan
from ec_jax.training.state import create
from ec_jax.training.steps import make_steps

DEVICES = 4
preflight = partial(command, module="ec_jax.preflight", timeout=900)
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is for Linux on x86 alone"
)
SMALL = ("--config=configs/digits.py", "--config.model.depth=8", "--config.model.width=4")


# What is sent.


def lowered(program, shape, out):
    mesh = parallel.make_mesh(DEVICES)
    cut = PartitionSpec(parallel.AXIS)
    mapped = jax.shard_map(program, mesh=mesh, in_specs=cut, out_specs=out, check_vma=False)
    return jax.jit(mapped).lower(jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize("stage", ["traced", "compiled"])
def test_collectives_of_a_known_program(stage):
    def program(x):  # a share of [8, 6] of [32, 6]
        whole = jax.lax.all_gather(x, parallel.AXIS, tiled=True)
        own = jax.lax.psum_scatter(whole * x.sum(), parallel.AXIS, tiled=True)
        return jax.lax.psum(own.astype(jnp.float32), parallel.AXIS)

    made = lowered(program, (32, 6), PartitionSpec())
    text = made.as_text(dialect="hlo") if stage == "traced" else made.compile().as_text()
    found = {c.kind: c for c in collectives.find(text, DEVICES)}
    assert found.keys() == {"all-gather", "reduce-scatter", "all-reduce"}
    assert {kind: c.bytes for kind, c in found.items()} == {
        "all-gather": 32 * 6 * 4,
        "reduce-scatter": 32 * 6 * 4,
        "all-reduce": 8 * 6 * 4,
    }
    assert all((c.count, c.group) == (1, DEVICES) for c in found.values())
    assert found["all-gather"].sent == 3 / 4 * 768
    assert found["all-reduce"].sent == 2 * 3 / 4 * 192


@pytest.mark.parametrize(
    ("line", "kind", "group", "size"),
    [
        (
            "%a = (f32[64,128]{1,0:T(8,128)S(1)}, /*index=1*/bf16[3]{0:T(128)}, f32[]) "
            "all-reduce(%b, %c, %d), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add",
            "all-reduce",
            4,
            64 * 128 * 4 + 6 + 4,
        ),
        (
            "%a = (bf16[8,128]{1,0}, bf16[64,128]{1,0}) all-gather-start(%b), "
            "replica_groups=[2,8]<=[16], dimensions={0}",
            "all-gather",
            8,
            64 * 128 * 2,
        ),
        (
            "a.1 = (u8[16], u8[16], u32[], u32[]) collective-permute-start(b), "
            "source_target_pairs={{0,1},{1,0}}",
            "collective-permute",
            16,
            16,
        ),
        ("%a = pred[2,16] reduce-scatter(%b), replica_groups={}", "reduce-scatter", 16, 16 * 32),
        ("%a = s4[10]{0} all-to-all(%b), replica_groups={{0,1}}", "all-to-all", 2, 5),
    ],
)
def test_collectives_as_compilers_write_them(line, kind, group, size):
    text = f"ENTRY %main {{\n  {line}\n  %e = f32[9] all-reduce-done(%a)\n}}"
    assert collectives.find(text, 16) == [collectives.Collective(kind, group, 1, size)]


def test_the_pieces_of_a_gather_are_one():
    line = '%a.{} = f32[8] all-gather(%b), replica_groups={{{{0,1}}}}, attributes={{chain_id="{}"}}'
    text = "\n".join(line.format(i, chain) for i, chain in enumerate((0, 0, 0, 1)))
    assert collectives.find(text, 2) == [collectives.Collective("all-gather", 2, 2, 64)]


# Chips.


def test_every_topology_has_its_chips_and_a_larger_one():
    assert chips.chips("v5e:4x4") == 16
    assert chips.chips("v4:2x2x4") == 16
    assert chips.larger("v5e:2x4") == "v5e:4x4"
    assert chips.larger("v6e:16x16") is None
    for topology in chips.KNOWN:
        if there := chips.larger(topology):
            assert chips.chips(there) >= chips.chips(topology)


def test_the_roofline_is_the_slowest_of_three():
    chip = chips.Chip(1, flops=10.0, hbm_bandwidth=5.0, interconnect=2.0, slices=())
    found = chips.roofline(chip, flops=10, moved=10, sent=10)
    assert found == {"compute": 1.0, "hbm": 2.0, "interconnect": 5.0, "binds": "interconnect"}
    assert chips.roofline(chip, flops=10, moved=4, sent=1)["binds"] == "compute"


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        ("temporaries (53.50G) exceeds available HBM (15.75G).", 53.5 * 2**30),
        ("Ran out of memory in memory space hbm. Used 768.00M of 512.00M hbm.", 768 * 2**20),
        ("RESOURCE_EXHAUSTED: for another reason", None),
    ],
)
def test_what_a_refused_program_asked_for(message, needed):
    program = programs.Program("unlearn", None, (), 8, held=3)
    assert compiled._too_much(program, message)["needed"] == needed


def test_a_compiler_that_fails_is_one_line_and_not_a_size():
    class Lowered:
        def lower(self, *arguments):
            return self

        def as_text(self, **dialect):
            return ""

        def compile(self):
            raise jax.errors.JaxRuntimeError(says)

    program = programs.Program("unlearn", Lowered(), (), 8, held=3)
    says = "INTERNAL: a bug"
    with pytest.raises(TrainingError, match="unlearn: the compiler failed: INTERNAL: a bug"):
        compiled.compiled(program, chips.CHIPS["v5e"], 4)
    says = "RESOURCE_EXHAUSTED: too much"
    assert not compiled.compiled(program, chips.CHIPS["v5e"], 4)["fits"]


def test_tiles_without_padding_are_not_told_of():
    rows = [{"name": "a", "filled": 0.95}, {"name": "b", "filled": None}, {"name": "c"}]
    assert report._padded(rows) == []
    (line,) = report._padded([*rows, {"name": "d", "filled": 0.425}])
    assert "are filled: d 42 %. " in line


def test_what_products_fill_of_their_tiles():
    text = """
    %a = bf16[48,2,2,16]{0,3,2,1:T(8,128)(2,1)} convolution(%x, %y), window={size=3x3}
    ROOT %b = f32[8,128]{1,0:T(8,128)} dot(%x, %y), lhs_contracting_dims={1}
    %c = f32[3,3]{1,0:T(8,128)} add(%x, %y)
    """
    sizes = 48 * 2 * 2 * 16, 8 * 128
    assert hlo.filled(text) == sum(sizes) / (sizes[0] * 128 / 48 + sizes[1])
    assert hlo.filled(text.replace(":T(8,128)(2,1)", "").replace(":T(8,128)", "")) is None


def test_without_a_change_to_try_none_is_named():
    found = {"fits": False, "programs": [{"name": "evaluate", "fits": False}]}
    line = report._outcome(found | {"remedy": {"flags": None, "tried": []}})
    assert line == "It does not fit: evaluate. There is no other change to try; take other chips"
    line = report._outcome(found | {"remedy": {"flags": None, "tried": [["--a=1", "--b=2"]]}})
    assert line == "It does not fit: evaluate. Nor does it with any of --a=1 --b=2"


# Programs.


def real(config, stage):
    """What the first step of a stage is called with, by the data themselves."""
    scenario, method = pipeline.checked(config)
    points = scenario.network(modules=False).points
    training = plan(stage, config, scenario.splits, points, method)
    network = scenario.network(training.modules)
    variables, extras = network.init(jax.random.key(0), scenario.image_shape), {}
    if training.method:
        original = {c: tree["backbone"] for c, tree in variables.items()}
        models = dict.fromkeys(("original", *method.needs), original)
        context = prepare.context(scenario, models, prepare.Batches(scenario))
        training, variables = prepare.with_parameters(training, variables, context)
        extras = method.prepare(context)
    optimizer = make_optimizer(config[training.group].optimizer, training.steps)
    state = create(network, variables, optimizer, training.trained, tuple(training.streams))
    steps = make_steps(scenario, training, network, optimizer, extras)
    state = parallel.replicate(state, scenario.mesh)
    return steps.update.program, (state, steps._shared(1), steps.batch(0, 1))


def small(**fields):
    config = changed(
        digits.get_config(),
        model__depth=8,
        model__width=4,
        parallel__devices=DEVICES,
        data__normalize="0.5;0.5",
        **fields,
    )
    return complete(config, ["method"])


def shapes(tree):
    return jax.tree.map(lambda a: (a.shape, a.dtype), tree)


@pytest.mark.parametrize(("resident", "at_once"), [(True, 1), (True, 4), (False, 4)])
@pytest.mark.parametrize("method", ["ec", "random_label"])
def test_a_program_is_that_of_the_run(method, resident, at_once, monkeypatch):
    if not resident:
        monkeypatch.setattr(scenario_lib, "RESIDENT", 0)
    config = small(method=method, stages="unlearn", parallel__at_once=at_once)
    program, arguments = real(config, "unlearn")
    (found,) = programs.programs(config, parallel.make_mesh(DEVICES))
    assert shapes(found.arguments) == shapes(arguments)
    assert found.function.lower(*found.arguments).as_text() == program.lower(*arguments).as_text()
    assert found.batch == 192
    state, _, batch = arguments
    sizes = [a.nbytes for a in jax.tree.leaves(state)]
    assert found.held == sum(sizes) + sum(a.nbytes for a in jax.tree.leaves(batch)) // DEVICES


@pytest.mark.parametrize(("gather", "size"), [("float32", 4), ("bfloat16", 2)])
def test_what_the_contrast_gathers_has_its_type(gather, size):
    config = small(stages="unlearn", ec__gather=gather)
    (found,) = programs.programs(config, parallel.make_mesh(DEVICES))
    text = found.function.lower(*found.arguments).as_text(dialect="hlo")
    gathered = sum(c.sent for c in collectives.find(text, DEVICES) if c.kind != "all-reduce")
    # Of every point and candidate: its embedding there, the gradient back, and its label.
    each = 2 * size * 16 + 4
    assert gathered == (DEVICES - 1) / DEVICES * 3 * (64 + 128) * each


def test_stages_have_the_programs_that_they_run(tmp_path):
    def names(**fields):
        return [p.name for p in programs.programs(small(**fields), mesh)]

    mesh = parallel.make_mesh(DEVICES)
    assert names() == ["original", "modules", "unlearn", "evaluate"]
    assert names(method="finetune", stages="oracle,modules,unlearn") == ["original", "unlearn"]
    both = {"original__checkpoint": str(tmp_path), "oracle__checkpoint": str(tmp_path)}
    assert names(**both, method="ssd") == ["evaluate"]
    assert names(**both, method="scrub", stages="unlearn") == [
        "unlearn (forget)",
        "unlearn (retain)",
    ]
    assert names(**both, method="proxy_distill", stages="proxy") == ["original"]
    maps = names(stages="evaluate", evaluation__features="map")
    assert maps == ["evaluate", *(f"evaluate (CKA, stage{i})" for i in (1, 2, 3))]
    with pytest.raises(InputError, match="stages = 'report'"):
        names(stages="report")


def test_keys_and_shares_have_their_sizes():
    mesh = parallel.make_mesh(DEVICES)
    key = programs.placed(mesh, jax.eval_shape(lambda: rng.key(0)))
    rows = programs.placed(mesh, jax.ShapeDtypeStruct((8, 3), np.int32), cut=0)
    assert programs._size((key, rows)) == 8 + 8 * 3 * 4 // DEVICES


# The command.


@needs_libtpu
def test_a_config_that_fits(tmp_path):
    target = tmp_path / "made" / "found.json"
    flags = ("--topology=v5e:2x2", "--batches_for=8", "--config.stages=unlearn,evaluate")
    done = preflight(*SMALL, *flags, f"--json={target}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "It fits: at most 0." in done.stdout
    found = json.loads(target.read_text())
    assert found["fits"]
    assert found["remedy"] is None
    assert found["batches"]["forget_batch_size"] == 32  # 64 of 8 chips
    unlearn, evaluate = found["programs"]
    assert (unlearn["name"], unlearn["batch"]) == ("unlearn", 96)
    assert (evaluate["name"], evaluate["batch"]) == ("evaluate", 252)
    n, points, width = 4, 3, 16
    # Of every point and candidate: its embedding there, the gradient back, and its label.
    gathered = (n - 1) / n * points * (32 + 64) * 4 * (2 * width + 1)
    assert unlearn["written"]["gathered"] == gathered
    assert unlearn["written"]["summed"] > 0
    assert evaluate["written"] == {"summed": 0, "gathered": 0}
    for program in found["programs"]:
        hbm = program["hbm"]
        assert 0 <= hbm["temporaries"] < hbm["needed"] < found["chip"]["hbm_bytes"]
        assert hbm["needed"] == sum(size for name, size in hbm.items() if name != "needed")
        assert program["seconds"]["compute"] == pytest.approx(program["flops"] / 197e12)
        assert program["seconds"]["binds"] in chips.BOUNDS
        assert 0 < program["filled"] < 0.9  # few channels, and 24 images a chip
    (line,) = [x for x in done.stdout.splitlines() if x.startswith("Of the tiles that products")]
    shares = (f"{p['name']} {100 * p['filled']:.0f} %" for p in found["programs"])
    assert f"are filled: {', '.join(shares)}. A tile" in line
    # Forwards and backwards are more work than forwards, for each of its images.
    work = [p["flops"] / p["batch"] for p in (unlearn, evaluate)]
    assert work[0] > 2 * work[1] > 0


@needs_libtpu
@pytest.mark.slow
def test_a_config_that_does_not_fit_names_what_would():
    flags = ("--topology=v5e:1x1", "--config.stages=evaluate")
    flags += (f"--config.data.eval_batch_size={2**23}",)
    done = preflight(*SMALL, *flags)
    assert (done.returncode, done.stderr) == (1, "")
    assert "GiB are asked for" in done.stdout
    *_, last = done.stdout.splitlines()
    change = "--config.model.dtype=bfloat16"
    assert last == f"It does not fit: evaluate. It would with {change}"
    assert preflight(*SMALL, *flags, change).returncode == 0


@pytest.mark.parametrize(("meant", "given"), [(None, 64), (8, 32), (5, 20)])
def test_a_remedy_is_of_the_command_that_it_goes_to(meant, given):
    """With --batches_for=8 a command's 32 are the 64 that 16 chips are to get."""
    c = digits.get_config().unlock()
    c.data.batch_size, topology = 128, "v5e:4x4"
    found = list(report._candidates(c, topology, ["original"], meant))
    sizes = {changes["data.batch_size"] for changes, _ in found if "data.batch_size" in changes}
    assert sizes == {64, 32, 16}
    assert report._unscaled(64, topology, meant) == given
    assert report._unscaled(8, topology, 3) == 0  # 1.5 images
    # Where more chips get more images a larger slice is no remedy.
    assert {there for _, there in found} == ({topology} if meant else {topology, "v5e:4x8"})


def test_a_missing_compiler_is_told_with_its_command():
    before = (
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'libtpu' else find(name, *a)"
    )
    flags = ("--config=configs/digits.py", "--topology=v5e:2x2")
    says = ("--topology = 'v5e:2x2'", "pip install libtpu==")
    refused(*flags, says=says, module="ec_jax.preflight", before=before)


# The page.


def test_the_page_says_what_the_files_say():
    assert scaling.page() == scaling.PAGE.read_text()
    assert len(list(scaling.FILES.glob("*.json"))) > 0
