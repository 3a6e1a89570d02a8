"""Rounding of each row to 8 bits at run time, as LiteRT does in front of products with low-bit weights."""

from __future__ import annotations

import keras
from keras import ops

from r2keras.ops.ste import custom_gradient

LOWEST, HIGHEST = -128.0, 127.0


def dynamic_quantize(x, axis: int | tuple[int, ...] = -1):
    """Rounds each row of a tensor to 256 levels between its own minimum and maximum.

    Forward, for each row, by default along the last axis: `low = min(0, min(x))`, `high = max(0, max(x))`,
    `scale = 255 / (high - low)`, `y = (clip(round(scale x), -128 - z, 127 - z)) / scale`. The zero point `z` is the
    nearest code of zero, so that zeros stay zeros. A row of zeros stays as it is. These are the steps of XNNPACK, in
    float32; LiteRT's built-in kernels differ from them in single codes. A NaN makes its row NaN, where the runtime
    returns numbers.
    Gradient: `dy/dx = 1`.

    Args:
        x: tensor of one axis or more.
        axis: the axis along which rows lie, or the axes, for rows that a file flattens before it multiplies them.

    Returns:
        Tensor of the same shape and type; float32 for integers.

    Example:

    >>> rows = ops.convert_to_tensor([[0.0, 0.1, 255.0], [-128.0, 0.4, 127.0]])
    >>> ops.convert_to_numpy(dynamic_quantize(rows)).tolist()
    [[0.0, 0.0, 255.0], [-128.0, 0.0, 127.0]]

    Source: Dukhan et al., XNNPACK, `xnn_f32_qd8_asymmetric_quantization_params`.
    """
    return custom_gradient(lambda t: (_rounded(t, axis), lambda upstream: upstream))(x)


def _rounded(x, axis):
    """Returns the rounded rows."""
    values = ops.cast(x, "float32")
    low = ops.minimum(ops.min(values, axis=axis, keepdims=True), 0.0)
    high = ops.maximum(ops.max(values, axis=axis, keepdims=True), 0.0)
    is_zero = ops.equal(low, high)
    scale = (HIGHEST - LOWEST) / ops.where(is_zero, HIGHEST - LOWEST, high - low)
    from_low, from_high = LOWEST - low * scale, HIGHEST - high * scale
    # The end whose code is nearer to a whole number of steps from zero decides.
    is_low = ops.greater((LOWEST + low * scale) + (HIGHEST + high * scale), 0.0)
    zero_point = ops.round(ops.clip(ops.where(is_low, from_low, from_high), LOWEST, HIGHEST))
    steps = ops.clip(ops.round(values * scale), LOWEST - zero_point, HIGHEST - zero_point)
    dtype = keras.backend.standardize_dtype(x.dtype)
    return ops.cast(steps * (1.0 / scale), dtype if keras.backend.is_float_dtype(dtype) else "float32")
