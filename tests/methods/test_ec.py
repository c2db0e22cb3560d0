"""The EC objective against loops, and its layer weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from configs import default
from ec_jax import methods, parallel
from ec_jax.methods.ec import layer_weights
from ec_jax.models.network import Outputs

POINTS = ("stage1", "stage2", "stage3", "stage4")


def build(**ec):
    c = default.get_config().unlock()
    c.ec.update(ec)
    return methods.build(c, POINTS)


def outputs_and_batch(seed=0):
    draw = np.random.default_rng(seed)

    def part(count, labels):
        outputs = Outputs(
            logits={p: jnp.asarray(draw.normal(size=(count, 5)), jnp.float32) for p in POINTS},
            embeddings={p: jnp.asarray(draw.normal(size=(count, 3)), jnp.float32) for p in POINTS},
        )
        return outputs, {"label": jnp.asarray(draw.choice(labels, count), jnp.int32)}

    made = {"retain": part(8, [0, 1, 2]), "forget": part(4, [3, 4])}
    return {k: v[0] for k, v in made.items()}, {k: v[1] for k, v in made.items()}


def value(method, outputs, batch, devices=1, forgotten=()):
    mesh = parallel.make_mesh(devices)
    extras = {"forgotten": jnp.isin(jnp.arange(5), jnp.asarray(forgotten, jnp.int32))}
    program = parallel.per_device(
        lambda state, shared, b: method.loss(
            methods.Step(b[0], b[1], shared, {}, 0.0, 0, jax.random.key(0))
        ),
        mesh,
    )
    return jax.device_get(program({}, extras, parallel.shard((outputs, batch), mesh)))


def by_loops(outputs, batch, weights, lam, tau):
    """method.md's L with candidates `both`, in float64 loops."""
    total = 0.0
    retain, forget = outputs["retain"], outputs["forget"]
    y_r, y_f = (np.asarray(batch[k]["label"]) for k in ("retain", "forget"))
    for point, weight in weights.items():
        logits = np.asarray(retain.logits[point], np.float64)
        ce = np.mean(
            [-np.log(np.exp(z[y]) / np.exp(z).sum()) for z, y in zip(logits, y_r, strict=True)]
        )
        z = np.concatenate([forget.embeddings[point], retain.embeddings[point]]).astype(np.float64)
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        labels = np.concatenate([y_f, y_r])
        values = []
        for i in range(len(y_f)):
            others = [a for a in range(len(z)) if a != i]
            below = sum(np.exp(z[i] @ z[a] / tau) for a in others)
            terms = [
                np.log(np.exp(z[i] @ z[p] / tau) / below) for p in others if labels[p] != labels[i]
            ]
            values.append(-np.mean(terms))
        total += weight * (ce + lam * np.mean(values))
    return total


@pytest.mark.parametrize("devices", [1, 2])
def test_the_objective_is_the_weighted_sum_over_the_points(devices):
    outputs, batch = outputs_and_batch()
    method = build(weights="1,2,3,4", weights_sum=5.0, temperature=0.3, **{"lambda": 0.7})
    weights = dict(zip(POINTS, np.array([1, 2, 3, 4]) * 0.5, strict=True))
    loss, _ = value(method, outputs, batch, devices)
    assert loss == pytest.approx(by_loops(outputs, batch, weights, 0.7, 0.3), rel=1e-5)


def test_only_the_chosen_points_count():
    outputs, batch = outputs_and_batch()
    loss, metrics = value(build(points="stage4,stage2", temperature=0.5), outputs, batch)
    weights = {"stage2": 0.5, "stage4": 0.5}
    assert loss == pytest.approx(by_loops(outputs, batch, weights, 1.0, 0.5), rel=1e-5)
    assert set(metrics) == {f"{side}/stage{i}" for side in ("retain", "forget") for i in (2, 4)}


def _log_softmax(rows):
    rows = np.asarray(rows, np.float64)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("devices", [1, 2])
