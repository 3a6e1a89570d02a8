"""A training step that never computes over the whole vocabulary: rows are looked up first, then quantized."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from ptb_lib.model import BATCH, compressors, latent_weights
from ptb_lib.recurrence import recurrence
from ptb_lib.softmax import full_loss, sampled_loss
from r2keras import quantizers

CLIP = 0.25
# Kernels with a row or a column for every word, and the axis of the words.
TABLES = {"embedding": 0, "softmax": 1}


class Step:
    """Stochastic gradient descent on one window, with the global gradient norm clipped at 0.25; keeps the LSTM's state.

    Trains the network's own variables, except that the softmax kernel is a transposed copy until `store` is called.

    Args:
        net: a network of `build`.
        log_weights: log weights of the sampled words (`Sampler`); None computes the softmax over all words.
        dropout: rate of the dropout before and after the LSTM.
        regularizer: called with each kernel, or with the rows of it that a step looks up; None for none.
        commitment: weight of the commitment loss of the LSTM's states (`recurrence`).
    """

    def __init__(
        self,
        net: keras.Model,
        log_weights,
        dropout: float,
        regularizer: Callable | None = None,
        commitment: float = 0.0,
    ):
        self.net = net
        self.dropout = dropout
        self.regularizer = regularizer
        self.commitment = commitment
        self.log_weights = None if log_weights is None else tf.constant(log_weights)
        latent = latent_weights(net)
        self.units = int(latent["recurrent_kernel"].shape[0])
        self.softmax = tf.Variable(tf.transpose(latent["softmax"].value))
        self.variables = {name: variable.value for name, variable in latent.items()} | {"softmax": self.softmax}
        self.compressors = compressors(net)
        quantizer_variables = [v.value for c in self.compressors.values() for v in c.trainable_variables]
        self.trained = [*self.variables.values(), *quantizer_variables]
        self.round = _state_rounding(net)
        self.h, self.c = (tf.Variable(tf.zeros((BATCH, self.units))) for _ in range(2))
        self.generator = tf.random.Generator.from_seed(0)
        self.run = tf.function(self._run, autograph=False, jit_compile=False)

    def begin(self, seed: int) -> None:
        """Resets the LSTM's state to zero and seeds the dropout of the following steps."""
        # Not the global seed: setting it resets the compiled step, which would drop the same units in every epoch.
        self.generator.reset_from_seed(seed)
        for state in (self.h, self.c):
            state.assign(tf.zeros_like(state))

    def store(self) -> None:
        """Writes the softmax kernel back to the network."""
        latent_weights(self.net)["softmax"].assign(tf.transpose(self.softmax))

    def _run(self, words, following, drawn, rate):
        """Takes one step; returns the mean negative log likelihood before it."""
        with tf.GradientTape() as tape:
            loss, penalty = self._loss_and_penalty(words, tf.reshape(tf.transpose(following), (-1,)), drawn)
            total = loss + penalty
        self._descend(tape.gradient(total, self.trained), rate)
        return loss

    def _loss_and_penalty(self, words, following, drawn):
        """Returns the loss and the regularization penalty; the arrays are time-major."""
        kernel, recurrent = self._kernel("kernel"), self._kernel("recurrent_kernel")
        x = self._drop(self._rows("embedding", tf.reshape(tf.transpose(words), (-1,))))
        products = tf.reshape(tf.matmul(x, kernel) + self.variables["lstm_bias"], (-1, BATCH, 4 * self.units))
        states, cell = recurrence(products, recurrent, self.h.value(), self.c.value(), self.round, self.commitment)
        self.h.assign(states[-1])
        self.c.assign(cell)
        hidden = self._drop(tf.reshape(states, (-1, self.units)))
        bias = self.variables["softmax_bias"]
        if self.log_weights is None:
            rows = self._rows("softmax", tf.range(tf.shape(bias)[0]))
            losses = full_loss(hidden, tf.transpose(rows), bias, following)
        else:
            own, rows = self._rows("softmax", following), self._rows("softmax", drawn)
            row_bias = tf.gather(bias, drawn) + self.log_weights
            losses = sampled_loss(hidden, following, own, tf.gather(bias, following), drawn, rows, row_bias)
        return tf.reduce_mean(losses), self._penalty(drawn)

    def _penalty(self, drawn):
        """Returns the regularizer of the LSTM's kernels and of the sampled rows of the softmax."""
        if self.regularizer is None:
            return 0.0
        rows = tf.gather(self.softmax, drawn)
        return sum(self.regularizer(w) for w in (self.variables["kernel"], self.variables["recurrent_kernel"], rows))

    def _drop(self, x):
        """Applies dropout."""
        if not self.dropout:
            return x
        return tf.nn.experimental.stateless_dropout(x, self.dropout, seed=self.generator.make_seeds(1)[:, 0])

    def _kernel(self, name: str):
        """Returns a kernel of the LSTM, quantized."""
        value = tf.convert_to_tensor(self.variables[name])
        return self.compressors[name](value, training=True) if name in self.compressors else value

    def _rows(self, name: str, words):
        """Returns the rows for some words, quantized."""
        compressor = self.compressors.get(name)
        if compressor is None:
            return tf.gather(self.variables[name], words)
        if _quantizes_by_row(compressor, TABLES[name]):
            rows = tf.gather(self.variables[name], words)
            return quantizers.make(compressor.spec, rows.shape, (rows.shape[0], 1))(rows, training=True)
        table = tf.convert_to_tensor(self.variables[name])
        if TABLES[name] == 1:
            return tf.gather(tf.transpose(compressor(tf.transpose(table), training=True)), words)
        return tf.gather(compressor(table, training=True), words)

    def _descend(self, gradients, rate) -> None:
        """Updates every variable along its negative gradient, tables only in the rows that were looked up."""
        gradients = [_deduplicated(gradient) for gradient in gradients]
        parts = [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients if g is not None]
        factor = rate * tf.minimum(1.0, CLIP / tf.linalg.global_norm(parts))
        for variable, gradient in zip(self.trained, gradients, strict=True):
            if isinstance(gradient, tf.IndexedSlices):
                variable.scatter_sub(tf.IndexedSlices(factor * gradient.values, gradient.indices))
            elif gradient is not None:
                variable.assign_sub(factor * gradient)


def _deduplicated(gradient):
    """Sums the gradients of rows that were looked up more than once."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows, segments = tf.unique(tf.reshape(gradient.indices, (-1,)))
    return tf.IndexedSlices(tf.math.unsorted_segment_sum(gradient.values, segments, tf.size(rows)), rows)


def _quantizes_by_row(compressor, axis: int) -> bool:
    """Whether each word's row has its own scale and nothing is learned, so that a subset of rows can be quantized."""
    shape = getattr(compressor, "scale_shape", ())
    per_row = len(shape) == 2 and shape[axis] == compressor.shape[axis] and shape[1 - axis] == 1
    return per_row and not compressor.variables


def _state_rounding(net: keras.Model) -> Callable | None:
    """Returns the quantizer of the LSTM's state; None for float."""
    parts = getattr(net.get_layer("lstm"), "parts", None)
    return parts.state.rounding() if parts is not None and parts.state is not None else None
