"""Recurrent layers with few-bit kernels and a few-bit hidden state."""

from __future__ import annotations

import keras

from r2keras._errors import invalid, invalid_choice
from r2keras.layers.recurrent_cells import GatedCell, GRUCell, LSTMCell, SimpleRNNCell
from r2keras.layers.recurrent_parts import RecurrentParts
from r2keras.layers.recurrent_specs import NORMALIZATIONS, RecurrentSpecs
from r2keras.quantizers.state import state_range


class QuantizedRNN(keras.layers.RNN):
    """What the quantized recurrent layers share; it stands between a Keras layer (`LSTM`, say) and `keras.layers.RNN`.

    From that place in the order of the classes it exchanges the cell that the Keras layer makes, and quantizes what the
    time loop computes with. Constructor, properties, masks, states and config stay those of the Keras layer.
    """

    cell_class: type[GatedCell]

    def __init__(self, cell, *, specs: RecurrentSpecs, normalization: str | None, **kwargs):
        super().__init__(self.cell_class.like(cell, normalization), **kwargs)
        self.specs, self.normalization = specs, normalization
        gate = getattr(cell, "recurrent_activation", None)
        self.bounds = None if specs.state is None else state_range(cell.activation, gate)
        self.parts: RecurrentParts | None = None

    def build(self, sequences_shape, initial_state_shape=None):
        """Makes the cell's weights, then what quantizes them."""
        super().build(sequences_shape, initial_state_shape)
        if self.parts is None:
            self.parts = RecurrentParts(self.specs, self.cell, self.bounds, name="parts")

    def initialize(self) -> None:
        """Sets the ranges of the kernels anew from the layer's present weights."""
        self.parts.initialize(self.cell)

    def call(self, sequences, initial_state=None, mask=None, training=False):
        """Runs Keras' time loop over the quantized step."""
        if initial_state is not None:
            self._check_states(initial_state)
        return super().call(sequences, initial_state=initial_state, mask=mask, training=training)

    def inner_loop(self, sequences, initial_state, mask, training=False):
        """Quantizes the kernels, computes the products with the input, and runs the time loop over them."""
        sequences, *kernels = self.parts(sequences, cell=self.cell, training=training)
        rounding = None if self.parts.state is None else self.parts.state.rounding()
        try:
            products = self.cell.enter(sequences, *kernels, rounding, training)
            return super().inner_loop(products, initial_state, mask=mask, training=training)
        finally:
            self.cell.leave()

    def get_config(self):
        """Returns the constructor's arguments as plain JSON."""
        return {**super().get_config(), **self.specs.config(), "normalization": self.normalization}

    def _check_states(self, states) -> None:
        """Raises unless there is one state of `units` a sample for each state of the cell."""
        shapes = [tuple(state.shape) for state in keras.tree.flatten(states)]
        if [shape[1:] for shape in shapes] != [(size,) for size in self.state_size]:
            wanted = ", ".join(f"(batch, {size})" for size in self.state_size)
            raise ValueError(
                f"The initial state of the layer {self.name!r} does not fit. Expected tensors of the shapes {wanted}. "
                f"Received: {', '.join(map(str, shapes))}. Pass the states that return_state=True returns."
            )


