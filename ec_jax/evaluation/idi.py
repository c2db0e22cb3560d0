"""Information difference index (IDI): what the features still tell of forgotten and kept apart.

The definition is that of arXiv 2405.17878. What it leaves open, and what is decided here:

- The critic's later layers start from fresh weights, the same for every model. From the model's
  own they would find in a hundred steps what those layers still look for, and the estimate would
  be of the layers after a point, not of what the point holds.
- The frozen activations are standardised channel by channel, as information does not depend on
  their scale and a critic trained for a hundred steps does.
- Critics are trained on the training splits and measured on the test splits: on the images that
  they were trained on, they would be credited for what they learnt by heart.
- On the held-out images the scores are scaled by one number, the best one. A critic that is sure
  of its mistakes would otherwise be charged for its confidence: without it, the learning rate
  decided the index.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ec_jax import rng
from ec_jax.evaluation.features import Context, Features, Subject, extract
from ec_jax.models.network import Network, Variables

FORGET, RETAIN = 1, 0  # the two values of Y
SHARES = (0.5, 0.5)  # of them: Y is a fair coin, whatever the splits' sizes
HELD_OUT = 0.25  # share of ``evaluation.idi_images`` for the estimate
BATCH = 32  # images a step of training, half of them to be forgotten
PROJECTION = 64  # width of f and g
LEARNING_RATE = 1e-2  # of Adam, falling to 0 by a cosine
# What held-out scores may be multiplied by. 0 is the critic that says nothing.
SCALES = (0.0, *(2.0 ** (power / 4) for power in range(-32, 17)))
LEAST_DENOMINATOR = 0.05  # nats; below it, seeds and held-out images decide the quotient
_EXTRACTED = 256  # images a forward pass of the measured model


def info_nce(scores: jax.Array, partners: jax.Array, shares: jax.Array) -> jax.Array:
    """InfoNCE, a lower bound of mutual information in nats.

        I ≥ Σ_j p_j mean_{i: y_i = j} [s_ij − log Σ_k p_k exp s_ik]

    Candidates that all are drawn once, p_j = 1/n and y_i = i, make it the usual form over a batch
    of n pairs, mean_i [s_ii − log (1/n) Σ_j exp s_ij]. Where Y has two values, a batch with equal
    shares of them has the same denominators as their two candidates with p = (½, ½), and the
    bound is log 2 less the cross-entropy of the classifier softmax(s_i).

    Args:
      scores: float32 [n, k], s_ij = f(z_i)·g(y_j).
      partners: int32 [n], the candidate in [0, k) that goes with example i; each is some
        example's.
      shares: float32 [k], the candidates' probabilities p, summing to 1.

    Returns:
      float32 scalar, at most max_j −log p_j; below 0 where a critic is worse than none.

    Source: van den Oord et al. 2018, arXiv 1807.03748.

    >>> scores = jnp.array([[50.0, 0.0], [0.0, 50.0]])
    >>> float(info_nce(scores, jnp.array([0, 1]), jnp.array([0.5, 0.5]))).__round__(4)
    0.6931
    """
    # Differences first: the quotient of two large exponentials has few digits of its own.
    others = scores - jnp.take_along_axis(scores, partners[:, None], axis=1)
    gains = -jax.nn.logsumexp(others, axis=1, b=shares[None])
    counts = jnp.zeros_like(shares).at[partners].add(1.0)
    return jnp.sum((shares / counts)[partners] * gains)


@dataclasses.dataclass(frozen=True)
class Critic:
    """s(z, y) = f(z)·g(y) for the activations of one point.

    f is the backbone after the point with a linear projection in its head's place, all trainable,
    from fresh weights; g is a trainable vector for each value of Y. BatchNorm takes batch
    statistics in training, and their running means afterwards.

    Attributes:
      backbone: the measured network's, whose layers and widths f has.
      point: a supervision point.
      steps: of training, >= 1.
    """

    backbone: nn.Module
    point: str
    steps: int

    # One compiled step, called in a loop: on CPU, convolutions of 28x28 maps were 20 times slower
    # inside lax.scan, and those of three critics under vmap 3 times. The start is not compiled as
    # a whole: drawing weights takes long to compile, and is shared by the points where it is not.

    def start(self, image: jax.Array, key: jax.Array) -> tuple:
        """(weights, BatchNorm statistics, Adam's memory) before training, [1, h, w, c] given."""
        layers, vectors = jax.random.split(key)
        fresh = self._f.init(layers, image, train=False, after=self.point)
        g = jax.random.normal(vectors, (len(SHARES), PROJECTION)) / PROJECTION**0.5
        weights = {"f": fresh["params"], "g": g}
        return weights, fresh.get("batch_stats", {}), self._optimizer.init(weights)

    @functools.partial(jax.jit, static_argnums=0)
    def step(self, state: tuple, images: jax.Array, bits: jax.Array, rows: jax.Array) -> tuple:
        """The state after a step on some rows of activations [n, h, w, c] and bits [n]."""
        weights, stats, memory = state

        def loss(weights):
            scores, updated = self._scores(weights, stats, images[rows], train=True)
            return -info_nce(scores, bits[rows], jnp.float32(SHARES)), updated

        slopes, stats = jax.grad(loss, has_aux=True)(weights)
        updates, memory = self._optimizer.update(slopes, memory)
        return optax.apply_updates(weights, updates), stats, memory

    @functools.partial(jax.jit, static_argnums=0)
    def information(self, state: tuple, images: jax.Array, bits: jax.Array) -> jax.Array:
        """``info_nce`` of activations [n, h, w, c] and bits [n] with the best of ``SCALES``."""
        weights, stats, _ = state
        scores, _ = self._scores(weights, stats, images, train=False)
        bounds = jax.vmap(lambda scale: info_nce(scale * scores, bits, jnp.float32(SHARES)))
        return jnp.max(bounds(jnp.float32(SCALES)))

    @property
    def _f(self) -> nn.Module:
        return self.backbone.clone(num_classes=PROJECTION, axis_name=None)

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, self.steps))

    def _scores(self, weights: dict, stats: Variables, images: jax.Array, train: bool) -> tuple:
        """Scores [n, 2] and the BatchNorm statistics after them."""
        variables = {"params": weights["f"], "batch_stats": stats}
        embedded, updated = self._f.apply(
            variables, images, train=train, after=self.point, mutable=["batch_stats"]
        )
        return embedded @ weights["g"].T, updated.get("batch_stats", {})


