"""Mutual information that is known, networks that hold the bit or not, and the index's sums."""

import math
import types

import command
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from ec_jax import parallel, rng
from ec_jax.evaluation import idi
from ec_jax.evaluation.features import Context, Features, Subject
from ec_jax.models import resnet
from ec_jax.models.network import Network, build

LOG2 = math.log(2)
FAIR = jnp.float32([0.5, 0.5])
SIZES = {"forget_train": 60, "retain_train": 120, "forget_test": 40, "retain_test": 80}
NETWORK = build(
    command.model(depth=8, width=4),
    5,
    # As the pipeline builds it: outside a per-device program the axis does not exist.
    axis_name=parallel.AXIS,
)
POINTS = NETWORK.points
# Optax mixes types on purpose; our own mathematics, the bound, is tested strictly.
training = pytest.mark.usefixtures("_promoting")


@pytest.fixture
def _promoting():
    with jax.numpy_dtype_promotion("standard"):
        yield


def config(seeds=2, steps=30, images=320):
    evaluation = types.SimpleNamespace(idi_seeds=seeds, idi_steps=steps, idi_images=images)
    return types.SimpleNamespace(evaluation=evaluation)


def pairs_loop(scores, bits):
    """InfoNCE over the pairs (z_i, y_i) of a batch, in float64: the usual form."""
    total, n = 0.0, len(bits)
    for i in range(n):
        denominator = sum(math.exp(scores[i][bits[j]]) for j in range(n)) / n
        total += scores[i][bits[i]] - math.log(denominator)
    return total / n


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([1, 7]), st.floats(0.1, 20), st.integers(0, 2**31))
def test_the_bound_of_a_balanced_batch_is_that_of_its_pairs(half, size, seed):
    draw = np.random.default_rng(seed)
    scores = (size * draw.normal(size=(2 * half, 2))).astype(np.float32)
    bits = draw.permutation(np.repeat([0, 1], half)).astype(np.int32)
    got = float(idi.info_nce(jnp.asarray(scores), jnp.asarray(bits), FAIR))
    assert got == pytest.approx(pairs_loop(scores.astype(float), bits), rel=1e-4, abs=1e-5)
    # The most that there is to tell.
    assert got <= LOG2 + 1e-5


def test_the_bound_of_two_values_is_log_2_less_the_cross_entropy():
    draw = np.random.default_rng(0)
    scores = draw.normal(size=(200, 2)).astype(np.float32)
    bits = np.repeat([0, 1], [150, 50]).astype(np.int32)
    likely = np.exp(scores.astype(float))
    likely /= likely.sum(axis=1, keepdims=True)
    # Three times as many of one value: each of them weighs a third.
    loss = log_loss(bits, likely, sample_weight=np.where(bits == 1, 3.0, 1.0))
    got = float(idi.info_nce(jnp.asarray(scores), jnp.asarray(bits), FAIR))
    assert got == pytest.approx(LOG2 - loss, abs=1e-5)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_gaussian_pairs_have_their_known_information(rho):
    draw, n, d = np.random.default_rng(0), 2000, 2
    x = draw.normal(size=(n, d))
    y = rho * x + math.sqrt(1 - rho**2) * draw.normal(size=(n, d))
    # The best critic is log p(y|x) / p(y), quadratic in both.
    square = ((y[None] - rho * x[:, None]) ** 2).sum(axis=2) / (1 - rho**2)
    scores = 0.5 * ((y**2).sum(axis=1)[None] - square)
    shares = jnp.full(n, 1 / n, jnp.float32)
    got = float(idi.info_nce(jnp.asarray(scores, jnp.float32), jnp.arange(n), shares))
    assert got == pytest.approx(-0.5 * d * math.log(1 - rho**2), abs=0.06)
    assert got <= math.log(n)


