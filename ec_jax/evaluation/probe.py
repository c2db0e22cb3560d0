"""Linear probes: how well a new linear head on the frozen features tells the classes apart."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ec_jax import parallel
from ec_jax.evaluation.features import Context, Features
from ec_jax.rng import generator

TRAINING = ("forget_train", "retain_train")
TESTS = ("forget_test", "retain_test")
# Of equally good strengths the first is taken: the strongest.
L2_GRID = (1e-1, 1e-2, 1e-3, 1e-4)
HELD_OUT = 0.2  # share of every class's training examples on which the strength is chosen
# The objective is l2-strongly convex in W: a gradient this small leaves it within
# TOLERANCE**2 / (2 l2) of its minimum, 5e-7 for the weakest strength above.
TOLERANCE = 1e-5
MAX_ITERATIONS = 50  # Newton steps; 5 to 15 are common
_CG_LIMIT = 200  # products with the Hessian a Newton step
_TINY = 1e-20

_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Probes(NamedTuple):
    """Linear heads of s stages, g strengths each; scores are ``x @ weights + bias``.

    Attributes:
      weights: float32 [s, g, d, C].
      bias: float32 [s, g, C]; -inf for classes without a training example.
      converged: bool [s, g], the norm of the gradient is at most ``TOLERANCE``.
    """

    weights: jax.Array
    bias: jax.Array
    converged: jax.Array


def fit_probes(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    l2: np.ndarray,
    *,
    included: np.ndarray | None = None,
    max_iterations: int = MAX_ITERATIONS,
    mesh: Mesh | None = None,
) -> Probes:
    """Multinomial logistic regression, every stage and every strength at once.

    Minimises mean_i −log softmax(Wᵀx_i + b)_{y_i} + (l2/2)‖W‖² over the included examples.
    The bias is free. Classes without an included example are left out of the softmax (their
    bias would run to −∞) and never predicted; a single class is always predicted.

    The optimiser is Newton's method on all examples: each step solves with the Hessian by
    conjugate gradients, and is halved where it goes too far. The objective is convex, so a
    vanishing gradient means its minimum. It draws nothing and is deterministic.

    Args:
      features: float [s, n, d], finite, n ≥ 1; of like scale, as the penalty is the same for
        all. Columns of zeros change nothing: narrow stages are padded with them.
      labels: integer [n], in [0, num_classes).
      num_classes: C.
      l2: float [s, g], positive.
      included: bool [n], at least one true; None: all examples.
      max_iterations: Newton steps at most; a fit cut short is not ``converged``.
      mesh: of the devices, of all processes, over which the examples are cut; None: one device.

    Returns:
      Probes, in every process.

    Raises:
      ValueError: no example is included, or a strength is not positive.

    Source:
      Alain and Bengio 2016, arXiv 1610.01644 (linear probes); Nocedal and Wright 2006,
      algorithm 7.1 (Newton's method with conjugate gradients).

    >>> features = np.array([[[-1.0], [1.0]]], np.float32)
    >>> probes = fit_probes(features, np.array([1, 0]), 2, np.array([[0.1]]))
    >>> np.argmax(features[0] @ probes.weights[0, 0] + probes.bias[0, :1], axis=-1).tolist()
    [1, 0]
    """
    included = np.ones(len(labels), bool) if included is None else np.asarray(included, bool)
    l2 = np.asarray(l2, np.float32)
    if not included.any():
        raise ValueError("a probe needs at least one training example")
    if not (l2 > 0).all():
        raise ValueError(f"l2 = {l2.tolist()}: must be positive, or no optimum may exist")
    mesh = mesh or parallel.one_device()
    # The examples first, as they are what is cut.
    rows = np.moveaxis(np.asarray(features, np.float32), 1, 0), np.asarray(labels, np.int32)
    shares = np.asarray(included / included.sum(), np.float32)
    rows, valid = parallel.shard_rows((*rows, shares), mesh)
    settings = parallel.replicate((l2, np.int32(max_iterations)), mesh)
    return parallel.here(_fit(mesh)(*rows, valid, *settings, num_classes=num_classes))


@functools.cache
def _fit(mesh: Mesh) -> Callable:
    return parallel.whole_result(_fit_all, mesh, static_argnames="num_classes")


def _fit_all(
    rows: jax.Array,
    labels: jax.Array,
    shares: jax.Array,
    valid: jax.Array,
    l2: jax.Array,
    max_iterations: jax.Array,
    *,
    num_classes: int,
) -> Probes:
    features, shares = jnp.moveaxis(rows, 0, 1), jnp.where(valid, shares, 0.0)
    targets = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)

    def fit_stage(inputs, strengths):
        return _fit_stage(inputs, targets, shares, strengths, max_iterations)

    return _each(fit_stage, features, l2)


def _each(fit: Callable[..., Any], *rows: jax.Array) -> Any:
    """``fit`` of every row of the arrays.

    Side by side where one fit would leave an accelerator idle. All of them then take as many steps
    as the slowest, so that a CPU, which one fit keeps busy, makes them one after the other.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda row: fit(*row), rows)
    return jax.vmap(fit)(*rows)


