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


def cost(name, images, **settings):
    scenario = types.SimpleNamespace(data=types.SimpleNamespace(image_shape=tiny.SHAPE))
    batches = types.SimpleNamespace(images=images, scenario=scenario)
    return prepare.cost(1.23456, tiny.method(name, **settings), tiny.context(), batches)


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


@pytest.mark.parametrize("steps", [10, 30])
def test_noise_is_learned_by_about_two_passes_a_step(steps):
    found = cost("unsir", 1, noise_images=4, noise_steps=steps)
    images = 4 * steps * len(tiny.FORGET)
    assert found["images"] == 1
    assert 1.6 * of_a_pass(images) < found["flops"] < 2.4 * of_a_pass(images)


def test_two_networks_look_at_what_the_strength_is_calibrated_on():
    c = changed(tiny.config("ec"), ec__calibrated=True)
    assert methods.build(c, tiny.POINTS).spent(tiny.context(), 10) == {"forward": 20}


def test_nothing_was_done_without_an_image_and_what_is_not_known_is_not_said(monkeypatch):
    assert cost("duck", 0) == {"seconds": 1.235, "images": 0, "flops": 0}
    monkeypatch.setattr(parallel, "flops", lambda *_: None)
    assert cost("duck", 1) == {"seconds": 1.235, "images": 1}
    monkeypatch.setattr(methods.Method, "spent", lambda *_: None)
    assert cost("finetune", 1) == {"seconds": 1.235, "images": 1}


def test_ec_on_top_changes_nothing_of_it():
    c = changed(tiny.config("salun"), ec__plugin=True, ec__weights="uniform")
    assert methods.build(c, tiny.POINTS).spent(tiny.context(), 10) == {"gradient": 10}
