"""Linear CKA: one pair of wide features, and the minibatch estimate of all pairs of stages."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import data, timing
from ec_jax.evaluation import cka

TOLERANCE = 1e-4
BATCH_SIZE = 512
LINEAR = "biased linear CKA, features [{}, {}] and as many"
MINIBATCH = "unbiased minibatch CKA, {} samples, two models of 4 stages, all 16 pairs"


def hsic(k: Any, m: Any, h: Any) -> Any:
    """The sum of (HKH) ∘ (HMH) over (n−1)²: equals tr(KHMH)/(n−1)², with a product less."""
    return ((h @ k @ h) * (h @ m @ h)).sum() / (len(k) - 1) ** 2


def textbook(x: Any, y: Any, identity: Any) -> Any:
    """CKA as it is defined: two kernels, centred by products, three HSICs; JAX or PyTorch."""
    h = identity - 1 / len(x)
    k, m = x @ x.T, y @ y.T
    return hsic(k, m, h) / (hsic(k, k, h) * hsic(m, m, h)) ** 0.5


def _linear(smoke: bool, against: str, other: Callable) -> dict[str, Any]:
    n, d = (16, 40) if smoke else (512, 2048)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((n, d), np.float32)
    y = 0.5 * x + generator.standard_normal((n, d), np.float32)
    on_device = jnp.asarray(x), jnp.asarray(y)
    times = timing.compare(
        lambda: float(cka.linear_cka(*on_device)),
        other(x, y),
        pairs=2 if smoke else 101,
        difference=timing.largest_difference,
        allowed=TOLERANCE,
    )
    return {"what": LINEAR.format(n, d), "against": against, **times}


def linear_jax(smoke: bool) -> dict[str, Any]:
    """``linear_cka`` against the definition, compiled by JAX."""

    def other(x: np.ndarray, y: np.ndarray) -> Callable[[], float]:
        compiled = jax.jit(lambda x, y: textbook(x, y, jnp.eye(len(x))))
        x, y = jnp.asarray(x), jnp.asarray(y)
        return lambda: float(compiled(x, y))

    return _linear(smoke, "the definition in JAX, jitted", other)


def linear_torch(smoke: bool) -> dict[str, Any]:
    """``linear_cka`` against the definition in PyTorch."""

    def other(x: np.ndarray, y: np.ndarray) -> Callable[[], float]:
        x, y = torch.from_numpy(x), torch.from_numpy(y)
        return lambda: float(textbook(x, y, torch.eye(len(x))))

    return _linear(smoke, "the definition in PyTorch, eager", _with_all_cores(other))


def _with_all_cores(make: Callable[..., Callable]) -> Callable[..., Callable]:
    """PyTorch on as many cores as JAX takes, without gradients."""

    def made(*arguments: Any) -> Callable:
        torch.set_num_threads(timing.cores())
        return torch.no_grad()(make(*arguments))

    return made


def hsic1(k: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """HSIC₁ term by term, equation 3 of arXiv 2010.15327; diagonals are zero."""
    n = len(k)
    one = torch.ones(n, 1)
    sums = (one.T @ k @ one) * (one.T @ m @ one) / ((n - 1) * (n - 2))
    total = torch.trace(k @ m) + sums - 2 / (n - 2) * (one.T @ k @ m @ one)
    return total.squeeze() / (n * (n - 3))


def hsic1_from_sums(k: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """The same without a product of two kernels, which are symmetric."""
    n = len(k)
    a, b = k.sum(0), m.sum(0)
    sums = a.sum() * b.sum() / ((n - 1) * (n - 2))
    return ((k * m).sum() + sums - 2 / (n - 2) * (a @ b)) / (n * (n - 3))


def _kernel(rows: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(rows)
    return (x @ x.T).fill_diagonal_(0)


def pair_by_pair(xs: list, ys: list, slices: list[slice]) -> np.ndarray:
    """The usual loop: every pair's three HSIC₁ anew, a model's kernel made where it is used."""
    sums = torch.zeros(3, len(xs), len(ys))
    for part in slices:
        for i, x in enumerate(xs):
            k = _kernel(x[part])
            for j, y in enumerate(ys):
                m = _kernel(y[part])
                sums[:, i, j] += torch.stack([hsic1(k, m), hsic1(k, k), hsic1(m, m)])
    return (sums[0] / torch.sqrt(sums[1] * sums[2])).numpy()


def kernels_once(xs: list, ys: list, slices: list[slice]) -> np.ndarray:
    """A careful loop: kernels and their norms once a minibatch, sums in place of products."""
    xy, xx, yy = torch.zeros(len(xs), len(ys)), torch.zeros(len(xs)), torch.zeros(len(ys))
    for part in slices:
        ks, ms = ([_kernel(x[part]) for x in group] for group in (xs, ys))
        xy += torch.stack([torch.stack([hsic1_from_sums(k, m) for m in ms]) for k in ks])
        xx += torch.stack([hsic1_from_sums(k, k) for k in ks])
        yy += torch.stack([hsic1_from_sums(m, m) for m in ms])
    return (xy / torch.sqrt(xx[:, None] * yy[None])).numpy()


def streamed(xs: list, ys: list, slices: list[slice]) -> np.ndarray:
    """``init``, ``update``, ``result`` of ``ec_jax.evaluation.cka``."""
    state = cka.init(len(xs), len(ys))
    for part in slices:
        state = cka.update(state, tuple(x[part] for x in xs), tuple(y[part] for y in ys))
    return np.asarray(cka.result(state))


def _minibatch(loop: Callable, against: str, pairs: int, smoke: bool) -> dict[str, Any]:
    # Parts of one size, so that the plain mean is the mean weighted by rows.
    rows, batch_size, pairs = (60, 20, 2) if smoke else (10_000, BATCH_SIZE, pairs)
    xs, ys = data.stages(0, rows)
    slices = cka.minibatch_slices(rows, batch_size)
    times = timing.compare(
        functools.partial(streamed, xs, ys, slices),
        _with_all_cores(functools.partial)(loop, xs, ys, slices),
        pairs=pairs,
        difference=timing.largest_difference,
        allowed=TOLERANCE,
    )
    return {"what": MINIBATCH.format(rows), "against": against, **times}


minibatch_torch = functools.partial(_minibatch, pair_by_pair, "PyTorch, pair by pair", 7)
minibatch_torch_careful = functools.partial(
    _minibatch, kernels_once, "PyTorch, kernels once a minibatch", 15
)