def _fit_stage(
    features: jax.Array, targets: jax.Array, shares: jax.Array, l2: jax.Array, limit: jax.Array
) -> Probes:
    """One stage, [n, d], with every strength of ``l2``, [g]; ``shares`` [n] sum to one."""
    present = _matmul(shares, targets) > 0
    # On the principal axes of centred features the Hessian is near a diagonal one. Neither
    # changes the objective: the bias is free, and the norm of W is the same on all axes.
    mean = _matmul(shares, features)
    centred = features - mean[None]
    variances, axes = jnp.linalg.eigh(_matmul((shares[:, None] * centred).T, centred))
    rotated = _matmul(centred, axes)
    inputs = jnp.concatenate([rotated, jnp.ones((len(rotated), 1))], axis=1)
    spread = jnp.append(jnp.maximum(variances, 0.0), 1.0)

    def fit(strength):
        return _newton(inputs, targets, shares, present, spread, strength, limit)

    heads, converged = _each(fit, l2)
    weights = _matmul(axes, heads[:, :-1])
    bias = heads[:, -1] - _matmul(mean, weights)
    return Probes(weights, jnp.where(present[None], bias, -jnp.inf), converged)


def _newton(
    inputs: jax.Array,
    targets: jax.Array,
    shares: jax.Array,
    present: jax.Array,
    spread: jax.Array,
    l2: jax.Array,
    limit: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Head [d + 1, C], the bias last, and whether it converged; ``spread`` is E[inputs²]."""
    penalty = l2 * jnp.append(jnp.ones(len(spread) - 1), 0.0)[:, None]

    def probabilities(scores):
        return jax.nn.softmax(jnp.where(present[None], scores, -jnp.inf))

    def gradient(head, likely):
        return _matmul(inputs.T, shares[:, None] * (likely - targets)) + penalty * head

    def direction(slope, likely):
        weighted = shares[:, None] * likely

        def hessian(head):
            moves = _matmul(inputs, head)
            mean = jnp.sum(likely * moves, axis=1, keepdims=True)
            return _matmul(inputs.T, weighted * (moves - mean)) + penalty * head

        doubt = jnp.sum(weighted * (1.0 - likely), axis=0)
        scale = jnp.maximum(spread[:, None] * doubt[None] + penalty, _TINY)
        return _conjugate_gradients(hessian, -slope, scale)

    def step_length(head, scores, step, moves):
        def rise(length):  # the objective's derivative along the step
            errors = shares[:, None] * (probabilities(scores + length * moves) - targets)
            return jnp.sum(errors * moves) + jnp.sum(penalty * (head + length * step) * step)

        # Derivatives, not values: near the optimum float32 no longer tells values apart.
        allowed = 0.1 * jnp.abs(rise(jnp.float32(0.0)))

        def too_far(length):
            return (rise(length) > allowed) & (length > 1e-3)

        return jax.lax.while_loop(too_far, lambda length: 0.5 * length, jnp.float32(1.0))

    def unfinished(state):
        _, _, slope, count = state
        return (_norm(slope) > TOLERANCE) & (count < limit)

    def advance(state):
        head, likely, slope, count = state
        step = direction(slope, likely)
        scores, moves = _matmul(inputs, head), _matmul(inputs, step)
        head = head + step_length(head, scores, step, moves) * step
        likely = probabilities(_matmul(inputs, head))
        return head, likely, gradient(head, likely), count + 1

    start = jnp.zeros((len(spread), targets.shape[1]))
    likely = probabilities(jnp.zeros_like(targets))
    state = start, likely, gradient(start, likely), jnp.int32(0)
    head, _, slope, _ = jax.lax.while_loop(unfinished, advance, state)
    return head, _norm(slope) <= TOLERANCE


def _conjugate_gradients(
    hessian: Callable[[jax.Array], jax.Array], target: jax.Array, scale: jax.Array
) -> jax.Array:
    """x with ‖hessian(x) − target‖ ≤ 0.05 ‖target‖, ``scale`` near the Hessian's diagonal."""
    goal = 0.05 * _norm(target)

    def unfinished(state):
        _, residual, _, _, count = state
        return (_norm(residual) > goal) & (count < _CG_LIMIT)

    def advance(state):
        x, residual, search, energy, count = state
        image = hessian(search)
        length = energy / jnp.maximum(jnp.sum(search * image), _TINY)
        x, residual = x + length * search, residual - length * image
        fresh = jnp.sum(residual * residual / scale)
        search = residual / scale + fresh / jnp.maximum(energy, _TINY) * search
        return x, residual, search, fresh, count + 1

    search = target / scale
    energy = jnp.sum(target * search)
    state = jnp.zeros_like(target), target, search, energy, jnp.int32(0)
    return jax.lax.while_loop(unfinished, advance, state)[0]


def _norm(values: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(values)))


