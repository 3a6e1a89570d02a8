"""Recurrent layers and a small convolutional net in NumPy, step by step from their formulas."""

from __future__ import annotations

import numpy as np


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def lstm(x, kernel, recurrent, bias):
    """Every hidden state of an LSTM, gates in the order i, f, c, o: `(batch, time, units)`."""
    units = recurrent.shape[0]
    h = c = np.zeros((len(x), units))
    states = []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent + bias, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.stack(states, 1)


def gru(x, kernel, recurrent, bias):
    """Every hidden state of a GRU that resets after the product, gates in the order z, r, h."""
    h = np.zeros((len(x), recurrent.shape[0]))
    states = []
    for t in range(x.shape[1]):
        xz, xr, xh = np.split(x[:, t] @ kernel + bias[0], 3, axis=-1)
        hz, hr, hh = np.split(h @ recurrent + bias[1], 3, axis=-1)
        z = sigmoid(xz + hz)
        h = z * h + (1 - z) * np.tanh(xh + sigmoid(xr + hr) * hh)
        states.append(h)
    return np.stack(states, 1)


def simple_rnn(x, kernel, recurrent, bias):
    """Every hidden state of `h = tanh(x W + h R + b)`."""
    h = np.zeros((len(x), recurrent.shape[0]))
    states = []
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ kernel + h @ recurrent + bias)
        states.append(h)
    return np.stack(states, 1)


def conv(x, kernel, bias):
    """A convolution without padding, stride 1, channels last."""
    height, width = kernel.shape[:2]
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    parts = [
        [np.tensordot(x[:, r : r + height, c : c + width], kernel, ([1, 2, 3], [0, 1, 2])) for c in range(columns)]
        for r in range(rows)
    ]
    return np.stack([np.stack(part, 1) for part in parts], 1) + bias


def normalized(x, gamma, beta, mean, variance, epsilon=1e-3):
    """Batch normalization with its moving statistics."""
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta
