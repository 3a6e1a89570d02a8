"""One time step of a plain recurrent layer whose state may be quantized."""

from __future__ import annotations

from keras import ops


def simple_rnn_step(x, h, recurrent, *, activation=ops.tanh, quantize=None):
    """Returns the state after one step.

    Forward: `h = quantize(tanh(x + recurrent(h)))`. Gradient: that of the parts.

    Args:
        x: the input's share of the pre-activations, bias included: float tensor `(batch, units)`.
        h: state `(batch, units)`.
        recurrent: returns the state's share of the pre-activations, `(batch, units)`.
        activation: of the sum.
        quantize: what the new state becomes; None leaves it float.

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