def estimate(
    critic: Critic,
    training: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    seed: int,
) -> float:
    """I(Z; Y) by a critic that is trained on one part and measured on the other.

    Args:
      critic: of the point that the activations are of.
      training: activations, float32 [n, h, w, c], and Y, int32 [n], both values of it.
      held_out: the same of other images.
      seed: of the fresh weights and of the order of the images.

    Returns:
      Nats in [0, log 2], up to float32's rounding; NaN where an activation is not finite.
    """
    images, bits = map(jnp.asarray, training)
    state = critic.start(images[:1], rng.key(0, "idi", critic.point, seed))
    for rows in _batches(training[1], critic.steps, seed):
        state = critic.step(state, images, bits, rows)
    return float(critic.information(state, *map(jnp.asarray, held_out)))


def run(features: Mapping[str, Features], context: Context) -> dict[str, float]:
    """``idi_information/POINT``: what a point tells of the forget/retain bit Y, in nats.

    Mean over ``evaluation.idi_seeds`` critics of ``estimate``; each one's is
    ``idi_information/POINT/seedK``, and ``idi_spread/POINT`` is their standard deviation (with
    one seed there is none). log 2 = 0.693 is all there is to tell. Critics are trained for
    ``evaluation.idi_steps`` steps.

    Of ``evaluation.idi_images`` three quarters are drawn from the training splits and a quarter
    from the test splits. At most half of either are to be forgotten; images to be kept fill up
    the rest. A batch has equally many of both, and in the estimate both count one half, however
    many there are. Draws and fresh weights are the same for every model.

    Args:
      features: not used.
      context: ``subject`` is the measured model; its variables are not changed.

    Returns:
      {key: nats}; NaN where an activation is not finite. Nothing without a subject, or where
      one of the four splits is missing or has no images.

    Source: arXiv 2405.17878; what differs from it stands at the head of this file.
    """
    del features
    subject = context.subject
    splits = [f"{kind}_{part}" for kind in ("forget", "retain") for part in ("train", "test")]
    if subject is None or not all(len(subject.images.get(split, ())) for split in splits):
        return {}
    settings = context.config.evaluation
    count = int(HELD_OUT * settings.idi_images)
    training = _activations(subject, "train", settings.idi_images - count)
    held_out = _activations(subject, "test", count)
    result = {}
    for point in subject.network.points:
        critic = Critic(subject.network.backbone, point, settings.idi_steps)
        parts = _standardized(training, held_out, point)
        found = [estimate(critic, *parts, seed) for seed in range(settings.idi_seeds)]
        result[f"idi_information/{point}"] = float(np.mean(found))
        if len(found) > 1:
            result[f"idi_spread/{point}"] = float(np.std(found, ddof=1))
        result |= {f"idi_information/{point}/seed{i}": value for i, value in enumerate(found)}
    return result


