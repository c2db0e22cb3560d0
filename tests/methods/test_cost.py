"""What is spent before the first step: images, and their floating point operations."""

import types

import jax
import jax.numpy as jnp
import pytest
import tiny
from command import changed

from ec_jax import methods, parallel
from ec_jax.training import prepare

FORWARD = ("boundary_shrink", "damp", "duck", "scar")
GRADIENT = ("salun", "ssd")


def cost(name, images):
    scenario = types.SimpleNamespace(data=types.SimpleNamespace(image_shape=tiny.SHAPE))
    batches = types.SimpleNamespace(images=images, scenario=scenario)
    return prepare.cost(1.23456, tiny.method(name), tiny.context(), batches)


def of_a_pass(images):
    """Operations of the network on so many images."""
    tree = tiny.backbone()
    given = jnp.zeros((images, *tiny.SHAPE))
    return parallel.flops(jax.jit(lambda t, x: methods.forward(tiny.network(), t, x)), tree, given)


@pytest.mark.parametrize("name", FORWARD)
def test_an_image_is_a_pass_through_the_network(name):
    found = cost(name, 10)
    assert (found["seconds"], found["images"]) == (1.235, 10)
    # BatchNorm's scales are computed once a pass, however many images it has.
    assert found["flops"] == pytest.approx(of_a_pass(10), rel=0.02)
    assert cost(name, 20)["flops"] == 2 * found["flops"]


@pytest.mark.parametrize("name", GRADIENT)
def test_a_gradient_is_about_three_passes(name):
    assert 2.5 * of_a_pass(10) < cost(name, 10)["flops"] < 3.5 * of_a_pass(10)


def test_nothing_was_done_without_an_image_and_what_is_not_known_is_not_said():
    assert cost("duck", 0) == {"seconds": 1.235, "images": 0, "flops": 0}
    assert cost("unsir", 1) == {"seconds": 1.235, "images": 1}


def test_what_methods_say_of_the_images_they_are_handed():
    said = {name: tiny.method(name).handed for name in methods.names()}
    assert {name for name, handed in said.items() if handed == "gradient"} == set(GRADIENT)
    assert [name for name, handed in said.items() if not handed] == ["unsir"]


def test_ec_on_top_changes_nothing_of_it():
    c = changed(tiny.config("salun"), ec__plugin=True, ec__weights="uniform")
    assert methods.build(c, tiny.POINTS).handed == "gradient"
