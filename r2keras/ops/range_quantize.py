"""Uniform quantization of a tensor to a range `[low, high]` that may be trained, as for activations."""

from __future__ import annotations

import functools

from keras import ops

from r2keras.ops.affine import MIN_SCALE
from r2keras.ops.fuse import fused
from r2keras.ops.ste import custom_gradient

# Subtracted before the zero point is rounded. Ranges with low = -high lie on a tie, which compiled and eager code could
# break differently.
TIE = 1e-3


def span_grid(low, high, quant_min, quant_max):
    """Returns scale and zero point of the grid over `[low, high]`, shifted by at most half a step to contain zero.

    `scale = (high - low) / (quant_max - quant_min)`, `zero_point = clip(round(quant_min - low / scale))`; ties round
    down.

    Args:
        low: float32 scalar, at most 0.
        high: float32 scalar, at least `low`.
        quant_min: lowest code.
        quant_max: highest code.

    Returns:
        Two float32 scalars; the zero point is a whole number in `[quant_min, quant_max]`.

    Example:

    >>> [float(part) for part in span_grid(0.0, 3.0, -2, 1)]
    [1.0, -2.0]
    """
    low, high = (ops.cast(bound, "float32") for bound in (low, high))
    scale = ops.maximum((high - low) * (1.0 / (quant_max - quant_min)), MIN_SCALE)
    return scale, ops.clip(ops.round(quant_min - low / scale - TIE), quant_min, quant_max)


def on_grid(x, scale, zero_point, quant_min, quant_max):
    """Returns `scale * (clip(round(x / scale + zero_point), quant_min, quant_max) - zero_point)` for scalar parameters.

    Args:
        x: float32 tensor.
        scale: positive scalar.
        zero_point: scalar.
        quant_min: lowest code.
        quant_max: highest code.

    Returns:
        float32 tensor of `x`'s shape. Defines no gradient.

    Example:

    >>> ops.convert_to_numpy(on_grid(ops.convert_to_tensor([-9.0, 0.4, 0.8]), 0.5, -2.0, -2, 1)).tolist()
    [0.0, 0.5, 1.0]
    """
    return scale * (ops.round(ops.clip(_steps(x, scale, zero_point), quant_min, quant_max)) - zero_point)


def quantize_span(x, low, high, quant_min, quant_max, *, inner=1.0, delta=0.0, share=1.0):
    """Rounds a tensor to the grid over `[low, high]`.

    Forward: `y = scale * (clip(round(v), quant_min, quant_max) - zero_point)`, `v = x / scale + zero_point`
    (`span_grid`).
    Gradient, with `n = quant_max - quant_min`, the position in the range `x_n = (v - quant_min) / n`, its rounded value
    `x_q`, and `f = 1 + delta sign(dL/dy) (x_n - x_q)`: inside the range `dy/dx = f`,
    `dy/dlow = inner (1 - x_q - f (1 - x_n))`, `dy/dhigh = inner (x_q - f x_n)`; below it 0, 1, 0; above it 0, 0, 1.
    Gradients to `low` and `high` are summed over the tensor and multiplied by `share`.

    Args:
        x: float tensor; float16 and bfloat16 are computed in float32.
        low: float32 scalar, at most 0.
        high: float32 scalar, at least `low`.
        quant_min: lowest code.
        quant_max: highest code.
        inner: 1 includes the effect of the bounds on rounding inside the range (LSQ), 0 ignores it (PACT).
        delta: strength of the element-wise gradient scaling (EWGS); 0 is the straight-through estimator.
        share: factor of the gradients to `low` and `high`.

    Returns:
        Tensor of `x`'s shape and type; in float32 exactly on the grid.

    Example:

    >>> ops.convert_to_numpy(quantize_span(ops.convert_to_tensor([-9.0, 0.4, 0.8]), 0.0, 1.5, -2, 1)).tolist()
    [0.0, 0.5, 1.0]

    Source: Esser et al., arXiv 1902.08153, equation 3, for the bounds instead of the step; Lee et al., arXiv
    2104.00903.
    """
    forward, to_x, *to_bounds = _fused_functions(quant_min, quant_max, inner, delta)

    @custom_gradient
    def rounded(x, low, high):
        def backward(upstream):
            to_low, to_high = (share * ops.sum(gradient(upstream, x, low, high)) for gradient in to_bounds)
            return to_x(upstream, x, low, high), to_low, to_high

        return forward(x, low, high), backward

    return rounded(ops.convert_to_tensor(x), *(ops.cast(bound, "float32") for bound in (low, high)))


@functools.cache
def _fused_functions(quant_min, quant_max, inner, delta):
    """Returns the forward pass of `quantize_span` and its gradients to `x`, `low` and `high`, element by element.

    They are separate functions so that a training step can drop the gradients that no variable needs.
    """
    num_steps = quant_max - quant_min

    def forward(x, low, high):
        grid = span_grid(low, high, quant_min, quant_max)
        return ops.cast(on_grid(ops.cast(x, "float32"), *grid, quant_min, quant_max), x.dtype)

    def positions(upstream, x, low, high):
        """Returns positions in steps, raw and clipped, the rounding error relative to the range, and EWGS's term."""
        steps = _steps(ops.cast(x, "float32"), *span_grid(low, high, quant_min, quant_max))
        clipped = ops.clip(steps, quant_min, quant_max)
        error = (clipped - ops.round(clipped)) * (1.0 / num_steps)
        return steps, clipped, error, delta * ops.abs(upstream) * error

    def to_x(upstream, x, low, high):
        upstream = ops.cast(upstream, "float32")
        steps, clipped, _, scaling = positions(upstream, x, low, high)
        return ops.cast(ops.where(ops.equal(steps, clipped), upstream + scaling, 0.0), x.dtype)

    def to_low(upstream, x, low, high):
        upstream = ops.cast(upstream, "float32")
        steps, clipped, error, scaling = positions(upstream, x, low, high)
        below_high = 1.0 - (clipped - quant_min) * (1.0 / num_steps)
        return ops.where(steps < quant_min, upstream, inner * (upstream * error - scaling * below_high))

    def to_high(upstream, x, low, high):
        upstream = ops.cast(upstream, "float32")
        steps, clipped, error, scaling = positions(upstream, x, low, high)
        above_low = (clipped - quant_min) * (1.0 / num_steps)
        return ops.where(steps > quant_max, upstream, -inner * (upstream * error + scaling * above_low))

    return tuple(map(fused, (forward, to_x, to_low, to_high)))


def _steps(x, scale, zero_point):
    """Returns the positions of values in steps: `x / scale + zero_point`."""
    # Multiplies by the reciprocal, because compilers and the LiteRT converter turn a division by a constant into that.
    return x * (1.0 / scale) + zero_point
