"""Percentiles of the values that share a scale, for ranges that ignore outliers."""

from __future__ import annotations

import math

from keras import ops

from r2keras.ops import affine


def percentiles(x, shape, percent):
    """Returns a percentile of every block of `x` that shares one entry of `shape`, linearly interpolated.

    Args:
        x: float tensor.
        shape: the rank of `x`; each axis is 1, the size of `x`, or a divisor of it.
        percent: 0 (the smallest value) to 100 (the largest).

    Returns:
        float32 tensor of `shape`. Not intended for gradients.

    Example:

    >>> x = ops.convert_to_tensor([[1.0, 5.0, 2.0], [30.0, 10.0, 20.0]])
    >>> ops.convert_to_numpy(percentiles(x, (2, 1), 50)).tolist()
    [[2.0], [20.0]]

    Source: Hyndman and Fan, The American Statistician 50 (1996), definition 7.
    """
    rows = ops.sort(_rows(ops.cast(x, "float32"), shape), axis=-1)
    rank = percent / 100 * (rows.shape[-1] - 1)
    low, high = rows[:, math.floor(rank)], rows[:, math.ceil(rank)]
    return ops.reshape(low + (high - low) * (rank - math.floor(rank)), shape)


def clip_to_percentile(x, shape, percent, symmetric=True):
    """Clips every block of `x` to its percentiles, so that its min-max range becomes the percentile range.

    Symmetric: to `[-p, p]`, `p` the percentile of `|x|`. Asymmetric: to the percentiles `100 - percent` and `percent`.

    Args:
        x: float tensor.
        shape: as in `percentiles`.
        percent: above 50, at most 100 (nothing is clipped).
        symmetric: whether both ends are equally far from zero.

    Returns:
        float32 tensor of `x`'s shape.

    Example:

    >>> x = ops.convert_to_tensor([-3.0, 1.0, 2.0, 9.0, 4.0])
    >>> ops.convert_to_numpy(clip_to_percentile(x, (1,), 75)).tolist()
    [-3.0, 1.0, 2.0, 4.0, 4.0]

    Source: Nagel et al., arXiv 2106.08295, section 3.1.
    """
    x = ops.cast(x, "float32")
    if symmetric:
        high = percentiles(ops.abs(x), shape, percent)
        low = -high
    else:
        low, high = percentiles(x, shape, 100 - percent), percentiles(x, shape, percent)
    return ops.minimum(ops.maximum(x, affine.expand(low, x.shape)), affine.expand(high, x.shape))


def _rows(x, shape):
    """Returns one row for every entry of `shape`, with the values that share it."""
    split_shape, block_axes, shared_axes = [], [], []
    for size, num_blocks in zip(x.shape, shape, strict=True):
        block_axes.append(len(split_shape))
        shared_axes.append(len(split_shape) + 1)
        split_shape += [num_blocks, size // num_blocks]
    blocks = ops.transpose(ops.reshape(x, split_shape), block_axes + shared_axes)
    return ops.reshape(blocks, (math.prod(shape), -1))
