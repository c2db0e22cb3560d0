"""Convolutions: their gradients however a platform makes them, and what a CPU is told."""

import collections
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ec_jax import parallel
from ec_jax.models import convolution
from ec_jax.preflight import hlo

PYTORCH = ((1, 1), (1, 1))


def by_loops(x, kernel, gradient, strides, pads):
    """Forwards, and both gradients, tap by tap in float64."""
    x, kernel, gradient = (np.asarray(a, np.float64) for a in (x, kernel, gradient))
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    made, of_x, of_kernel = np.zeros(gradient.shape), np.zeros(padded.shape), np.zeros(kernel.shape)
    for out in np.ndindex(gradient.shape[1:3]):
        for tap in np.ndindex(kernel.shape[:2]):
            at = (slice(None), *(o * s + t for o, s, t in zip(out, strides, tap, strict=True)))
            place = (slice(None), *out)
            made[place] += padded[at] @ kernel[tap]
            of_x[at] += gradient[place] @ kernel[tap].T
            of_kernel[tap] += padded[at].T @ gradient[place]
    (top, _), (left, _) = pads
    return made, of_x[:, top : top + x.shape[1], left : left + x.shape[2]], of_kernel


@st.composite
def cases(draw):
    size, kernel = (draw(st.tuples(*2 * [st.integers(1, n)])) for n in (8, 4))
    # Larger strides that do not divide the size are JAX's own gradient on every platform, and of
    # some of those XLA's CPU compiler ends the process (jaxlib 0.10.2).
    strides = tuple(
        draw(st.sampled_from([s for s in (1, 2, 3, 4) if s <= 2 or n % s == 0])) for n in size
    )
    pads = tuple(draw(st.tuples(*2 * [st.integers(0, k - 1)])) for k in kernel)
    if any(sum(p) + n < k for p, n, k in zip(pads, size, kernel, strict=True)):
        pads = tuple((k - 1, k - 1) for k in kernel)
    return size, kernel, strides, pads


@settings(max_examples=25, deadline=None)
@given(cases())
# Phases that the first or last outputs do not reach: XLA's convolutions on a CPU are wrong where
# such outputs are left out by a negative number of zeros.
@example(((4, 4), (3, 3), (2, 2), ((2, 0), (2, 1))))
@example(((6, 6), (4, 2), (1, 2), ((3, 3), (1, 0))))
@example(((2, 1), (3, 2), (2, 1), ((2, 0), (1, 1))))
@example(((1, 2), (1, 4), (1, 2), ((0, 0), (3, 1))))
def test_gradients_are_those_of_loops(case):
    size, window, strides, pads = case
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)
    kernel = rng.normal(size=(*window, 3, 4)).astype(np.float32)
    made, back = jax.vjp(lambda *a: convolution.convolve(*a, strides, pads), x, kernel)
    gradient = rng.normal(size=made.shape).astype(np.float32)
    found = made, *jax.jit(back)(gradient)
    wanted = by_loops(x, kernel, gradient, strides, pads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, wanted)


@pytest.mark.parametrize("padding", ["SAME", "VALID", PYTORCH])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_is_flaxs_own(stride, padding):
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    ours, theirs, half = (
        made(5, (3, 3), stride, padding=padding, dtype=dtype)
        for made, dtype in (
            (convolution.layer, jnp.float32),
            (nn.Conv, jnp.float32),
            (convolution.layer, jnp.bfloat16),
        )
    )
    variables = theirs.init(jax.random.key(1), x)

    def gradients(layer):
        return jax.grad(lambda v, x: jnp.mean(layer.apply(v, x) ** 2), (0, 1))(variables, x)

    assert half.apply(variables, x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(ours.apply(variables, x), theirs.apply(variables, x))
    for layer, near in ((ours, 1e-5), (half, 2e-2)):
        close = partial(np.testing.assert_allclose, rtol=near, atol=near / 5)
        jax.tree.map(close, gradients(layer), gradients(theirs))


@pytest.mark.parametrize(
    "fields", [{"feature_group_count": 3}, {"kernel_dilation": 2}, {"precision": "highest"}]
)
def test_other_convolutions_are_refused(fields):
    layer = convolution.layer(6, (3, 3), **fields)
    with pytest.raises(ValueError, match=r"use nn\.Conv"):
        layer.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def test_more_zeros_than_a_kernel_reaches_are_refused():
    def init(padding):
        layer = convolution.layer(1, (1, 2), padding=padding)
        return layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))

    init(((0, 0), (1, 1)))
    for padding in (((1, 0), (1, 1)), ((0, 0), (1, 2))):
        with pytest.raises(ValueError, match=r"padding .*give less than the kernel's \(1, 2\)"):
            init(padding)


# As runs have it; the tests' own flags differ.
OPTIONS = {"xla_cpu_use_fusion_emitters": True, "xla_backend_optimization_level": 3}


def compiled(program, arguments):
    options = {**OPTIONS, **parallel._cpu_options()}
    return program.lower(*arguments).compile(compiler_options=options).as_text()


def squared(convolve):
    """The program of both gradients of a sum of squares behind a ReLU."""
    total = lambda x, kernel: jnp.sum(convolve(jax.nn.relu(x * 2 + 1), kernel) ** 2)  # noqa: E731
    return jax.jit(jax.grad(total, (0, 1)))


def ours_and_jaxs(strides):
    ours = squared(lambda *a: convolution.convolve(*a, strides, PYTORCH))
    theirs = squared(
        lambda *a: jax.lax.conv_general_dilated(
            *a, strides, PYTORCH, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    shapes = (64, 16, 16, 8), (3, 3, 8, 8)
    return ours, theirs, [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_accelerators_are_given_what_jax_derives(platform, strides):
    ours, theirs, arguments = ours_and_jaxs(strides)
    texts = [
        made.trace(*arguments).lower(lowering_platforms=(platform,)).as_text(dialect="hlo")
        for made in (ours, theirs)
    ]
    found, wanted = (
        collections.Counter((o.kind, o.shape) for o in hlo.operations(text).values())
        for text in texts
    )
    assert found == wanted
    assert sum(count for (kind, _), count in found.items() if kind == "convolution") == 3


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what a CPU's compiler makes")
def test_on_a_cpu_nothing_is_computed_while_it_is_turned():
    ours, theirs, arguments = ours_and_jaxs((1, 1))

    def computing(made):
        """Fusions that turn an array and compute what is in it, too."""
        text = compiled(made, arguments)
        bodies = [part.partition("\n}")[0] for part in text.split("\n%")]
        turned = [b for b in bodies if " transpose(" in b and "fused" in b.partition("(")[0]]
        return [b for b in turned if " maximum(" in b or " multiply(" in b]

    assert computing(theirs)  # it is seen
    assert not computing(ours)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what a CPU's compiler makes")
def test_on_a_cpu_no_zeros_are_convolved():
    ours, theirs, arguments = ours_and_jaxs((2, 2))
    assert "lhs_dilate" in compiled(theirs, arguments)
    assert "lhs_dilate" not in compiled(ours, arguments)