def held_out(labels: np.ndarray) -> np.ndarray:
    """Which training examples choose the L2 strength: a fifth of each class, rounded down.

    The draw depends on the labels alone, so every model of a run is judged on the same ones.
    Every class that is held out is also trained on.

    Args:
      labels: integer [n].

    Returns:
      bool [n].

    >>> int(held_out(np.array([0] * 10 + [1] * 4)).sum())
    2
    """
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = generator(0, "evaluation", "probe", int(label)).permutation(members)
        chosen[order[: int(HELD_OUT * len(members))]] = True
    return chosen


def run(features: Mapping[str, Features], context: Context) -> dict[str, float]:
    """``probe/SPLIT/POINT`` and ``probe_converged/POINT``: a new head on every point.

    One linear head a point is trained on both training splits with their true labels, all
    classes: a high value on ``forget_test`` says that a linear read-out brings the forgotten
    classes back. Features are standardised by the training splits' mean and deviation; those
    that are constant there are not used. The L2 strength, of ``L2_GRID``, is the one with the
    lowest log-loss on ``held_out`` examples (the strongest where there are too few examples to
    hold any out); then the head is trained again on all.

    Args:
      features: {split: Features} of the measured model; maps are averaged over space first.
      context: of which the mesh is used.

    Returns:
      {key: percent in [0, 100]}, and ``probe_converged/POINT``: 1.0 if every fit of the point,
      the grid's too, reached its optimum, else 0.0: the percentage is then a lower bound of
      unknown distance. Features that are not finite give NaN, and 0.0 if they are the training
      splits'. Splits without examples are left out; nothing without training examples.

    Source:
      Alain and Bengio 2016, arXiv 1610.01644.
    """
    parts = [features[s] for s in TRAINING if s in features and len(features[s].labels)]
    splits = [s for s in TESTS if s in features and len(features[s].labels)]
    if not splits or not parts:
        return {}
    labels = np.concatenate([part.labels for part in parts])
    points = list(features[splits[0]].points)
    training = {p: np.concatenate([pooled(part.points[p]) for part in parts]) for p in points}
    result = {f"probe/{split}/{p}": float("nan") for p in points for split in splits}
    result |= {f"probe_converged/{p}": 0.0 for p in points}
    finite = [p for p in points if np.isfinite(training[p]).all()]
    if not finite:
        return result
    scalings = {p: scaling(training[p]) for p in finite}
    scaled = [standardised(training[p], scalings[p]) for p in finite]
    heads = _train(scaled, labels, parts[0].logits.shape[-1], context.mesh)
    for point, (weights, bias, converged) in zip(finite, heads, strict=True):
        result[f"probe_converged/{point}"] = float(converged)
        for split in splits:
            queries = pooled(features[split].points[point])
            if np.isfinite(queries).all():
                # float64: a test example may lie any number of deviations away.
                scores = standardised(queries, scalings[point]) @ weights + bias
                hits = scores.argmax(axis=1) == features[split].labels
                result[f"probe/{split}/{point}"] = 100.0 * float(np.mean(hits))
    return result


