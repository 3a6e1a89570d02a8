"""Recurrent cells whose products with the input precede the time loop: Keras' weights, the steps of `r2keras.ops`."""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras
from keras import ops

from r2keras.ops.dynamic import dynamic_quantize
from r2keras.ops.gates import gate_product, masked, unit_columns
from r2keras.ops.gru import gru_step
from r2keras.ops.lstm import lstm_step
from r2keras.ops.simple_rnn import simple_rnn_step

# Endings of the cell arguments that are objects.
OBJECT_ARGUMENTS = ("_initializer", "_regularizer", "_constraint", "activation")


class GatedCell:
    """Mixin for a Keras cell that computes all products with the input before the time loop.

    The layer calls `begin_call` with the kernels of a call, feeds the products that it returns to the time loop, and
    calls `end_call` after it.
    """

    # Number of gates side by side in a kernel.
    gates = 1
    normalization: str | None = None
    # Whether rows are rounded to 8 bits in front of the kernels.
    rounds_rows = False
    # Set during a call: the state's part of the pre-activations as a function, and the quantization of the state.
    recurrent: Callable | None = None
    quantize: Callable | None = None

    @classmethod
    def like(cls, cell: keras.Layer, normalization: str | None) -> GatedCell:
        """Returns a new cell with the arguments of an unbuilt Keras cell."""
        config = cell.get_config() | {"dtype": cell.dtype_policy}
        # The cell's own objects instead of their configs, so that a regularizer stays the caller's instance.
        config |= {name: getattr(cell, name) for name in config if name.endswith(OBJECT_ARGUMENTS)}
        if hasattr(cell, "implementation"):
            # Not part of the cell's config.
            config["implementation"] = cell.implementation
        new_cell = cls(**config)
        new_cell.normalization = normalization
        return new_cell

    def build(self, input_shape):
        """Creates Keras' weights and, for normalized pre-activations, one gain per column of each kernel."""
        super().build(input_shape)
        self.gains = {"kernel": None, "recurrent_kernel": None}
        if not self.normalization:
            return
        for name in self.gains:
            kernel = getattr(self, name)
            gain = self.add_weight(shape=kernel.shape[-1:], initializer="ones", name=f"{name}_gain")
            if self.normalization == "weight":
                gain.assign(ops.norm(kernel.value, axis=0))
            self.gains[name] = gain

    def begin_call(self, sequences, kernel, recurrent_kernel, quantize, training):
        """Stores what the steps of this call share, and returns the input's part of the pre-activations.

        Args:
            sequences: `(batch, time, features)`.
            kernel: the input kernel to compute with.
            recurrent_kernel: the recurrent kernel to compute with.
            quantize: function that quantizes the state at each step, or None.
            training: whether dropout is active.
        """
        dtype = self.compute_dtype
        input_bias, recurrent_bias = self.biases()
        kernel = self._scaled(ops.cast(kernel, dtype), "kernel")
        recurrent_kernel = self._scaled(ops.cast(recurrent_kernel, dtype), "recurrent_kernel")
        gain = self._norm_gain("recurrent_kernel")
        self.recurrent = functools.partial(self._recurrent_product, recurrent_kernel, recurrent_bias, gain, training)
        self.quantize = quantize
        inputs = ops.cast(sequences, dtype)
        inputs = dynamic_quantize(inputs) if self.rounds_rows else inputs
        if training:
            inputs = self._dropped(inputs)
        batch, steps, features = ops.shape(sequences)
        flat = keras.tree.map_structure(lambda x: ops.reshape(x, (-1, features)), inputs)
        products = gate_product(flat, kernel, self.gates, gain=self._norm_gain("kernel"), bias=input_bias)
        return ops.reshape(products, (batch, steps, kernel.shape[-1]))

    def end_call(self) -> None:
        """Clears what the steps of a call shared."""
        self.recurrent = None
        self.quantize = None

    def biases(self):
        """Returns the biases of the input's and of the state's products, or None."""
        return self.bias, None

    def _dropped(self, sequences):
        """Applies dropout to the input, with the same mask at all steps; returns a list if each gate has its own."""
        if not 0.0 < self.dropout < 1.0:
            return sequences
        masks = self.get_dropout_mask(sequences[:, 0, :])
        return masked(sequences, keras.tree.map_structure(lambda mask: mask[:, None], masks))

    def _scaled(self, kernel, name: str):
        """Returns the kernel; with weight normalization, its columns have the lengths of their gains."""
        return unit_columns(kernel, self.gains[name]) if self.normalization == "weight" else kernel

    def _norm_gain(self, name: str):
        return ops.convert_to_tensor(self.gains[name]) if self.normalization == "layer" else None

    def _recurrent_product(self, kernel, bias, gain, training, h, first=0, last=None):
        """Returns the state's part of the pre-activations of the gates `first` to `last - 1`."""
        last = self.gates if last is None else last
        h = dynamic_quantize(h) if self.rounds_rows else h
        masks = self.get_recurrent_dropout_mask(h) if training and 0.0 < self.recurrent_dropout < 1.0 else None
        if last - first < self.gates:
            columns = slice(first * self.units, last * self.units)
            kernel, bias, gain = (value if value is None else value[..., columns] for value in (kernel, bias, gain))
            masks = masks[first:last] if isinstance(masks, list) else masks
        return gate_product(masked(h, masks), kernel, last - first, gain=gain, bias=bias)


class SimpleRNNCell(GatedCell, keras.layers.SimpleRNNCell):
    """Keras' cell with the step of `ops.simple_rnn`."""

    def call(self, inputs, states, training: bool = False):
        """Returns the output and the new state; `inputs` are the input's part of the pre-activations."""
        h = simple_rnn_step(inputs, states[0], self.recurrent, activation=self.activation, quantize=self.quantize)
        return h, [h]


class LSTMCell(GatedCell, keras.layers.LSTMCell):
    """Keras' cell with the step of `ops.lstm`."""

    gates = 4

    def call(self, inputs, states, training: bool = False):
        """Returns the output and the new states; `inputs` are the input's part of the pre-activations."""
        h, c = states
        h, c = lstm_step(
            inputs,
            h,
            c,
            self.recurrent,
            activation=self.activation,
            recurrent_activation=self.recurrent_activation,
            quantize=self.quantize,
        )
        return h, [h, c]


class GRUCell(GatedCell, keras.layers.GRUCell):
    """Keras' cell with the step of `ops.gru`."""

    gates = 3

    def call(self, inputs, states, training: bool = False):
        """Returns the output and the new state; `inputs` are the input's part of the pre-activations."""
        nested = isinstance(states, (list, tuple))
        h = gru_step(
            inputs,
            states[0] if nested else states,
            self.recurrent,
            reset_after=self.reset_after,
            activation=self.activation,
            recurrent_activation=self.recurrent_activation,
            quantize=self.quantize,
        )
        return h, [h] if nested else h

    def biases(self):
        """Returns the biases of the input's and of the state's products, or None."""
        if self.bias is None or not self.reset_after:
            return self.bias, None
        return self.bias[0], self.bias[1]