@keras.saving.register_keras_serializable(package="r2keras")
class QuantizedSimpleRNN(keras.layers.SimpleRNN, QuantizedRNN):
    """`keras.layers.SimpleRNN` with few-bit kernels and a few-bit state.

    Forward: `h = Q_h(tanh(Q_x(x) Q_w(W) + h Q_w(U) + b))`. Gradient: that of the quantizers (`r2keras.quantizers`); 1
    through the rounding of the state. Arguments, kernels and specs are those of `QuantizedLSTM`.

    Args:
        units: size of the state.
        kernel_spec: of the input kernel.
        recurrent_spec: of the recurrent kernel.
        state_spec: of the state.
        input_spec: of the layer's input.
        normalization: of the pre-activations.
        **kwargs: Keras' own arguments.

    Raises:
        TypeError: a spec of the wrong kind.
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
        units,
        *,
        kernel_spec=None,
        recurrent_spec=None,
        state_spec=None,
        input_spec=None,
        normalization=None,
        **kwargs,
    ):
        specs = _checked(units, normalization, kernel_spec, recurrent_spec, state_spec, input_spec)
        super().__init__(units, specs=specs, normalization=normalization, **kwargs)


@keras.saving.register_keras_serializable(package="r2keras")
class QuantizedLSTM(keras.layers.LSTM, QuantizedRNN):
    """`keras.layers.LSTM` with few-bit kernels and a few-bit hidden state.

    Forward: `i, f, g, o = split(Q_x(x) Q_w(W) + h Q_w(U) + b)`, `c = sigmoid(f) c + sigmoid(i) tanh(g)`,
    `h = Q_h(sigmoid(o) tanh(c))`; gates, cell state and biases stay float. Kernels are quantized once a call, outside
    the time loop; so are the products with the input. The state is quantized inside: what recurs is what comes out. An
    initial state is used as it is. With every spec left out, outputs are those of `keras.layers.LSTM`.
    Gradient: that of the quantizers (`r2keras.quantizers`); 1 through the rounding of a state on its true range.

    | normalization | pre-activations | use |
    |---|---|---|
    | None | `x W + h U + b` | |
    | `"layer"` | `g_w norm(x W) + g_u norm(h U) + b`, each gate over its units | binary and ternary kernels |
    | `"weight"` | `g_w x W / |W| + g_u h U / |U| + b`, column by column | the same, no statistics of activations |

    Args:
        units: size of the state.
        kernel_spec: of the input kernel: a `QuantSpec` (any method; `granularity="per_gate"` gives each gate a scale of
            its own), a `PaletteSpec`, or None (float).
        recurrent_spec: of the recurrent kernel, likewise.
        state_spec: of the hidden state. A `QuantSpec` is a grid over the range that the state never leaves (of it count
            `num_bits`, 2 or more, `levels` and `symmetric`), or with `method="alternating"` codes fitted to each row on
            line; an `ActivationSpec` has a range that starts there and learns; None: float.
        input_spec: of the layer's input: an `ActivationSpec`, a `QuantSpec` with `method="alternating"`, or None.
        normalization: `"layer"`, `"weight"` or None; the gains `g` are learned.
        **kwargs: Keras' own arguments: `return_sequences`, `stateful`, `dropout`, `recurrent_dropout`...

    Raises:
        TypeError: a spec of the wrong kind.
        ValueError: no units; a state without bounds (`activation="relu"`) that is to be quantized; a method that is not
            for states or inputs; `use_cudnn=True` with anything quantized or normalised; an initial state of another
            shape.

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
        units,
        *,
        kernel_spec=None,
        recurrent_spec=None,
        state_spec=None,
        input_spec=None,
        normalization=None,
        **kwargs,
    ):
        specs = _checked(units, normalization, kernel_spec, recurrent_spec, state_spec, input_spec)
        kwargs = _without_cudnn(kwargs, specs, normalization)
        super().__init__(units, specs=specs, normalization=normalization, **kwargs)


@keras.saving.register_keras_serializable(package="r2keras")
class QuantizedGRU(keras.layers.GRU, QuantizedRNN):
    """`keras.layers.GRU` with few-bit kernels and a few-bit state.

    Forward: `z, r = sigmoid(Q_x(x) Q_w(W) + h Q_w(U) + b)`, `n = tanh(x W_n + r (h U_n))`,
    `h = Q_h(z h + (1 - z) n)` (`r2keras.ops.gru`). Gradient: that of the quantizers (`r2keras.quantizers`); 1 through
    the rounding of the state. Arguments, kernels and specs are those of `QuantizedLSTM`.

    A GRU adds to its state in small steps: one that is smaller than half a step of the state's grid is lost. It needs
    more bits for the state than an LSTM, which keeps a float cell state.

    Args:
        units: size of the state.
        kernel_spec: of the input kernel.
        recurrent_spec: of the recurrent kernel.
        state_spec: of the state.
        input_spec: of the layer's input.
        normalization: of the pre-activations.
        **kwargs: Keras' own arguments.

    Raises:
        TypeError: a spec of the wrong kind.
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
        units,
        *,
        kernel_spec=None,
        recurrent_spec=None,
        state_spec=None,
        input_spec=None,
        normalization=None,
        **kwargs,
    ):
        specs = _checked(units, normalization, kernel_spec, recurrent_spec, state_spec, input_spec)
        kwargs = _without_cudnn(kwargs, specs, normalization)
        super().__init__(units, specs=specs, normalization=normalization, **kwargs)


def _checked(units, normalization, *specs) -> RecurrentSpecs:
    """Returns the specs, having checked the arguments that Keras does not know or checks less clearly."""
    if isinstance(units, bool) or not isinstance(units, int) or units < 1:
        raise ValueError(invalid("units", "an integer of at least 1", units))
    if normalization not in (*NORMALIZATIONS, None):
        raise ValueError(invalid_choice("normalization", NORMALIZATIONS, normalization))
    return RecurrentSpecs(*specs)


def _without_cudnn(kwargs: dict, specs: RecurrentSpecs, normalization: str | None) -> dict:
    """Returns Keras' arguments, cuDNN's step turned off where the layer has one of its own."""
    if not specs.any and normalization is None:
        return kwargs
    if kwargs.get("use_cudnn") is True:
        raise ValueError(invalid("use_cudnn", "False or 'auto' for a quantized or normalised layer", True))
    return {**kwargs, "use_cudnn": False}