def channel(flips, count, seed, width=3):
    """Activations [count, 2, 2, width]; one channel is Y, flipped with a probability."""
    draw = np.random.default_rng(seed)
    bits = np.tile([0, 1], count // 2).astype(np.int32)
    seen = np.where(draw.uniform(size=count) < flips, 1 - bits, bits)
    values = draw.normal(size=(count, 2, 2, width)).astype(np.float32)
    values[..., 1] = (2 * seen - 1)[:, None, None]
    return values, bits


def capacity(flips):
    """Mutual information of a fair bit and its flipped copy, in nats."""
    return LOG2 + flips * math.log(flips) + (1 - flips) * math.log(1 - flips)


@training
@pytest.mark.parametrize(("flips", "known"), [(0.1, capacity(0.1)), (0.5, 0.0), (0.0, LOG2)])
def test_a_trained_critic_finds_what_a_channel_tells(flips, known):
    critic = idi.Critic(NETWORK.backbone, POINTS[-1], 100)
    seen, held_out = channel(flips, 2000, 0), channel(flips, 2000, 1)
    got = idi.estimate(critic, seen, held_out, 0)
    assert type(got) is float
    assert got == pytest.approx(known, abs=0.03)
    assert got == idi.estimate(critic, seen, held_out, 0)
    # From other fresh weights, in other batches.
    other = idi.estimate(critic, seen, held_out, 1)
    assert other != got or flips != 0.1
    assert other == pytest.approx(known, abs=0.03)


@training
def test_what_is_learnt_by_heart_is_not_credited():
    # Twenty images, 64 channels of noise: all of them can be told apart, none of the others.
    critic = idi.Critic(NETWORK.backbone, POINTS[-1], 100)
    seen, held_out = channel(0.5, 20, 0, 64), channel(0.5, 2000, 1, 64)
    assert idi.estimate(critic, seen, seen, 0) > 0.6
    assert idi.estimate(critic, seen, held_out, 0) < 0.02


@training
@pytest.mark.parametrize(
    ("size", "known"), [(1.0, capacity(0.1)), (200.0, capacity(0.1)), (-5.0, 0.0)]
)
def test_a_critic_is_not_charged_for_its_confidence(size, known):
    critic = idi.Critic(NETWORK.backbone, POINTS[-1], 100)
    values, bits = channel(0.1, 4000, 0)
    (weights, stats, _) = critic.start(jnp.asarray(values[:1]), jax.random.key(0))
    weights = jax.tree.map(jnp.zeros_like, weights)
    weights["f"]["head"]["kernel"] = weights["f"]["head"]["kernel"].at[1, 0].set(1.0)
    weights["g"] = weights["g"].at[:, 0].set(jnp.array([-size, size]))
    state = weights, stats, None
    got = float(critic.information(state, jnp.asarray(values), jnp.asarray(bits)))
    # The wrong way round it tells nothing: the other critic would have to be found in training.
    assert got == pytest.approx(known, abs=0.02)


def test_activations_are_standardised_by_the_training_part():
    draw = np.random.default_rng(0)

    def part(values):
        return Features({"s": values}, np.zeros((len(values), 1)), np.zeros(len(values), int))

    values = draw.normal(3, 2, size=(60, 2, 2, 4)).astype(np.float32)
    values[..., 2] = 0.1
    values[:50, ..., 3] = 1e20
    first, other = (x[0] for x in idi._standardized(part(values[:50]), part(values[50:]), "s"))
    assert first.dtype == other.dtype == np.float32
    flat = values[:50].reshape(-1, 4).astype(float)
    expected = (values[50:, ..., :2] - flat.mean(0)[:2]) / flat.std(0)[:2]
    np.testing.assert_allclose(other[..., :2], expected, rtol=1e-5, atol=1e-5)
    # A channel that is constant there tells nothing, wherever it is in the other part.
    np.testing.assert_array_equal(first[..., 2:], 0.0)
    np.testing.assert_array_equal(other[..., 2:], 0.0)


class Bare(nn.Module):
    """A network whose only point is the image, and which has no BatchNorm."""

    num_classes: int
    axis_name: str | None = None
    points = ("image",)

    @nn.compact
    def __call__(self, x, train, after=None):
        self.sow("intermediates", "image", x, reduce_fn=resnet.replace_sown)
        return nn.Dense(self.num_classes, name="head")(jnp.mean(x, axis=(1, 2)))


def bare(shown, channels):
    network = Network(Bare(3))
    variables = network.init(jax.random.key(0), (1, 1, channels))
    return Subject(network, variables, shown, jnp.zeros(channels), jnp.full(channels, 1 / 255))


def numbered(sizes):
    """Images that say which split and which place in it they are of."""
    return {
        split: np.uint8([[[[i, place]]] for place in range(count)]).reshape(count, 1, 1, 2)
        for i, (split, count) in enumerate(sizes.items())
    }


@pytest.mark.parametrize(
    ("count", "forget", "retain"), [(240, 60, 120), (100, 50, 50), (41, 20, 21), (150, 60, 90)]
)
def test_at_most_half_of_the_images_are_to_be_forgotten(count, forget, retain):
    subject = bare(numbered(SIZES), 2)
    drawn = idi._activations(subject, "train", count)
    assert drawn.labels.tolist() == [1] * forget + [0] * retain
    split, place = drawn.points["image"].reshape(-1, 2).round().astype(int).T
    assert split.tolist() == [0] * forget + [1] * retain
    for part, size in ((place[:forget], 60), (place[forget:], 120)):
        assert len(set(part)) == len(part)
        # Not the first ones, if not all.
        assert len(part) == size or part.max() >= len(part)
    tested = idi._activations(subject, "test", 80).points["image"][:, 0, 0, 0].round()
    assert tested.tolist() == [2] * 40 + [3] * 40


def test_batches_are_half_of_either():
    bits = np.int32([1] * 10 + [0] * 90)
    first, second = (idi._batches(bits, 50, seed) for seed in (0, 1))
    assert first.shape == (50, idi.BATCH)
    assert (bits[first].sum(axis=1) == idi.BATCH // 2).all()
    assert set(first.ravel()) == set(range(100))
    assert (first != second).any()


def images(tell, sizes=SIZES):
    """Noise; what is to be forgotten is brighter, where asked for."""
    draw = np.random.default_rng(0)
    return {
        split: (
            draw.integers(0, 100, size=(count, 8, 8, 1)) + 100 * (tell and "forget" in split)
        ).astype(np.uint8)
        for split, count in sizes.items()
    }


@pytest.fixture(scope="module")
def variables():
    return NETWORK.init(rng.key(0, "test"), (8, 8, 1))


def measured(variables, shown, **fields):
    subject = Subject(NETWORK, variables, shown, np.float32([0.4]), np.float32([0.2]))
    return idi.run({}, Context(config(**fields), {}, subject))


def blocks(variables, change, *prefixes):
    """The variables with some layers' parameters changed."""
    layers = variables["params"]["backbone"].items()
    changed = {k: jax.tree.map(change, v) if k.startswith(prefixes) else v for k, v in layers}
    return {**variables, "params": {"backbone": changed}}


def programs():
    return [f._cache_size() for f in (idi._forward, idi.Critic.step, idi.Critic.information)]


@pytest.fixture(scope="module")
def told(variables):
    before = programs()
    found = measured(variables, images(True))
    assert np.subtract(programs(), before).tolist() == [1, len(POINTS), len(POINTS)]
    return found


def test_a_network_that_holds_the_bit(told):
    assert set(told) == {
        *(f"idi_information/{p}" for p in POINTS),
        *(f"idi_spread/{p}" for p in POINTS),
        *(f"idi_information/{p}/seed{i}" for p in POINTS for i in range(2)),
    }
    for point in POINTS:
        seeds = [told[f"idi_information/{point}/seed{i}"] for i in range(2)]
        assert all(type(v) is float and 0.6 < v <= LOG2 + 1e-5 for v in seeds)
        assert told[f"idi_information/{point}"] == pytest.approx(np.mean(seeds))
        spread = abs(seeds[0] - seeds[1]) / math.sqrt(2)
        assert told[f"idi_spread/{point}"] == pytest.approx(spread, abs=1e-9)


@training
def test_images_that_are_alike_tell_nothing(variables):
    found = measured(variables, images(False))
    for point in POINTS:
        assert -1e-5 < found[f"idi_information/{point}"] < 0.1


@training
def test_a_network_that_loses_the_bit_on_the_way(variables, told):
    shown = images(True)
    dead = measured(blocks(variables, jnp.zeros_like, "stage2"), shown)
    # What comes after a point has no part in its estimate.
    assert dead["idi_information/stage1"] == told["idi_information/stage1"]
    assert dead["idi_information/stage2"] == pytest.approx(0.0, abs=1e-5)
    assert dead["idi_information/stage3"] == pytest.approx(0.0, abs=1e-5)
    made = idi.derive(dead, {"original": told, "oracle": dead}, POINTS)
    assert made["idi/value"] == made["idi/difference"] == 0.0
    assert made["idi/denominator"] > 1.2
    # Another head only, as of head distillation: nothing has been forgotten.
    headless = measured(blocks(variables, jnp.zeros_like, "head"), shown)
    made = idi.derive(headless, {"original": told, "oracle": dead}, POINTS)
    assert made["idi/value"] == 1.0
    assert made["idi/spread"] == 0.0


@training
def test_the_model_is_not_changed_and_the_numbers_are_the_same_again(variables, told):
    before = jax.tree.map(np.array, variables)
    assert measured(variables, images(True)) == told
    jax.tree.map(np.testing.assert_array_equal, before, variables)


@training
def test_one_compilation_a_point_for_all_models_of_a_run(variables, told):
    before = programs()
    other = blocks(variables, jnp.zeros_like, "stage2")
    assert measured(other, images(True)) != told
    assert programs() == before


@training
def test_splits_of_one_image():
    shown = {k: np.full((1, 1, 1, 1), 200 * ("forget" in k), np.uint8) for k in SIZES}
    found = idi.run({}, Context(config(seeds=1), {}, bare(shown, 1)))
    assert set(found) == {"idi_information/image", "idi_information/image/seed0"}
    assert found["idi_information/image"] == pytest.approx(LOG2, abs=1e-4)


@training
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_not_finite_have_no_information(variables, value):
    # Only the last stage is ruined; its critic has no layers of its own.
    broken = blocks(variables, lambda x: jnp.full_like(x, value), "stage3")
    found = measured(broken, images(True))
    assert np.isnan(found["idi_information/stage3"])
    assert found["idi_information/stage1"] > 0.6


@pytest.mark.parametrize("split", sorted(SIZES))
def test_nothing_without_a_split_or_a_model(variables, split):
    shown = images(True)
    assert measured(variables, shown | {split: shown[split][:0]}) == {}
    del shown[split]
    assert measured(variables, shown) == {}
    assert idi.run({}, Context(config(), {})) == {}  # nor without the model


def numbers(*seeds):
    """Flat keys of two points from [(first, second), ...], a pair a seed."""
    return {
        f"idi_information/s{point}/seed{i}": nats
        for i, pair in enumerate(seeds)
        for point, nats in enumerate(pair)
    }


ORIGINAL = numbers((0.6, 0.5), (0.6, 0.7))  # sums 1.1 and 1.3
ORACLE = numbers((0.5, 0.2), (0.3, 0.2))  # 0.7 and 0.5: denominators 0.4 and 0.8
REFERENCES = {"original": ORIGINAL, "oracle": ORACLE}


def derived(values, references=REFERENCES):
    return idi.derive(values, references, ("s0", "s1"))


def test_the_index_by_hand():
    found = derived(numbers((0.5, 0.5), (0.4, 0.3)) | {"idi_information/s0": 9.0, "idi_spread": 9})
    # Differences 0.3 and 0.2: means 0.25 and 0.6, not the mean of 3/4 and 1/4.
    assert found["idi/difference"] == pytest.approx(0.25)
    assert found["idi/denominator"] == pytest.approx(0.6)
    assert found["idi/value"] == pytest.approx(0.25 / 0.6)
    rests = [0.3 - 0.25 / 0.6 * 0.4, 0.2 - 0.25 / 0.6 * 0.8]
    assert found["idi/spread"] == pytest.approx(np.std(rests, ddof=1) / 0.6)


def test_the_references_are_one_and_zero_and_less_than_the_oracle_is_negative():
    assert derived(ORIGINAL)["idi/value"] == 1.0
    assert derived(ORACLE)["idi/value"] == 0.0
    assert derived(ORIGINAL)["idi/spread"] == derived(ORACLE)["idi/spread"] == 0.0
    found = derived(numbers((0.4, 0.1), (0.3, 0.1)))
    assert found["idi/value"] == pytest.approx(-0.15 / 0.6)
    assert derived(numbers((0.7, 0.7), (0.7, 0.7)))["idi/value"] > 1


@pytest.mark.parametrize("denominator", [0.0, 0.049, -0.6, 0.051])
def test_there_is_no_quotient_of_a_small_denominator(denominator):
    original = {k: v + denominator / 2 for k, v in ORACLE.items()}
    found = derived(ORIGINAL, {"original": original, "oracle": ORACLE})
    assert found["idi/difference"] == pytest.approx(0.6)
    assert found["idi/denominator"] == pytest.approx(denominator)
    assert ("idi/value" in found) == ("idi/spread" in found) == (denominator > 0.05)


def test_one_seed_has_no_spread_and_only_common_seeds_count():
    found = derived(numbers((0.5, 0.4)))
    assert found.keys() == {"idi/difference", "idi/denominator", "idi/value"}
    assert found["idi/value"] == pytest.approx(0.5)


@pytest.mark.parametrize("missing", ["original", "oracle", "values"])
def test_nothing_to_compare_with(missing):
    references = {k: v for k, v in REFERENCES.items() if k != missing}
    values = {"accuracy/retain_test": 1.0} if missing == "values" else ORIGINAL
    assert derived(values, references) == {}
    assert derived(values, {**references, missing: {}}) == {}
