"""PyTorch's step does the work of ours: the same losses, gradients and parameters."""

import jax
import numpy as np
import pytest
import torch

from benchmarks import torch_step
from configs import default
from ec_jax import methods, parallel, rng
from ec_jax.methods._weights import layer_weights
from ec_jax.models.network import build
from ec_jax.training import supervised
from ec_jax.training.optimizer import make_optimizer
from ec_jax.training.state import create
from ec_jax.training.update import Recipe, make_update

SHAPE, CLASSES = (16, 16, 3), 4
MEAN, STD = np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.3, 0.25])
PARTS = ("backbone", "modules")
MODELS = {
    # No narrower ones: benchmarks/step.py says why.
    "resnet": {"name": "resnet", "depth": 10, "width": 16, "padding": "symmetric"},
    "vit": {"name": "vit", "depth": 4, "width": 64, "patch": 4},
}


def batches(steps):
    draw = np.random.default_rng(0)

    def part(size, labels):
        images = draw.integers(0, 256, (size, *SHAPE), dtype=np.uint8)
        return {"image": images, "label": draw.choice(labels, size)}

    return [{"retain": part(8, [0, 1]), "forget": part(8, [2, 3])} for _ in range(steps)]


def config(model):
    c = default.get_config().unlock()
    c.model.update(MODELS[model])
    c.unlearn.optimizer.schedule = "constant"
    return c


def ours(c, network, loss, variables, train, made):
    """(losses, the variables after the steps) of our update of those batches."""
    optimizer = make_optimizer(c.unlearn.optimizer, len(made))
    parts = tuple(variables["params"])
    recipe = Recipe(loss, optimizer, parts, parts if train else ())
    mesh = parallel.make_mesh(1)
    update = parallel.per_device(make_update(network, recipe, MEAN, STD), mesh)
    state = create(network, variables, optimizer, parts, tuple(made[0]))
    state = parallel.replicate(state, mesh)
    shared, losses = parallel.replicate({"key": rng.key(0, "test"), "extras": {}}, mesh), []
    for batch in made:
        state, metrics = update(state, shared, parallel.shard(batch, mesh))
        losses.append(float(metrics["loss"]))
    return losses, jax.device_get({"params": state.params, "batch_stats": state.batch_stats})


def tensors(batch):
    return jax.tree.map(lambda a: torch.tensor(a).long() if a.ndim < 2 else torch.tensor(a), batch)


def check_moved_alike(network, variables, after, peer):
    want = torch_step.from_ours(network, after, SHAPE[0])
    before = dict(torch_step.from_ours(network, variables, SHAPE[0]).named_parameters())
    found = dict(peer.named_parameters())
    for name, value in want.named_parameters():
        moved = (value - before[name]).detach().numpy()
        theirs = (found[name] - before[name]).detach().numpy()
        # A scale of 1 is itself rounded to 1e-7 on both sides.
        rounded = 2 * np.spacing(np.abs(value.detach().numpy()).max())
        allowed = max(1e-4 * np.abs(moved).max(), 1e-7, rounded)
        np.testing.assert_allclose(theirs, moved, rtol=0, atol=allowed)


@pytest.mark.parametrize("train", [False, True], ids=["statistics kept", "statistics of the batch"])
@pytest.mark.parametrize("kind", ["conv", "pool"])
@pytest.mark.parametrize("model", MODELS)
def test_both_steps_come_to_the_same(model, kind, train):
    # Of one step the difference of the parameters is the gradient; the others see the optimizer.
    # Statistics of a few images make the most of what is rounded, from step to step.
    c, steps = config(model), 1 if train else 3
    network = build(c.model, CLASSES, module_kind=kind, axis_name=parallel.AXIS)
    variables = jax.jit(network.init, static_argnums=1)(jax.random.key(1), SHAPE)
    variables = jax.device_get(variables)  # the first step takes the arrays over
    peer = torch_step.from_ours(network, variables, SHAPE[0]).train(train)
    trainer = torch_step.Trainer(peer, c.unlearn.optimizer, MEAN, STD)
    weights = layer_weights(c.ec.weights, len(network.points), c.ec.weights_sum)
    losses = []
    for batch in map(tensors, batches(steps)):
        loss = trainer.loss(batch, c.ec, weights)
        if not train:
            hooked = trainer.by_hooks(batch, c.ec, weights).detach()
            np.testing.assert_allclose(hooked, loss.detach(), rtol=1e-5)
        losses.append(trainer.step(loss))
    found, after = ours(
        c, network, methods.build(c, network.points).loss, variables, train, batches(steps)
    )
    np.testing.assert_allclose(losses, found, rtol=1e-4)
    check_moved_alike(network, variables, after, peer)


@pytest.mark.parametrize("model", MODELS)
def test_supervised_steps_come_to_the_same(model):
    c = config(model)
    network = build(c.model, CLASSES, axis_name=parallel.AXIS)
    variables = jax.device_get(jax.jit(network.init, static_argnums=1)(jax.random.key(1), SHAPE))
    peer = torch_step.from_ours(network, variables, SHAPE[0]).train()
    trainer = torch_step.Trainer(peer, c.unlearn.optimizer, MEAN, STD)
    made = [{supervised.STREAM: batch["retain"]} for batch in batches(1)]
    loss = trainer.step(trainer.supervised(tensors(made[0])[supervised.STREAM]))
    wanted = supervised.make_loss(network.points[-1:])
    found, after = ours(c, network, wanted, variables, True, made)
    np.testing.assert_allclose(loss, found[0], rtol=1e-4)
    check_moved_alike(network, variables, after, peer)
