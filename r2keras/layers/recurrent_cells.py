"""The cells of the quantized recurrent layers: Keras' own weights and masks, and the steps of `r2keras.ops`."""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras
from keras import ops

from r2keras.ops.gates import gate_product, masked, unit_columns
from r2keras.ops.gru import gru_step
from r2keras.ops.lstm import lstm_step
from r2keras.ops.simple_rnn import simple_rnn_step

LIVE = ("_initializer", "_regularizer", "_constraint", "activation")


class GatedCell:
    """Adds to a Keras cell what it takes to compute all input products before the time loop.

    The layer calls `enter` with the kernels of a call, feeds the products that it returns to the time loop, and calls
    `leave` after it.
    """

    gates = 1
    normalization: str | None = None
    recurrent: Callable | None = None
    quantize: Callable | None = None

    @classmethod
    def like(cls, cell: keras.Layer, normalization: str | None):
        """Returns a cell with the arguments of a Keras cell that has not been built; regularizers are the same ones."""
        config = cell.get_config() | {"dtype": cell.dtype_policy}
        config |= {name: getattr(cell, name) for name in config if name.endswith(LIVE)}
        config |= {"implementation": cell.implementation} if hasattr(cell, "implementation") else {}
        made = cls(**config)
        made.normalization = normalization
        return made

    def build(self, input_shape):
        """Makes Keras' weights, and a gain a column of each kernel where pre-activations are normalised."""
        super().build(input_shape)
        self.gains = {"kernel": None, "recurrent_kernel": None}
        for name in self.gains if self.normalization else ():
            kernel = getattr(self, name)
            gain = self.add_weight(shape=kernel.shape[-1:], initializer="ones", name=f"{name}_gain")
            if self.normalization == "weight":
                gain.assign(ops.norm(kernel.value, axis=0))
            self.gains[name] = gain

    def enter(self, sequences, kernel, recurrent_kernel, quantize, training):
        """Keeps what the steps of this call share, and returns the input's share of the pre-activations.

        Args:
            sequences: `(batch, time, features)`.
            kernel: the input kernel to compute with.
            recurrent_kernel: the recurrent kernel to compute with.
            quantize: what the state goes through at each step, or None.
            training: whether dropout acts.
        """
        dtype, (input_bias, recurrent_bias) = self.compute_dtype, self.biases()
        kernel = self._scaled(ops.cast(kernel, dtype), "kernel")
        recurrent_kernel = self._scaled(ops.cast(recurrent_kernel, dtype), "recurrent_kernel")
        gain = self._norm_gain("recurrent_kernel")
        self.recurrent = functools.partial(self._recurrent_product, recurrent_kernel, recurrent_bias, gain, training)
        self.quantize = quantize
        inputs = self._dropped(ops.cast(sequences, dtype)) if training else ops.cast(sequences, dtype)
        batch, steps, features = ops.shape(sequences)
        flat = keras.tree.map_structure(lambda x: ops.reshape(x, (-1, features)), inputs)
        products = gate_product(flat, kernel, self.gates, gain=self._norm_gain("kernel"), bias=input_bias)
        return ops.reshape(products, (batch, steps, kernel.shape[-1]))

    def leave(self):
        """Forgets what the steps of a call shared."""
        self.recurrent = self.quantize = None

    def biases(self):
        """Returns the biases of the input's and of the state's products, or None."""
        return self.bias, None

    def _dropped(self, sequences):
        """Returns what dropout leaves of the input, by gates if each has a mask of its own; all steps share masks."""
        if not 0.0 < self.dropout < 1.0:
            return sequences
        masks = self.get_dropout_mask(sequences[:, 0, :])
        return masked(sequences, keras.tree.map_structure(lambda mask: mask[:, None], masks))

    def _scaled(self, kernel, name):
        """Returns the kernel with columns of the length of their gains, if its weights are normalised."""
        return unit_columns(kernel, self.gains[name]) if self.normalization == "weight" else kernel

    def _norm_gain(self, name):
        return ops.convert_to_tensor(self.gains[name]) if self.normalization == "layer" else None

    def _recurrent_product(self, kernel, bias, gain, training, h, first=0, last=None):
        """Returns the state's share of the pre-activations of some gates."""
        last = self.gates if last is None else last
        masks = self.get_recurrent_dropout_mask(h) if training and 0.0 < self.recurrent_dropout < 1.0 else None
        if last - first < self.gates:
            part = slice(first * self.units, last * self.units)
            kernel, bias, gain = (value if value is None else value[..., part] for value in (kernel, bias, gain))
            masks = masks[first:last] if isinstance(masks, list) else masks
        return gate_product(masked(h, masks), kernel, last - first, gain=gain, bias=bias)


class SimpleRNNCell(GatedCell, keras.layers.SimpleRNNCell):
    """Keras' cell with the step of `ops.simple_rnn`."""

    def call(self, inputs, states, training=False):
        """Returns the output and the new state; `inputs` are the input's share of the pre-activations."""
        h = simple_rnn_step(inputs, states[0], self.recurrent, activation=self.activation, quantize=self.quantize)
        return h, [h]


class LSTMCell(GatedCell, keras.layers.LSTMCell):
    """Keras' cell with the step of `ops.lstm`."""

    gates = 4

    def call(self, inputs, states, training=False):
        """Returns the output and the new states; `inputs` are the input's share of the pre-activations."""
        functions = {"activation": self.activation, "recurrent_activation": self.recurrent_activation}
        h, c = lstm_step(inputs, *states, self.recurrent, quantize=self.quantize, **functions)
        return h, [h, c]


class GRUCell(GatedCell, keras.layers.GRUCell):
    """Keras' cell with the step of `ops.gru`."""

    gates = 3

    def call(self, inputs, states, training=False):
        """Returns the output and the new state; `inputs` are the input's share of the pre-activations."""
        nested = isinstance(states, (list, tuple))
        functions = {"activation": self.activation, "recurrent_activation": self.recurrent_activation}
        options = functions | {"reset_after": self.reset_after, "quantize": self.quantize}
        h = gru_step(inputs, states[0] if nested else states, self.recurrent, **options)
        return h, [h] if nested else h

    def biases(self):
        """Returns the biases of the input's and of the state's products, or None."""
        if self.bias is None or not self.reset_after:
            return self.bias, None
        return self.bias[0], self.bias[1]
