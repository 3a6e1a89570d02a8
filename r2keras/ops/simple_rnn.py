"""One time step of a simple recurrent layer whose state may be quantized."""

from __future__ import annotations

from keras import ops


def simple_rnn_step(x, h, recurrent, *, activation=ops.tanh, quantize=None):
    """Returns the state after one step.

    Forward: `h = quantize(tanh(x + recurrent(h)))`. Gradient: by the chain rule.

    Args:
        x: the input's part of the pre-activations, bias included: float tensor `(batch, units)`.
        h: state `(batch, units)`.
        recurrent: function of `h` that returns its part of the pre-activations, `(batch, units)`.
        activation: activation function of the sum.
        quantize: function that quantizes the new state; None leaves it float.

    Returns:
        `h`.

    Example:

    >>> h = simple_rnn_step(ops.ones((1, 2)), ops.zeros((1, 2)), lambda h: h, quantize=ops.round)
    >>> ops.convert_to_numpy(h).tolist()
    [[1.0, 1.0]]

    Source: Elman, Cognitive Science 14 (1990); Kapur et al., arXiv 1710.07706, for the state.
    """
    h = activation(x + recurrent(h))
    return h if quantize is None else quantize(h)
