"""One time step of an LSTM whose hidden state may be quantized."""

from __future__ import annotations

from keras import ops


def lstm_step(x, h, c, recurrent, *, activation=ops.tanh, recurrent_activation=ops.sigmoid, quantize=None):
    """Returns the hidden state and the cell state after one step.

    Forward: `i, f, g, o = split(x + recurrent(h))`; `c = sigmoid(f) c + sigmoid(i) tanh(g)`;
    `h = quantize(sigmoid(o) tanh(c))`. Gates and cell state stay float. Gradient: by the chain rule.

    Args:
        x: the input's part of the pre-activations, biases included: float tensor `(batch, 4 * units)`, gates in
            the order i, f, g, o.
        h: hidden state `(batch, units)`.
        c: cell state `(batch, units)`.
        recurrent: function of `h` that returns its part of the pre-activations, `(batch, 4 * units)`.
        activation: activation function of the candidate and of the cell state.
        recurrent_activation: activation function of the gates.
        quantize: function that quantizes the new hidden state; None leaves it float.

    Returns:
        `(h, c)`.

    Example:

    >>> zeros = ops.zeros((1, 2))
    >>> h, c = lstm_step(ops.ones((1, 8)), zeros, zeros, lambda h: ops.tile(h, (1, 4)), quantize=ops.round)
    >>> ops.convert_to_numpy(h).tolist(), ops.convert_to_numpy(c).round(3).tolist()
    ([[0.0, 0.0]], [[0.5569999814033508, 0.5569999814033508]])

    Source: Hochreiter and Schmidhuber, Neural Computation 9 (1997); Kapur et al., arXiv 1710.07706, for the state.
    """
    i, f, g, o = ops.split(x + recurrent(h), 4, axis=-1)
    c = recurrent_activation(f) * c + recurrent_activation(i) * activation(g)
    h = recurrent_activation(o) * activation(c)
    return (h if quantize is None else quantize(h)), c
