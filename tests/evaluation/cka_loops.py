"""CKA by loops over its definition."""

import numpy as np


def kernel(x):
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    return np.array([[sum(p * q for p, q in zip(a, b, strict=True)) for b in x] for a in x])


def hsic0(k, m):
    n = len(k)
    centre = np.eye(n) - np.ones((n, n)) / n
    return np.trace(centre @ k @ centre @ centre @ m @ centre)


def hsic1(k, m):
    """Equation 3 of Nguyen et al. 2021, term by term."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    sums = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + sums - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def reference(x, y, hsic, of=kernel):
    k, m = of(x), of(y)
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def streaming_reference(batches):
    """Means weighted by rows, then the division; batches of [(xs, ys)]."""
    kernels = [[[kernel(a) for a in group] for group in batch] for batch in batches]

    def total(p, i, q, j):
        return sum(len(b[p][i]) * hsic1(b[p][i], b[q][j]) for b in kernels)

    def one(i, j):
        return total(0, i, 1, j) / np.sqrt(total(0, i, 0, i) * total(1, j, 1, j))

    num_x, num_y = map(len, batches[0])
    return np.array([[one(i, j) for j in range(num_y)] for i in range(num_x)])
