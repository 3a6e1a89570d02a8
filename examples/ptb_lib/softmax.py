"""The loss over the vocabulary, most of a step if it is full: over all words, or over a sample of the rare ones."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import ops

FREQUENT = 1000
STRIDE = 9


class Sampler:
    """Draws the words of a training step's sum: the most frequent 1,000, and every ninth of the others.

    With weights 1 and 9 the sum over the drawn words is, in the mean over the draws, the sum over all words.

    Args:
        size: words of the vocabulary, most frequent first.
        seed: draws which ninths.
    """

    def __init__(self, size: int, seed: int):
        self._rng = np.random.default_rng(seed)
        self._frequent = np.arange(min(FREQUENT, size), dtype=np.int32)
        self._rest = max(size - FREQUENT, 0) // STRIDE
        weight = (size - len(self._frequent)) / max(self._rest, 1)
        self.log_weights = np.zeros(len(self._frequent) + self._rest, np.float32)
        self.log_weights[len(self._frequent) :] = math.log(max(weight, 1.0))

    def draw(self) -> np.ndarray:
        """Returns the words of one draw, int32, as many as `log_weights`."""
        start = FREQUENT + self._rng.integers(STRIDE)
        rest = np.arange(start, start + STRIDE * self._rest, STRIDE, dtype=np.int32)
        return np.concatenate([self._frequent, rest])


def full_loss(hidden, kernel, bias, words):
    """Returns `-log softmax(hidden @ kernel + bias)[words]`, shaped like `words`.

    Args:
        hidden: `(n, units)`.
        kernel: `(units, vocabulary)`.
        bias: `(vocabulary,)`.
        words: `(n,)`, the words that came.
    """
    return keras.losses.sparse_categorical_crossentropy(words, ops.matmul(hidden, kernel) + bias, from_logits=True)


def sampled_loss(hidden, words, own, own_bias, drawn, rows, row_bias):
    """Returns `log(exp(own logit) + sum_j exp(logit_j)) - own logit`, `j` over the other drawn words.

    Args:
        hidden: `(n, units)`.
        words: `(n,)`, the words that came.
        own: `(n, units)`, their rows of the softmax' weights.
        own_bias: `(n,)`.
        drawn: `(m,)`, the words of the draw.
        rows: `(m, units)`, their rows.
        row_bias: `(m,)`, their biases plus the logarithms of their weights in the sum.
    """
    own_logits = ops.sum(hidden * own, axis=-1) + own_bias
    logits = ops.matmul(hidden, ops.transpose(rows)) + row_bias
    others = ops.where(ops.equal(drawn, words[:, None]), -1e9, logits)
    every = ops.concatenate([own_logits[:, None], others], axis=-1)
    return keras.losses.sparse_categorical_crossentropy(ops.zeros_like(words), every, from_logits=True)