def test_the_teachers_terms_stand_at_every_point(devices):
    outputs, batch = outputs_and_batch()
    draw = np.random.default_rng(3)
    pseudo, proxy = np.int32([0, 2, 1, 2]), np.float32(draw.normal(size=(4, 5)))
    batch["forget"] |= {"pseudo": pseudo, "proxy": proxy}
    plain = build(weights="1,2,3,4", weights_sum=1.0)
    taught = build(weights="1,2,3,4", weights_sum=1.0, pseudo=0.5, proxy=0.3)
    loss, metrics = value(taught, outputs, batch, devices, forgotten=(3, 4))
    without, _ = value(plain, outputs, batch, devices)
    masked = np.exp(_log_softmax(proxy[:, :3]))
    added = 0.0
    for point, weight in zip(POINTS, np.array([1, 2, 3, 4]) / 10, strict=True):
        own = _log_softmax(outputs["forget"].logits[point])
        ce = -np.mean([row[y] for row, y in zip(own, pseudo, strict=True)])
        kl = np.mean((masked * (np.log(masked) - own[:, :3])).sum(axis=1))
        assert metrics[f"pseudo/{point}"] == pytest.approx(0.5 * ce, rel=1e-5)
        assert metrics[f"proxy/{point}"] == pytest.approx(0.3 * kl, rel=1e-5)
        added += weight * (0.5 * ce + 0.3 * kl)
    assert loss - without == pytest.approx(added, rel=1e-4)


def test_the_variants_name_what_they_need():
    assert build().needs == ()
    assert build(proxy=0.1).needs == ("proxy",)
    assert build(targets="pseudo").targeted


def test_a_plug_in_is_the_hosts_loss_and_weighted_terms_below_the_head():
    outputs, batch = outputs_and_batch()
    c = default.get_config().unlock()
    c.method, c.ec.plugin, c.ec.weight = "finetune", True, 0.25
    c.ec.weights, c.ec.weights_sum, c.ec.temperature = "1,2,3,4", 10.0, 0.3
    mesh = parallel.make_mesh(1)

    def loss(method):
        extras = {"host": {}, "ec": {}}
        program = parallel.per_device(
            lambda state, shared, b: method.loss(
                methods.Step(b[0], b[1], shared, {}, 0.0, 0, jax.random.key(0))
            ),
            mesh,
        )
        return float(program({}, extras, parallel.shard((outputs, batch), mesh))[0])

    host = -np.mean(
        [
            row[y]
            for row, y in zip(
                _log_softmax(outputs["retain"].logits["stage4"]),
                np.asarray(batch["retain"]["label"]),
                strict=True,
            )
        ]
    )
    below = {"stage1": 1.0, "stage2": 2.0, "stage3": 3.0}
    expected = host + 0.25 * by_loops(outputs, batch, below, 1.0, 0.3)
    assert loss(methods.build(c, POINTS)) == pytest.approx(expected, rel=1e-5)
    c.ec.include_head = True
    expected = host + 0.25 * by_loops(outputs, batch, {**below, "stage4": 4.0}, 1.0, 0.3)
    assert loss(methods.build(c, POINTS)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("uniform", [1, 1, 1, 1]),
        ("linear", [0.4, 0.8, 1.2, 1.6]),
        ("geometric", [4 / 15, 8 / 15, 16 / 15, 32 / 15]),
        ("reversed", [1.6, 1.2, 0.8, 0.4]),
        ("0,0,1,3", [0, 0, 1, 3]),
    ],
)
def test_layer_weights(kind, expected):
    np.testing.assert_allclose(layer_weights(kind, 4, 4.0), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["1,2", "0,0,0,0", "1,1,1,-1", "1,1,1,nan", "1,1,1,inf"])
def test_impossible_weights_are_refused(kind):
    with pytest.raises(ValueError, match="4 weights"):
        layer_weights(kind, 4)


def test_names_lists_the_files():
    assert "ec" in methods.names()


def test_partition_spec_of_the_batch_is_the_data_axis():
    mesh = parallel.make_mesh(2)
    assert parallel.shard(jnp.zeros((4, 1)), mesh).sharding.spec == PartitionSpec(parallel.AXIS)
