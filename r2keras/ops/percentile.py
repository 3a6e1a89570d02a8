"""Percentiles of the values that share a scale: a range that ignores outliers."""

from __future__ import annotations

import math

from keras import ops

from r2keras.ops import affine


def percentiles(x, shape, percent):
    """Returns a percentile of every block of `x` that shares one entry of `shape`, linearly interpolated.

    Args:
        x: float tensor.
        shape: rank of `x`; each axis 1, the size of `x` or a divisor of it.
        percent: 0 (the smallest value) to 100 (the largest).

    Returns:
        float32 tensor of `shape`. No gradient is meant to flow through it.

    Example:

    >>> x = ops.convert_to_tensor([[1.0, 5.0, 2.0], [30.0, 10.0, 20.0]])
    >>> ops.convert_to_numpy(percentiles(x, (2, 1), 50)).tolist()
    [[2.0], [20.0]]

    Source: Hyndman and Fan, The American Statistician 50 (1996), definition 7.
    """
    rows = ops.sort(_rows(ops.cast(x, "float32"), shape), axis=-1)
    place = percent / 100 * (rows.shape[-1] - 1)
    low, high = rows[:, math.floor(place)], rows[:, math.ceil(place)]
    return ops.reshape(low + (high - low) * (place - math.floor(place)), shape)


def clip_to_percentile(x, shape, percent, symmetric=True):
    """Clips every block of `x` to its percentiles: its min-max range is then the percentile range of `x`.

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
        low, high = (percentiles(x, shape, share) for share in (100 - percent, percent))
    return ops.minimum(ops.maximum(x, affine.expand(low, x.shape)), affine.expand(high, x.shape))


def _rows(x, shape):
    """Returns one row for every entry of `shape`: the values that share it."""
    split, kept, shared = [], [], []
    for size, parts in zip(x.shape, shape, strict=True):
        kept.append(len(split))
        shared.append(len(split) + 1)
        split += [parts, size // parts]
    return ops.reshape(ops.transpose(ops.reshape(x, split), kept + shared), (math.prod(shape), -1))
