"""Recurrent layers with low-bit kernels and a low-bit hidden state."""

from __future__ import annotations

from typing import Any

import keras

from r2keras._models.gated_cells import GatedCell, GRUCell, LSTMCell, SimpleRNNCell
from r2keras._util.errors import invalid, invalid_choice
from r2keras._util.numeric import as_int
from r2keras.layers.recurrent.parts import RecurrentParts
from r2keras.layers.recurrent.specs import NORMALIZATIONS, KernelSpec, RecurrentSpecs, ValueSpec
from r2keras.quantizers.state import state_range


class QuantizedRNN(keras.layers.RNN):
    """The base class of the quantized recurrent layers.

    A quantized layer derives from a Keras layer (`LSTM`, for example) and from this class, which then lies between the
    Keras layer and `keras.layers.RNN` in the method resolution order. There it replaces the cell that the Keras layer
    creates, and quantizes the tensors of the time loop. Constructor, properties, masks, states and config are those of
    the Keras layer.
    """

    cell_class: type[GatedCell]
    # `build` creates them.
    parts: RecurrentParts

    def __init__(
        self,
        cell: keras.Layer,
        *,
        specs: RecurrentSpecs,
        normalization: str | None,
        dynamic_products: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(self.cell_class.like(cell, normalization), **kwargs)
        if not isinstance(dynamic_products, bool):
            raise TypeError(invalid("dynamic_products", "True or False", dynamic_products))
        self.dynamic_products = self.cell.rounds_rows = dynamic_products or specs.dynamic
        self.specs = specs
        self.normalization = normalization
        gate_activation = getattr(cell, "recurrent_activation", None)
        self.bounds = None if specs.state is None else state_range(cell.activation, gate_activation)

    def build(self, sequences_shape, initial_state_shape=None) -> None:
        """Creates the cell's weights, then the layers that quantize them."""
        super().build(sequences_shape, initial_state_shape)
        if not hasattr(self, "parts"):
            self.parts = RecurrentParts(self.specs, self.cell, self.bounds, name="parts")

    def initialize(self) -> None:
        """Sets the ranges of the kernels again from the layer's current weights."""
        self.parts.initialize(self.cell)

    def call(self, sequences, initial_state=None, mask=None, training: bool = False):
        """Runs Keras' time loop over the quantized step."""
        if initial_state is not None:
            self._check_states(initial_state)
        return super().call(sequences, initial_state=initial_state, mask=mask, training=training)

    def inner_loop(self, sequences, initial_state, mask, training: bool = False):
        """Quantizes the kernels, computes the products with the input, and runs the time loop over them."""
        sequences, *kernels = self.parts(sequences, cell=self.cell, training=training)
        quantize_state = None if self.parts.state is None else self.parts.state.rounding()
        try:
            products = self.cell.begin_call(sequences, *kernels, quantize_state, training)
            return super().inner_loop(products, initial_state, mask=mask, training=training)
        finally:
            self.cell.end_call()

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        own = {"normalization": self.normalization, "dynamic_products": self.dynamic_products}
        return {**super().get_config(), **self.specs.config(), **own}

    def _check_states(self, states) -> None:
        """Raises unless the initial states have the shapes of the cell's states."""
        shapes = [tuple(state.shape) for state in keras.tree.flatten(states)]
        if [shape[1:] for shape in shapes] != [(size,) for size in self.state_size]:
            expected = ", ".join(f"(batch, {size})" for size in self.state_size)
            raise ValueError(
                f"The initial state of the layer {self.name!r} does not fit. Expected tensors of shapes {expected}. "
                f"Received: {', '.join(map(str, shapes))}. Pass the states that return_state=True returns."
            )


@keras.saving.register_keras_serializable(package="r2keras")
class QuantizedSimpleRNN(keras.layers.SimpleRNN, QuantizedRNN):
    """`keras.layers.SimpleRNN` with low-bit kernels and a low-bit state.

    Forward: `h = Q_h(tanh(Q_x(x) Q_w(W) + h Q_w(U) + b))`. Gradient: that of the quantizers (`r2keras.quantizers`); 1
    through the rounding of the state. Arguments, kernels and specs are those of `QuantizedLSTM`.

    Args:
        units: size of the state.
        kernel_spec: spec of the input kernel.
        recurrent_spec: spec of the recurrent kernel.
        state_spec: spec of the state.
        input_spec: spec of the layer's input.
        normalization: normalization of the pre-activations.
        **kwargs: Keras' own arguments.

    Raises:
        TypeError: a spec of the wrong type.
        ValueError: see `QuantizedLSTM`.

    Example:

    >>> from r2keras import QuantSpec
    >>> layer = QuantizedSimpleRNN(4, kernel_spec=QuantSpec(num_bits=2), state_spec=QuantSpec(num_bits=3))
    >>> tuple(layer(keras.ops.ones((2, 5, 3))).shape)
    (2, 4)

    Source: Kapur et al., arXiv 1710.07706.
    """

    cell_class = SimpleRNNCell

    def __init__(
        self,
        units: int,
        *,
        kernel_spec: KernelSpec | None = None,
        recurrent_spec: KernelSpec | None = None,
        state_spec: ValueSpec | None = None,
        input_spec: ValueSpec | None = None,
        normalization: str | None = None,
        **kwargs: Any,
    ) -> None:
        units, specs = _checked(units, normalization, kernel_spec, recurrent_spec, state_spec, input_spec)
        super().__init__(units, specs=specs, normalization=normalization, **kwargs)


@keras.saving.register_keras_serializable(package="r2keras")
class QuantizedLSTM(keras.layers.LSTM, QuantizedRNN):
    """`keras.layers.LSTM` with low-bit kernels and a low-bit hidden state.

    Forward: `i, f, g, o = split(Q_x(x) Q_w(W) + h Q_w(U) + b)`, `c = sigmoid(f) c + sigmoid(i) tanh(g)`,
    `h = Q_h(sigmoid(o) tanh(c))`; gates, cell state and biases stay float.
    Gradient: that of the quantizers (`r2keras.quantizers`); 1 through the rounding of a state on its true range.

    Kernels are quantized, and products with the input computed, once per call, outside the time loop. The state is
    quantized inside the loop: the next step and the output both see the quantized state. An initial state is used as
    it is. Without any spec, outputs are those of `keras.layers.LSTM`.

    | normalization | pre-activations | use |
    |---|---|---|
    | None | `x W + h U + b` | |
    | `"layer"` | `g_w norm(x W) + g_u norm(h U) + b`, each gate over its units | binary and ternary kernels |
    | `"weight"` | `g_w x W / |W| + g_u h U / |U| + b`, column by column | the same, without activation statistics |

    Args:
        units: size of the state.
        kernel_spec: spec of the input kernel: a `QuantSpec` (any method; `granularity="per_gate"` gives each gate its
            own scale), a `PaletteSpec`, or None (float).
        recurrent_spec: spec of the recurrent kernel, likewise.
        state_spec: spec of the hidden state. A `QuantSpec` is a grid over the range that the state never leaves (only
            `num_bits`, 2 or more, `levels` and `symmetric` apply), or with `method="alternating"`, codes fitted to each
            row at run time. An `ActivationSpec` has a range that starts there and is trained. None leaves it float.
        input_spec: spec of the layer's input: an `ActivationSpec`, a `QuantSpec` with `method="alternating"`, or None.
        normalization: `"layer"`, `"weight"` or None; the gains `g` are trained.
        **kwargs: Keras' own arguments: `return_sequences`, `stateful`, `dropout`, `recurrent_dropout`...; and
            `dynamic_products=True`, which rounds the rows of the input and of the state to 8 bits in front of the
            kernels (`ops.dynamic_quantize`), as files with `activations="dynamic"` do; so do kernel specs with
            `activation_method="dynamic"`.

    Raises:
        TypeError: a spec of the wrong type.
        ValueError: `units` is not positive; a spec for a state without bounds (`activation="relu"`); a method that does
            not apply to states or inputs; `use_cudnn=True` with anything quantized or normalized; an initial state of
            another shape.

    Example:

    >>> from r2keras import QuantSpec
    >>> w = QuantSpec(num_bits=2, method="balanced")
    >>> layer = QuantizedLSTM(4, kernel_spec=w, recurrent_spec=w, state_spec=QuantSpec(num_bits=3))
    >>> tuple(layer(keras.ops.ones((2, 5, 3))).shape)
    (2, 4)

    Source: Kapur et al., arXiv 1710.07706; Hou et al., NeurIPS 2019, "Normalization Helps Training of Quantized LSTM".
    """

    cell_class = LSTMCell

    def __init__(
        self,
        units: int,
        *,
        kernel_spec: KernelSpec | None = None,
        recurrent_spec: KernelSpec | None = None,
        state_spec: ValueSpec | None = None,
        input_spec: ValueSpec | None = None,
        normalization: str | None = None,
        **kwargs: Any,
    ) -> None:
        units, specs = _checked(units, normalization, kernel_spec, recurrent_spec, state_spec, input_spec)
        kwargs = _without_cudnn(kwargs, specs, normalization)
        super().__init__(units, specs=specs, normalization=normalization, **kwargs)


@keras.saving.register_keras_serializable(package="r2keras")
class QuantizedGRU(keras.layers.GRU, QuantizedRNN):
    """`keras.layers.GRU` with low-bit kernels and a low-bit state.

    Forward: `z, r = sigmoid(Q_x(x) Q_w(W) + h Q_w(U) + b)`, `n = tanh(x W_n + r (h U_n))`,
    `h = Q_h(z h + (1 - z) n)` (`r2keras.ops.gru`). Gradient: that of the quantizers (`r2keras.quantizers`); 1 through
    the rounding of the state. Arguments, kernels and specs are those of `QuantizedLSTM`.

    A GRU updates its state in small increments, and an increment below half a step of the state's grid is lost. It
    needs more bits for the state than an LSTM, which keeps a float cell state.

    Args:
        units: size of the state.
        kernel_spec: spec of the input kernel.
        recurrent_spec: spec of the recurrent kernel.
        state_spec: spec of the state.
        input_spec: spec of the layer's input.
        normalization: normalization of the pre-activations.
        **kwargs: Keras' own arguments.

    Raises:
        TypeError: a spec of the wrong type.
        ValueError: see `QuantizedLSTM`.

    Example:

    >>> from r2keras import QuantSpec
    >>> layer = QuantizedGRU(4, recurrent_spec=QuantSpec(num_bits=2), state_spec=QuantSpec(num_bits=4))
    >>> tuple(layer(keras.ops.ones((2, 5, 3))).shape)
    (2, 4)

    Source: Kapur et al., arXiv 1710.07706; He et al., arXiv 1611.10176, section 4.
    """

    cell_class = GRUCell

    def __init__(
        self,
        units: int,
        *,
        kernel_spec: KernelSpec | None = None,
        recurrent_spec: KernelSpec | None = None,
        state_spec: ValueSpec | None = None,
        input_spec: ValueSpec | None = None,
        normalization: str | None = None,
        **kwargs: Any,
    ) -> None:
        units, specs = _checked(units, normalization, kernel_spec, recurrent_spec, state_spec, input_spec)
        kwargs = _without_cudnn(kwargs, specs, normalization)
        super().__init__(units, specs=specs, normalization=normalization, **kwargs)


def _checked(units: object, normalization: object, *specs: Any) -> tuple[int, RecurrentSpecs]:
    """Returns units and specs after checking the arguments that Keras does not check, or with a less clear message."""
    whole = as_int(units)
    if whole is None or whole < 1:
        kind = TypeError if whole is None else ValueError
        raise kind(invalid("units", "an integer of at least 1", units))
    if normalization not in (*NORMALIZATIONS, None):
        raise ValueError(invalid_choice("normalization", NORMALIZATIONS, normalization))
    return whole, RecurrentSpecs(*specs)


def _without_cudnn(kwargs: dict[str, Any], specs: RecurrentSpecs, normalization: str | None) -> dict[str, Any]:
    """Returns Keras' arguments with cuDNN turned off if the layer has its own time step."""
    if not specs.any and normalization is None and not kwargs.get("dynamic_products"):
        return kwargs
    if kwargs.get("use_cudnn") is True:
        raise ValueError(invalid("use_cudnn", "False or 'auto' for a quantized or normalized layer", True))
    return {**kwargs, "use_cudnn": False}
