"""One time step of a GRU whose hidden state may be quantized."""

from __future__ import annotations

from keras import ops


def gru_step(
    x, h, recurrent, *, reset_after=True, activation=ops.tanh, recurrent_activation=ops.sigmoid, quantize=None
):
    """Returns the hidden state after one step.

    Forward: `z = sigmoid(x_z + u_z(h))`, `r = sigmoid(x_r + u_r(h))`, `n = tanh(x_n + r u_n(h))`, or with the reset
    gate before the product `n = tanh(x_n + u_n(r h))`; `h = quantize(z h + (1 - z) n)`. Gradient: by the chain rule.

    Args:
        x: the input's part of the pre-activations, biases included: float tensor `(batch, 3 * units)`, gates in the
            order z, r, n.
        h: hidden state `(batch, units)`.
        recurrent: `recurrent(h, first, last)` returns the hidden state's part of the pre-activations of the gates
            `first` to `last - 1`.
        reset_after: whether the reset gate is applied to the product rather than to the state.
        activation: activation function of the candidate.
        recurrent_activation: activation function of the gates.
        quantize: function that quantizes the new hidden state; None leaves it float.

    Returns:
        `h`.

    Example:

    >>> h = gru_step(ops.zeros((1, 6)), ops.ones((1, 2)), lambda h, first, last: ops.tile(h, (1, last - first)))
    >>> ops.convert_to_numpy(h).round(3).tolist()
    [[0.8989999890327454, 0.8989999890327454]]

    Source: Cho et al., arXiv 1406.1078, section 2.3; Kapur et al., arXiv 1710.07706, for the state.
    """
    x_z, x_r, x_n = ops.split(x, 3, axis=-1)
    if reset_after:
        u_z, u_r, u_n = ops.split(recurrent(h, 0, 3), 3, axis=-1)
    else:
        u_z, u_r = ops.split(recurrent(h, 0, 2), 2, axis=-1)
    z, r = recurrent_activation(x_z + u_z), recurrent_activation(x_r + u_r)
    n = activation(x_n + (r * u_n if reset_after else recurrent(r * h, 2, 3)))
    h = z * h + (1.0 - z) * n
    return h if quantize is None else quantize(h)