def _train(
    stages: Sequence[np.ndarray], labels: np.ndarray, num_classes: int, mesh: Mesh | None
) -> list[tuple[np.ndarray, np.ndarray, bool]]:
    """(weights [d, C], bias [C], converged) of each stage, [n, d] standardised."""
    width = max(stage.shape[1] for stage in stages)
    stacked = np.zeros((len(stages), len(labels), width), np.float32)
    for row, stage in zip(stacked, stages, strict=True):
        row[:, : stage.shape[1]] = stage
    held = held_out(labels)
    grid = np.tile(np.float32(L2_GRID), (len(stages), 1))
    trials = fit_probes(stacked, labels, num_classes, grid, included=~held, mesh=mesh)
    losses = _losses(trials, stacked[:, held], labels[held])
    best = np.take_along_axis(grid, losses.argmin(axis=1)[:, None], axis=1)
    final = fit_probes(stacked, labels, num_classes, best, mesh=mesh)
    converged = np.asarray(trials.converged).all(axis=1) & np.asarray(final.converged)[:, 0]
    weights, bias = np.asarray(final.weights)[:, 0], np.asarray(final.bias)[:, 0]
    return [
        (weights[i, : stage.shape[1]], bias[i], bool(converged[i]))
        for i, stage in enumerate(stages)
    ]


def _losses(probes: Probes, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Summed log-loss of every probe, [s, g], on [s, n, d]; 0 without examples."""
    scores = _matmul(features[:, None], probes.weights) + probes.bias[:, :, None]
    logs = jax.nn.log_softmax(scores)
    return -np.asarray(logs)[:, :, np.arange(len(labels)), labels].sum(axis=2)


def pooled(values: np.ndarray) -> np.ndarray:
    """[n, ..., d] to float64 [n, d], averaged over space."""
    return values.mean(axis=tuple(range(1, values.ndim - 1)), dtype=np.float64)


def scaling(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What ``standardised`` needs of the training examples.

    Args:
      values: float64 [n, d], n ≥ 1.

    Returns:
      Mean and inverse deviation of each column, float64 [d]; the latter is 0 for a column that
      is constant up to float32's rounding.
    """
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    varies = deviation > 1e-6 * np.abs(values).max(axis=0)
    return mean, np.where(varies, 1.0 / np.where(varies, deviation, 1.0), 0.0)


def standardised(values: np.ndarray, moments: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """float64 [n, d] less the mean, times the inverse deviation, of ``scaling``."""
    mean, scale = moments
    return (values - mean) * scale
