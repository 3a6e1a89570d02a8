"""The loss over the vocabulary: over all words, which dominates the training step, or over a sample of them."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import ops

# Words that every sample contains; of the rarer words it has one in STRIDE.
FREQUENT = 1000
STRIDE = 9


class Sampler:
    """Samples the words of the softmax sum: the 1,000 most frequent ones, and every ninth of the others.

    With weights 1 and 9 the expected sum over a sample is the sum over all words.

    Args:
        size: number of words in the vocabulary, which lists the most frequent first.
        seed: seed of the samples.
    """

    def __init__(self, size: int, seed: int):
        self._rng = np.random.default_rng(seed)
        self._frequent = np.arange(min(FREQUENT, size), dtype=np.int32)
        self._rest = max(size - FREQUENT, 0) // STRIDE
        weight = (size - len(self._frequent)) / max(self._rest, 1)
        self.log_weights = np.zeros(len(self._frequent) + self._rest, np.float32)
        self.log_weights[len(self._frequent) :] = math.log(max(weight, 1.0))

    def draw(self) -> np.ndarray:
        """Returns the words of one sample, int32, as many as `log_weights`."""
        start = FREQUENT + self._rng.integers(STRIDE)
        rest = np.arange(start, start + STRIDE * self._rest, STRIDE, dtype=np.int32)
        return np.concatenate([self._frequent, rest])


def full_loss(hidden, kernel, bias, words):
    """Returns `-log softmax(hidden @ kernel + bias)[words]`, with the shape of `words`.

    Args:
        hidden: `(n, units)`.
        kernel: `(units, vocabulary)`.
        bias: `(vocabulary,)`.
        words: `(n,)`, the target words.
    """
    return keras.losses.sparse_categorical_crossentropy(words, ops.matmul(hidden, kernel) + bias, from_logits=True)


def sampled_loss(hidden, words, own, own_bias, drawn, rows, row_bias):
    """Returns `log(exp(own logit) + sum_j exp(logit_j)) - own logit`, with `j` over the other words of the sample.

    Args:
        hidden: `(n, units)`.
        words: `(n,)`, the target words.
        own: `(n, units)`, the rows of the softmax weights for the target words.
        own_bias: `(n,)`, their biases.
        drawn: `(m,)`, the words of the sample.
        rows: `(m, units)`, the rows of the softmax weights for the sample.
        row_bias: `(m,)`, their biases plus the logarithms of their weights in the sum.
    """
    own_logits = ops.sum(hidden * own, axis=-1) + own_bias
    logits = ops.matmul(hidden, ops.transpose(rows)) + row_bias
    others = ops.where(ops.equal(drawn, words[:, None]), -1e9, logits)
    all_logits = ops.concatenate([own_logits[:, None], others], axis=-1)
    return keras.losses.sparse_categorical_crossentropy(ops.zeros_like(words), all_logits, from_logits=True)
