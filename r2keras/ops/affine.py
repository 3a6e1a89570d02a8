"""Uniform (affine) quantization as pure functions: `w = scale * (code - zero_point)`.

Scales and zero points have the rank of the tensor. Each of their axes is 1, the tensor's size, or a divisor of that
size; with a divisor, one entry serves a run of consecutive elements (per-group scales). Arithmetic is in float32
whatever the input's type.
"""

from __future__ import annotations

from keras import ops

from r2keras.ops.ste import custom_gradient

# The scale of an all-zero tensor: large enough to divide by, small enough that half a step of it is negligible.
MIN_SCALE = 2.0**-64


# The smallest scale of other tensors: half a step of it is a normal float32 number, which no processor flushes to zero.
SMALLEST_SCALE = 2.0**-120


def floored(scale):
    """Returns scales to divide by: at least 2^-120, and 2^-64 in place of 0, which is that of a block of zeros.

    Example:

    >>> ops.convert_to_numpy(floored(ops.convert_to_tensor([0.0, 0.5]))).tolist() == [MIN_SCALE, 0.5]
    True
    """
    return ops.where(scale <= 0.0, MIN_SCALE, ops.maximum(scale, SMALLEST_SCALE))


def unit(largest):
    """Returns powers of two by which values are multiplied so that float32 holds their squares: 1 for usual ones.

    Args:
        largest: float32 tensor, the largest magnitudes.

    Example:

    >>> [float(factor) for factor in unit(ops.convert_to_tensor([1e-30, 0.3, 1e30]))] == [2.0**80, 1.0, 2.0**-80]
    True
    """
    is_small = ops.logical_and(largest > 0.0, largest < 2.0**-40)
    return ops.where(is_small, 2.0**80, ops.where(largest > 2.0**40, 2.0**-80, 1.0))


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
    split_shape, reduced_axes = block_axes(x.shape, shape)
    if reduced_axes:
        x = function(ops.reshape(x, split_shape), axis=reduced_axes)
    return ops.reshape(x, shape)


def block_axes(shape, scale_shape):
    """Returns the shape that splits a tensor into the blocks that share a scale, and the axes that each block spans.

    Args:
        shape: the tensor's shape.
        scale_shape: the scale's shape.

    Example:

    >>> block_axes((1, 4), (1, 2))
    ([1, 2, 2], [2])
    """
    split_shape, axes = [], []
    for size, num_blocks in zip(shape, scale_shape, strict=True):
        if num_blocks == size:
            split_shape.append(size)
        else:
            split_shape += [num_blocks, size // num_blocks]
            axes.append(len(split_shape) - 1)
    return split_shape, axes


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
        float32 tensor of `shape`, above 0 (see `floored`).

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
    return floored(ops.maximum(high * per_high, low * per_low))


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
    # Halves, because the difference of huge values is infinite.
    scale = floored((0.5 * high - 0.5 * low) * (2.0 / (quant_max - quant_min)))
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
        float32 tensor of `scale`'s shape, above 0 (see `floored`).

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
    return ops.where(denominator > 0, floored(refined), scale)
