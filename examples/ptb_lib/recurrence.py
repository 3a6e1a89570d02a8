"""The LSTM's time loop with a custom gradient, in which one matrix product replaces a sum over the time steps."""

from __future__ import annotations

from collections.abc import Callable

from keras import ops

from r2keras.ops.ste import custom_gradient


def recurrence(products, kernel, h, c, quantize: Callable | None = None, commitment: float = 0.0):
    """Runs an LSTM over a window, given the input's part of its pre-activations.

    Forward: `i, f, g, o = split(z_t + h U)`, `c = sigmoid(f) c + sigmoid(i) tanh(g)`, `h = Q(sigmoid(o) tanh(c))`.
    Gradient: back-propagation through time for `z` and `U`, straight-through (1) for `Q`, none for the states before
    the window. `dL/dU` is one product over all steps. With a `commitment`, the loss
    `commitment * sum (h - Q(h))^2` is added: summed over the units, averaged over time and batch, with `Q(h)` held
    constant. It moves the states towards values that rounding does not change.

    Args:
        products: `z`, `(time, batch, 4 units)`, with the gates in the order i, f, g, o and the biases added.
        kernel: `U`, `(units, 4 units)`.
        h: hidden state before the window, `(batch, units)`.
        c: cell state before the window, `(batch, units)`.
        quantize: the quantizer `Q` of the hidden state; None leaves it float.
        commitment: weight of the squared distance between the states and their rounded values.

    Returns:
        The hidden states, `(time, batch, units)`, and the last cell state.

    Source of the commitment loss: van den Oord et al., arXiv 1711.00937, section 3.2.
    """
    units, steps = kernel.shape[0], products.shape[0]

    @custom_gradient
    def run(products, kernel):
        hidden, cells, gates, gaps = [h], [c], [], []
        for z in ops.unstack(products, steps):
            z = z + ops.matmul(hidden[-1], kernel)
            i, f, _, o = ops.split(ops.sigmoid(z), 4, axis=-1)
            g = ops.tanh(z[:, 2 * units : 3 * units])
            cells.append(f * cells[-1] + i * g)
            state = o * ops.tanh(cells[-1])
            hidden.append(state if quantize is None else quantize(state))
            gaps.append(state - hidden[-1])
            gates.append((i, f, g, o))

        def backward(upstream):
            upstream = upstream[:-1]
            if commitment:
                upstream = upstream + (2.0 * commitment / (steps * h.shape[0])) * ops.stack(gaps)
            return _backward(upstream, kernel, hidden, cells, gates)

        return ops.stack([*hidden[1:], cells[-1]]), backward

    states_and_cell = run(products, kernel)
    return states_and_cell[:-1], states_and_cell[-1]


def _backward(upstream, kernel, hidden, cells, gates):
    """Returns the gradients of `recurrence` with respect to the products and the kernel."""
    units, steps = kernel.shape[0], len(gates)
    i, f, g, o = (ops.stack(gate) for gate in zip(*gates, strict=True))
    squashed, before = ops.tanh(ops.stack(cells[1:])), ops.stack(cells[:-1])
    to_cell = ops.unstack(o * (1.0 - squashed * squashed), steps)
    slopes = [g * i * (1.0 - i), before * f * (1.0 - f), i * (1.0 - g * g), squashed * o * (1.0 - o)]
    slopes = ops.unstack(ops.concatenate(slopes, axis=-1), steps)
    transposed, upstream = ops.transpose(kernel), ops.unstack(upstream, steps)
    dh, dc, gradients = 0.0, 0.0, []  # `gradients` goes from the last step to the first.
    for step in reversed(range(steps)):
        dh = dh + upstream[step]
        dc = dc + dh * to_cell[step]
        gradients.append(ops.concatenate([dc, dc, dc, dh], axis=-1) * slopes[step])
        dh, dc = ops.matmul(gradients[-1], transposed), dc * gates[step][1]
    products = ops.stack(gradients[::-1])
    inputs = ops.reshape(ops.stack(hidden[:-1]), (-1, units))
    return products, ops.matmul(ops.transpose(inputs), ops.reshape(products, (-1, 4 * units)))
