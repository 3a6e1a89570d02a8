"""Recurrent layers and alternating codes in NumPy, written from their formulas, step by step, in double precision."""

from __future__ import annotations

import itertools

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def same(x):
    return x


def layer_norm(x, gates, gain):
    """Brings each gate's values to mean 0 and variance 1."""
    parts = [(p - p.mean(-1, keepdims=True)) / np.sqrt(p.var(-1, keepdims=True) + 1e-5) for p in np.split(x, gates, -1)]
    return np.concatenate(parts, -1) * gain


def lstm(x, w, u, b, *, quantize=same, norms=(same, same)):
    """All hidden states of an LSTM that starts from zeros; gates i, f, c, o."""
    h = c = np.zeros((len(x), u.shape[0]))
    found = []
    for step in range(x.shape[1]):
        i, f, g, o = np.split(norms[0](x[:, step] @ w) + norms[1](h @ u) + b, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = quantize(sigmoid(o) * np.tanh(c))
        found.append(h)
    return np.stack(found, 1)


def gru(x, w, u, b, *, quantize=same, norms=(same, same)):
    """All states of a GRU that starts from zeros, the reset gate after the product; gates z, r, h."""
    h = np.zeros((len(x), u.shape[0]))
    found = []
    for step in range(x.shape[1]):
        x_z, x_r, x_n = np.split(norms[0](x[:, step] @ w) + b[0], 3, -1)
        u_z, u_r, u_n = np.split(norms[1](h @ u) + b[1], 3, -1)
        z, r = sigmoid(x_z + u_z), sigmoid(x_r + u_r)
        h = quantize(z * h + (1 - z) * np.tanh(x_n + r * u_n))
        found.append(h)
    return np.stack(found, 1)


def simple_rnn(x, w, u, b, *, quantize=same, norms=(same, same)):
    """All states of a plain recurrent layer that starts from zeros."""
    h = np.zeros((len(x), u.shape[0]))
    found = []
    for step in range(x.shape[1]):
        h = quantize(np.tanh(norms[0](x[:, step] @ w) + norms[1](h @ u) + b))
        found.append(h)
    return np.stack(found, 1)


def alternating(row, num_bits, rounds=2):
    """Xu et al., algorithms 1 and 2, for one row: least squares by NumPy, the nearest of all sums by trying them."""
    row = np.asarray(row, np.float64)
    rest, signs = row.copy(), []
    for _ in range(num_bits):
        signs.append(np.where(rest >= 0, 1.0, -1.0))
        rest = rest - np.abs(rest).mean() * signs[-1]
    signs = np.stack(signs, -1)
    for _ in range(rounds):
        coefficients = np.linalg.lstsq(signs, row, rcond=None)[0]
        choices = np.array(list(itertools.product((-1.0, 1.0), repeat=num_bits)))
        signs = choices[np.abs(row[:, None] - choices @ coefficients).argmin(-1)]
    return signs @ coefficients