def derive(
    values: Mapping[str, float],
    references: Mapping[str, Mapping[str, float]],
    points: Sequence[str],
) -> dict[str, float]:
    """``idi/value``: 1 = tells as much as the original, 0 = as the oracle, below 0 = less.

        ID(θ) = Σ_l [I_θ(Z_l; Y) − I_oracle(Z_l; Y)],   IDI = ID(θ) / ID(original)

    over all points l. ``idi/difference`` is ID(θ), ``idi/denominator`` is ID(original), both in
    nats and means over seeds, critics of the same seed being compared; ``idi/value`` is the
    quotient of these means: a mean of quotients would be that of the seed whose denominator
    happens to be smallest. ``idi/spread`` is the standard deviation over seeds of
    ID_s(θ) − IDI · ID_s(original), over the denominator: how far the quotient is one seed's.

    Args:
      values: the flat keys of the measured model.
      references: {"original": its flat keys, "oracle": its flat keys}.
      points: the supervision points, at least one.

    Returns:
      Nothing without both references, or where a model has no numbers of ``run``. With a
      denominator below ``LEAST_DENOMINATOR`` there is nothing to forget that could be measured:
      value and spread are left out. The spread of one seed is left out, too.

    Source: arXiv 2405.17878.

    >>> found = [{"idi_information/s/seed0": nats} for nats in (0.5, 0.6, 0.4)]
    >>> made = derive(found[0], {"original": found[1], "oracle": found[2]}, ["s"])
    >>> round(made["idi/value"], 3), round(made["idi/difference"], 3)
    (0.5, 0.1)
    """
    models = [values, *(references.get(name, {}) for name in ("original", "oracle"))]
    own, original, oracle = (_sums(model, points) for model in models)
    seeds = min(map(len, (own, original, oracle)))
    if not seeds:
        return {}
    differences, denominators = (part[:seeds] - oracle[:seeds] for part in (own, original))
    difference, denominator = float(differences.mean()), float(denominators.mean())
    result = {"idi/difference": difference, "idi/denominator": denominator}
    if denominator >= LEAST_DENOMINATOR:
        value = difference / denominator
        result["idi/value"] = value
        if seeds > 1:
            rests = differences - value * denominators
            result["idi/spread"] = float(rests.std(ddof=1)) / denominator
    return result


def _sums(values: Mapping[str, float], points: Sequence[str]) -> np.ndarray:
    """Σ_l I(Z_l; Y) of every seed, float64 [seeds]."""
    keys = [f"idi_information/{point}/seed" for point in points]
    seeds = sum(key.startswith(keys[0]) for key in values)
    return np.array([sum(values[f"{key}{seed}"] for key in keys) for seed in range(seeds)])


def _activations(subject: Subject, part: str, count: int) -> Features:
    """The model's activations of images drawn from two splits, and Y as their labels.

    Images to be forgotten come first.
    """
    draw = rng.generator(0, "idi", part)
    forget, retain = (subject.images[f"{kind}_{part}"] for kind in ("forget", "retain"))
    forget = forget[draw.permutation(len(forget))[: count // 2]]
    retain = retain[draw.permutation(len(retain))[: count - len(forget)]]

    def forward(images):
        return *_forward(subject.network, subject.variables, subject.normalized(images)), {}

    bits = np.repeat([FORGET, RETAIN], [len(forget), len(retain)])
    images = np.concatenate([forget, retain])
    return extract({"it": forward}, images, bits, _EXTRACTED)["it"]


@functools.partial(jax.jit, static_argnames="network")
def _forward(network: Network, variables: Variables, images: jax.Array) -> Any:
    return network.activations(variables, images)


def _batches(bits: np.ndarray, steps: int, seed: int) -> np.ndarray:
    """Rows of the batches of a training, [steps, BATCH]: half forget, half retain."""
    draw = rng.generator(0, "idi", "batches", seed)
    kinds = [np.flatnonzero(bits == bit) for bit in (FORGET, RETAIN)]
    halves = [draw.choice(rows, (steps, BATCH // 2)) for rows in kinds]
    return np.concatenate(halves, axis=1).astype(np.int32)


def _standardized(training: Features, held_out: Features, point: str) -> list[tuple]:
    """(activations, Y) of both parts, each channel by its mean and deviation in training."""
    values = training.points[point]
    axes = tuple(range(values.ndim - 1))
    mean, deviation = (f(values, axis=axes, dtype=np.float64) for f in (np.mean, np.std))
    # A channel that is constant up to float32's rounding is left out.
    varies = deviation > 1e-6 * np.abs(values).max(axis=axes)
    scale = np.where(varies, 1.0 / np.where(varies, deviation, 1.0), 0.0).astype(np.float32)
    return [
        ((part.points[point] - mean.astype(np.float32)) * scale, part.labels)
        for part in (training, held_out)
    ]
