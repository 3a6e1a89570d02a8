"""Uniform (affine) quantization as pure functions: `w = scale * (code - zero_point)`.

Scales and zero points have the rank of the tensor. Each of their axes is 1, the tensor's size, or a divisor of that
size; with a divisor, one entry serves a run of consecutive elements (per-group scales). Arithmetic is in float32
whatever the input's type.
"""

from __future__ import annotations

import math

from keras import ops

from r2keras.ops.ste import custom_gradient

# The scale of an all-zero tensor: large enough to divide by, small enough that half a step of it is negligible.
MIN_SCALE = 2.0**-64
# Fractions of the min-max scale that the MSE search tries, 5/4 down to 1/32. Some exceed 1, because a small block of
# weights can fit a wider grid best.
MSE_FRACTIONS = tuple((40 - i) / 32 for i in range(40))
# Weights times candidates in one batch of the search. Each tensor of a batch then takes at most 16 MB of float32.
MSE_ELEMENTS = 4_000_000
# Least-squares rounds after the search.
MSE_REFINEMENTS = 8


def expand(values, shape):
    """Repeats a scale along the axes where one entry serves a run of elements; the other axes broadcast as they are.

    Args:
        values: tensor of the rank of `shape`.
        shape: the tensor's shape.

    Returns:
        float32 tensor that broadcasts against `shape`.

    Example:

    >>> ops.convert_to_numpy(expand(ops.convert_to_tensor([[1.0, 2.0]]), (3, 4))).tolist()
    [[1.0, 1.0, 2.0, 2.0]]
    """
    values = ops.cast(values, "float32")
    for axis, size in enumerate(shape):
        if values.shape[axis] not in (1, size):
            values = ops.repeat(values, size // values.shape[axis], axis)
    return values


def reduce(function, x, shape):
    """Reduces every block of `x` that shares one entry of `shape`, and keeps the rank.

    Args:
        function: `ops.max`, `ops.min`, `ops.sum` or `ops.mean`.
        x: tensor.
        shape: the rank of `x`; each axis is 1, the size of `x`, or a divisor of it.

    Returns:
        Tensor of `shape`.

    Example:

    >>> ops.convert_to_numpy(reduce(ops.max, ops.convert_to_tensor([[1.0, 5.0, 2.0, 3.0]]), (1, 2))).tolist()
    [[5.0, 3.0]]
    """
    split_shape, reduced_axes = [], []
    for size, num_blocks in zip(x.shape, shape, strict=True):
        if num_blocks == size:
            split_shape.append(size)
        else:
            split_shape += [num_blocks, size // num_blocks]
            reduced_axes.append(len(split_shape) - 1)
    if reduced_axes:
        x = function(ops.reshape(x, split_shape), axis=reduced_axes)
    return ops.reshape(x, shape)


def quantize(x, scale, zero_point, quant_min, quant_max):
    """Returns the codes: `clip(round(x / scale + zero_point), quant_min, quant_max)`, as float32 integers.

    Args:
        x: float tensor.
        scale: positive tensor (see the module).
        zero_point: tensor of `scale`'s shape: integers, or -1/2 for a mid-rise grid.
        quant_min: lowest code.
        quant_max: highest code.

    Returns:
        float32 tensor of `x`'s shape, whole numbers. Rounds half to even. Defines no gradient.

    Example:

    >>> one = ops.ones((1,))
    >>> ops.convert_to_numpy(quantize(ops.convert_to_tensor([-9.0, 0.4, 1.6]), one, 0 * one, -2, 1)).tolist()
    [-2.0, 0.0, 1.0]
    """
    x = ops.cast(x, "float32")
    steps = x / expand(scale, x.shape) + expand(zero_point, x.shape)
    return ops.clip(ops.round(steps), quant_min, quant_max)


def dequantize(codes, scale, zero_point):
    """Returns `scale * (codes - zero_point)`, in float32.

    Args:
        codes: tensor of whole numbers, any type.
        scale: positive tensor (see the module).
        zero_point: tensor of `scale`'s shape.

    Returns:
        float32 tensor of `codes`' shape.

    Example:

    >>> codes, scale = ops.convert_to_tensor([-2.0, 1.0]), ops.convert_to_tensor([0.5])
    >>> ops.convert_to_numpy(dequantize(codes, scale, ops.zeros((1,)))).tolist()
    [-1.0, 0.5]
    """
    codes = ops.cast(codes, "float32")
    return expand(scale, codes.shape) * (codes - expand(zero_point, codes.shape))


def fake_quantize(x, scale, zero_point, quant_min, quant_max):
    """Rounds a tensor to its grid, with a straight-through gradient inside the clip range.

    Forward: `scale * (clip(round(x / scale + zero_point), quant_min, quant_max) - zero_point)`.
    Gradient: `dy/dx = 1` where `quant_min - 1/2 <= x / scale + zero_point <= quant_max + 1/2` (where nothing is
    clipped), else 0. None flows to `scale` and `zero_point`.

    Args:
        x: float tensor; float16 and bfloat16 are computed in float32.
        scale: positive tensor (see the module).
        zero_point: tensor of `scale`'s shape.
        quant_min: lowest code.
        quant_max: highest code.

    Returns:
        Tensor of `x`'s shape and type; in float32 exactly on the grid.

    Example:

    >>> one = ops.ones((1,))
    >>> ops.convert_to_numpy(fake_quantize(ops.convert_to_tensor([-9.0, 0.4, 0.8]), 0.5 * one, 0 * one, -2, 1)).tolist()
    [-1.0, 0.5, 0.5]

    Source: Jacob et al., arXiv 1712.05877, section 3; Bengio et al., arXiv 1308.3432.
    """

    @custom_gradient
    def rounded(x, scale, zero_point):
        codes = quantize(x, scale, zero_point, quant_min, quant_max)
        value = ops.cast(dequantize(codes, scale, zero_point), x.dtype)

        def backward(upstream):
            steps = ops.cast(x, "float32") / expand(scale, x.shape) + expand(zero_point, x.shape)
            inside = ops.logical_and(steps >= quant_min - 0.5, steps <= quant_max + 0.5)
            passed = ops.where(inside, upstream, ops.zeros_like(upstream))
            return passed, ops.zeros_like(scale), ops.zeros_like(zero_point)

        return value, backward

    return rounded(*map(ops.convert_to_tensor, (x, scale, zero_point)))


def symmetric_scale(x, shape, quant_min, quant_max, zero_point=0.0):
    """Returns the smallest scale whose grid covers every value: the min-max range of a symmetric grid.

    Mid-tread (`zero_point = 0`): the outermost codes reach `max(x)` and `min(x)`. Mid-rise (`zero_point = -1/2`): the
    levels are the midpoints of `2^b` equal cells over `[-max|x|, max|x|]`, so `scale = 2 max|x| / 2^b`.

    Args:
        x: float tensor.
        shape: the scale's shape.
        quant_min: lowest code.
        quant_max: highest code.
        zero_point: 0 or -1/2.

    Returns:
        float32 tensor of `shape`, at least 2^-64.

    Example:

    >>> ops.convert_to_numpy(symmetric_scale(ops.convert_to_tensor([-1.0, 3.5]), (1,), -7, 7)).tolist()
    [0.5]
    """
    x = ops.cast(x, "float32")
    low, high = reduce(ops.min, x, shape), reduce(ops.max, x, shape)
    # Mid-rise levels are midpoints of cells: the grid reaches half a cell beyond the outermost ones.
    slack = 0.5 if zero_point else 0.0
    # Multiplies by the reciprocal because compilers turn a division by a constant into that, and compiled and eager
    # scales must be equal.
    per_high = 1.0 / (quant_max - zero_point + slack)
    per_low = 1.0 / (quant_min - zero_point - slack)
    scale = ops.maximum(high * per_high, low * per_low)
    return ops.maximum(scale, MIN_SCALE)


def asymmetric_range(x, shape, quant_min, quant_max):
    """Returns scale and zero point of the min-max grid over `[min(x, 0), max(x, 0)]`, with zero on the grid.

    `scale = (high - low) / (quant_max - quant_min)`, `zero_point = clip(round(quant_min - low / scale))`.

    Args:
        x: float tensor.
        shape: the scale's shape.
        quant_min: lowest code.
        quant_max: highest code.

    Returns:
        Two float32 tensors of `shape`; the zero points are whole numbers in `[quant_min, quant_max]`.

    Example:

    >>> scale, zero_point = asymmetric_range(ops.convert_to_tensor([-1.0, 2.0]), (1,), -2, 1)
    >>> float(scale[0]), float(zero_point[0])
    (1.0, -1.0)
    """
    x = ops.cast(x, "float32")
    low = ops.minimum(reduce(ops.min, x, shape), 0.0)
    high = ops.maximum(reduce(ops.max, x, shape), 0.0)
    # Multiplies by the reciprocal, as in `symmetric_scale`.
    scale = ops.maximum((high - low) * (1.0 / (quant_max - quant_min)), MIN_SCALE)
    return scale, ops.clip(ops.round(quant_min - low / scale), quant_min, quant_max)


def refine_scale(x, scale, zero_point, quant_min, quant_max):
    """Returns the least-squares scale for the codes that `scale` gives: one descent step on the squared error.

    `u = code - zero_point`; `scale = sum(x u) / sum(u^2)` over the values that share the scale. It never increases the
    error `sum (x - scale u)^2`. A block whose `u` are all zero keeps its scale.

    Args:
        x: float tensor.
        scale: positive tensor (see the module).
        zero_point: tensor of `scale`'s shape.
        quant_min: lowest code.
        quant_max: highest code.

    Returns:
        float32 tensor of `scale`'s shape, at least 2^-64.

    Example:

    >>> one = ops.ones((1,))
    >>> ops.convert_to_numpy(refine_scale(ops.convert_to_tensor([-1.2, 1.2]), one, 0 * one, -1, 1)).tolist()
    [1.2000000476837158]

    Source: the scale update of Lloyd's algorithm, IEEE Trans. Inf. Theory 28 (1982).
    """
    x = ops.cast(x, "float32")
    steps = quantize(x, scale, zero_point, quant_min, quant_max) - expand(zero_point, x.shape)
    numerator = reduce(ops.sum, x * steps, scale.shape)
    denominator = reduce(ops.sum, ops.square(steps), scale.shape)
    refined = numerator / ops.where(denominator > 0, denominator, ops.ones_like(denominator))
    return ops.where(denominator > 0, ops.maximum(refined, MIN_SCALE), scale)


def squared_error(x, scale, zero_point, quant_min, quant_max):
    """Returns `sum (x - fake_quantize(x))^2` over the values that share a scale.

    Args:
        x: float tensor.
        scale: positive tensor (see the module).
        zero_point: tensor of `scale`'s shape.
        quant_min: lowest code.
        quant_max: highest code.

    Returns:
        float32 tensor of `scale`'s shape.

    Example:

    >>> one = ops.ones((1,))
    >>> ops.convert_to_numpy(squared_error(ops.convert_to_tensor([0.5, 3.0]), one, 0 * one, -1, 1)).tolist()
    [4.25]
    """
    x = ops.cast(x, "float32")
    codes = quantize(x, scale, zero_point, quant_min, quant_max)
    return reduce(ops.sum, ops.square(x - dequantize(codes, scale, zero_point)), scale.shape)


def mse_range(x, shape, quant_min, quant_max, zero_point=0.0, symmetric=True):
    """Returns the scale and zero point with the least squared error: a search around the min-max range, then refined.

    For every block, 40 scales are tried, evenly spaced from 1/32 to 5/4 of the min-max scale. An asymmetric grid tries
    them with the min-max zero point and with its two neighbors. The best one is then refined by least squares
    (`refine_scale`, 8 rounds). Never worse than the min-max range, which is among the candidates.

    Args:
        x: float tensor.
        shape: the scale's shape.
        quant_min: lowest code.
        quant_max: highest code.
        zero_point: 0 or -1/2; used by a symmetric grid.
        symmetric: False fits a zero point as well.

    Returns:
        Two float32 tensors of `shape`.

    Example:

    >>> x = ops.convert_to_tensor([-1.0, -1.0, 1.0, 1.0, 1.0, 9.0])
    >>> scale, _ = mse_range(x, (1,), -127, 127)
    >>> bool(scale[0] < 9.0 / 126)
    True

    Source: the clip search of Banner et al., arXiv 1810.05723, section 3, done numerically.
    """
    x = ops.cast(x, "float32")
    best = None
    for base_scale, base_zero in _base_grids(x, shape, quant_min, quant_max, zero_point, symmetric):
        for fractions in _fraction_batches(math.prod(x.shape), len(x.shape)):
            scales = fractions * base_scale
            zeros = ops.broadcast_to(base_zero, scales.shape)
            best = _better(best, _best_of(x, scales, zeros, quant_min, quant_max))
    _, scale, zero = best
    for _ in range(MSE_REFINEMENTS):
        scale = refine_scale(x, scale, zero, quant_min, quant_max)
    return ops.maximum(scale, MIN_SCALE), zero


def _base_grids(x, shape, quant_min, quant_max, zero_point, symmetric):
    """Yields the scales and zero points that the search starts from, the min-max range first."""
    if symmetric:
        scale = symmetric_scale(x, shape, quant_min, quant_max, zero_point)
        yield scale, ops.full(shape, zero_point, "float32")
        return
    scale, zero = asymmetric_range(x, shape, quant_min, quant_max)
    for shift in (0.0, -1.0, 1.0):
        yield scale, ops.clip(zero + shift, quant_min, quant_max)


def _fraction_batches(num_elements, rank):
    """Yields the fractions of the scale to try, as tensors with a leading axis: as many at once as memory allows."""
    batch_size = max(1, min(len(MSE_FRACTIONS), MSE_ELEMENTS // max(num_elements, 1)))
    for start in range(0, len(MSE_FRACTIONS), batch_size):
        batch = MSE_FRACTIONS[start : start + batch_size]
        yield ops.reshape(ops.convert_to_tensor(batch, "float32"), (len(batch),) + (1,) * rank)


def _best_of(x, scales, zeros, quant_min, quant_max):
    """Returns the least error over the leading axis, and the scale and zero point that give it, block by block."""
    copies = ops.broadcast_to(x[None], (scales.shape[0], *x.shape))
    errors = squared_error(copies, scales, zeros, quant_min, quant_max)
    best_index = ops.argmin(errors, axis=0)[None]
    return [ops.take_along_axis(values, best_index, axis=0)[0] for values in (errors, scales, zeros)]


def _better(first, second):
    """Returns, block by block, the (error, scale, zero point) with the smaller error."""
    if first is None:
        return second
    return [ops.where(second[0] < first[0], b, a) for a, b in zip(first, second, strict=True)]
