"""Differentiable k-means straight from the paper's formula: the whole map of weights by centroids at every step."""

from __future__ import annotations

import numpy as np
from keras import ops


def naive_dkm(vectors, codebook, temperature, steps=3):
    """The formula in `keras.ops`, differentiated by the backend: `(n, d)` vectors, `(k, d)` centroids."""
    tau = temperature * ops.stop_gradient(ops.mean(ops.var(vectors, axis=0)))
    for _ in range(steps):
        shares = assignment(vectors, codebook, tau)
        mass = ops.reshape(ops.sum(shares, axis=0), (-1, 1))
        # A centroid that gets nothing stays; 0 / 0 would make its gradient NaN.
        moved = ops.matmul(ops.transpose(shares), vectors) / ops.maximum(mass, 1e-6)
        codebook = ops.where(mass > 1e-6, moved, codebook)
    return ops.matmul(assignment(vectors, codebook, tau), codebook), codebook


def assignment(vectors, codebook, tau):
    """`softmax_j(-|w_i - c_j|^2 / tau)`."""
    distances = ops.sum(ops.square(ops.expand_dims(vectors, 1) - ops.expand_dims(codebook, 0)), axis=-1)
    return ops.softmax(-distances / tau, axis=-1)


def numpy_dkm(vectors, codebook, temperature, steps=3):
    """The formula in NumPy, in float64; a centroid that gets nothing stays."""
    vectors, codebook = np.asarray(vectors, np.float64), np.asarray(codebook, np.float64)
    tau = temperature * vectors.var(axis=0).mean()
    for _ in range(steps):
        shares = numpy_assignment(vectors, codebook, tau)
        mass = shares.sum(axis=0)[:, None]
        codebook = np.where(mass > 1e-6, shares.T @ vectors / np.maximum(mass, 1e-6), codebook)
    return numpy_assignment(vectors, codebook, tau) @ codebook, codebook


def numpy_assignment(vectors, codebook, tau):
    """The soft assignment in float64."""
    logits = -((vectors[:, None] - codebook[None]) ** 2).sum(axis=-1) / tau
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def brute_force(values, weights, k):
    """The least squared error of `k` centroids over scalars, by trying every cut of the sorted values."""
    order = np.argsort(values)
    x, m = np.asarray(values, np.float64)[order], np.asarray(weights, np.float64)[order]

    def cost(i, j):
        mean = np.average(x[i:j], weights=m[i:j]) if m[i:j].sum() > 0 else 0.0
        return float((m[i:j] * (x[i:j] - mean) ** 2).sum())

    best = [cost(0, j) if j else 0.0 for j in range(len(x) + 1)]
    for _ in range(k - 1):
        best = [min(best[i] + cost(i, j) for i in range(j + 1)) if j else 0.0 for j in range(len(x) + 1)]
    return best[-1]


def squared_error(vectors, codebook, weights=1.0):
    """The weighted squared error of the nearest of `(k, d)` centroids, in float64."""
    distances = ((np.asarray(vectors, np.float64)[:, None] - np.asarray(codebook, np.float64)[None]) ** 2).sum(-1)
    return float((weights * distances.min(axis=1)).sum())
