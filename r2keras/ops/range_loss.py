"""Losses that grow with the range of a weight tensor, written in `keras.ops`.

Each takes a tensor of any shape, computes in float32 (float64 stays float64) and returns one scalar.
`dim` is the length of a palette vector: the loss of every coordinate of the sub-vectors, summed. `channel_axis` names
the axes whose entries are quantized apart: the loss of every channel, averaged, so that a tensor whose channels are all
alike has the loss it has as a whole, and one strength serves both. (A sum would grow with the number of channels.)
"""

from __future__ import annotations

import math

import keras
from keras import ops

from r2keras._errors import invalid

# Above the largest weight the margin is pulled down as hard as one weight in this many pushes it up.
_PULL = 100.0
# A spread below this part of the mean is what rounding leaves of a constant tensor.
_CONSTANT = 1e-6
# A channel that spreads less than this part of the tensor is dead: in units of its own spread, gradients would explode.
_DEAD = 0.01


def subvectors(w, dim: int):
    """Splits a weight into sub-vectors of consecutive output channels (its last axis).

    A kernel of shape `(..., C)` gives `prod(...) * (C // dim)` rows, in row-major order. If `dim` does not
    divide `C`, the last `C % dim` channels are left out. `dim=1` gives one column with every weight.

    Args:
        w: tensor `(..., C)`, any float type.
        dim: length of a sub-vector, from 1 to `C`.

    Returns:
        Tensor `(rows, dim)` of the type of `w`.

    Raises:
        ValueError: `dim` is not an integer of at least 1, or larger than the last axis.

    Example:

    >>> import numpy as np
    >>> kernel = np.arange(10.0).reshape(2, 5)
    >>> keras.ops.convert_to_numpy(subvectors(kernel, 2)).tolist()
    [[0.0, 1.0], [2.0, 3.0], [5.0, 6.0], [7.0, 8.0]]
    """
    check_dim(dim)
    w = ops.convert_to_tensor(w)
    if dim == 1:
        return ops.reshape(w, (-1, 1))
    channels = w.shape[-1] if len(w.shape) else 1
    if dim > channels:
        fix = f"The weight has the shape {tuple(w.shape)}: use dim=1, or leave this weight out"
        raise ValueError(invalid("dim", f"at most the last axis of the weight ({channels})", dim, fix))
    return ops.reshape(w[..., : channels - channels % dim], (-1, dim))


def channels(w, channel_axis: int | tuple[int, ...] = -1):
    """Puts the weights of every channel into a row.

    Args:
        w: tensor of rank 1 or more, any float type.
        channel_axis: the axis that tells channels apart, or several; negative counts from the end.

    Returns:
        Tensor `(channels, weights a channel)` of the type of `w`; channels in row-major order of their axes as given.

    Raises:
        ValueError: an axis that the weight does not have, or has been named twice.

    Example:

    >>> import numpy as np
    >>> kernel = np.arange(6.0).reshape(3, 2)
    >>> keras.ops.convert_to_numpy(channels(kernel)).tolist()
    [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]
    """
    w = ops.convert_to_tensor(w)
    kept, rest = _axes(tuple(w.shape), channel_axis)
    order = [*kept, *rest]
    moved = w if order == sorted(order) else ops.transpose(w, order)
    return ops.reshape(moved, (math.prod(w.shape[axis] for axis in kept), -1))


def channel_std(rows):
    """Returns the standard deviation of every channel, 1 where the whole tensor is constant.

    `std_c = max(sqrt(mean_i (w_ci - mean_i w_ci)^2), std(w) / 100)`. The bound is for dead channels: the weights of
    one, taken in units of a spread of almost nothing, would get gradients that throw them out of the range of all
    others.
    Gradient: `(w_ci - mean_i w_ci) / (n std_c)` for the `n` weights of a channel, 0 at the bound.

    Args:
        rows: tensor `(channels, weights a channel)`, see `channels`; any float type.

    Returns:
        A positive tensor `(channels, 1)`.

    Example:

    >>> import numpy as np
    >>> keras.ops.convert_to_numpy(channel_std(np.array([[1.0, 3.0], [5.0, 9.0]]))).tolist()
    [[1.0], [2.0]]
    """
    rows = as_float(rows)
    _, whole, varies = _spread(rows)
    centred = rows - ops.mean(rows, axis=1, keepdims=True)
    own, floor = _deviation(centred, axis=1), _DEAD * whole
    return ops.where(varies, _with_gradient(ops.maximum(own, floor), centred, own > floor, axis=1), ops.ones_like(own))


def check_dim(dim: int) -> None:
    """Raises unless `dim` is an integer of at least 1."""
    if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
        raise ValueError(invalid("dim", "an integer of at least 1", dim))


def safe_std(w):
    """Returns the standard deviation of a tensor, 1 for a constant tensor.

    `std = sqrt(mean((w - mean w)^2))`. Constant is a spread of at most `1e-6 |mean w|`, what float32 rounding leaves of
    equal values.
    Gradient: `(w_i - mean w) / (n std)` for `n` weights, 0 for a constant tensor.

    Args:
        w: tensor of any shape and float type.

    Returns:
        A positive scalar tensor.

    Example:

    >>> float(safe_std([1.0, 3.0])), float(safe_std([0.0, 0.0]))
    (1.0, 1.0)
    """
    centred, std, varies = _spread(as_float(w))
    return ops.where(varies, _with_gradient(std, centred, varies), ops.ones_like(std))


def as_float(w):
    """Returns `w` as a tensor of float32, or float64 if it has that already."""
    w = ops.convert_to_tensor(w)
    return ops.cast(w, keras.backend.result_type(keras.backend.standardize_dtype(w.dtype), "float32"))


def linf(w, *, dim: int = 1, channel_axis: int | tuple[int, ...] | None = None):
    """Largest magnitude of the weights (R2 L-infinity).

    `R = sum_j max_i |w_ij|` over the coordinates `j` of the sub-vectors; `max|w|` for `dim=1`. By channels, `R = 1/C
    sum_c max_i |w_ci|`.
    Gradient: `sign(w_i)` at the largest `|w_i|` of a coordinate (`sign(w_i) / C`, of a channel), shared evenly between
    equals, 0 elsewhere.

    Args:
        w: tensor of any shape and float type.
        dim: length of a palette vector, see `subvectors`.
        channel_axis: axes of the channels, see `channels`; None takes the tensor as a whole.

    Returns:
        Scalar tensor.

    Raises:
        ValueError: see `subvectors` and `channels`; `dim` above 1 together with `channel_axis`.

    Example:

    >>> float(linf([0.5, -2.0, 1.0]))
    2.0

    Source: R2 Loss, arXiv 2303.08253, section 3 (L-infinity).
    """
    rows, combine = _rows(w, dim, channel_axis)
    return combine(ops.max(ops.abs(rows), axis=1))


def margin(w, margin, *, dim: int = 1, channel_axis: int | tuple[int, ...] | None = None):
    """A margin and what sticks out of it (R2 margin).

    `R = sum_j (min(|M_j|, max_i|w_ij|) + sum_i max(|w_ij| - |M_j|, 0))`. Minimised over `M` it is `linf(w)`.
    Up to `|M| = max|w|` this is the paper's `|M| + sum_i max(|w_i| - |M|, 0)`, with
    `dR/dw_i = sign(w_i) 1[|w_i| > |M|]` and `dR/dM = sign(M) (1 - count(|w_i| > |M|))`.
    A large step can throw `M` beyond `max|w|`, where the paper's loss no longer restricts the layer and pulls
    `M` back by 1 only. There R is `max|w|` with the gradient of `linf` for `w`, and `M`, although R does not
    depend on it, gets the gradient `sign(M) max(1, n/100 (1 - max|w| / |M|))` for `n` weights in the coordinate.
    By channels, `R = 1/C sum_c` of the same, each channel with its own `M_c` or all with one, and the gradients `1/C`
    of these. One `M` for all then settles where one weight a channel is outside, on average.

    Args:
        w: tensor of any shape and float type.
        margin: scalar, or one value a coordinate or channel, shape `(dim,)` or `(C,)`, in the units of `w`.
        dim: length of a palette vector, see `subvectors`.
        channel_axis: axes of the channels, see `channels`; None takes the tensor as a whole.

    Returns:
        Scalar tensor.

    Raises:
        ValueError: see `subvectors` and `channels`; `dim` above 1 together with `channel_axis`.

    Example:

    >>> weights = [0.5, -2.0, 1.0]
    >>> [float(margin(weights, m)) for m in (0.0, 0.5, 2.0, 9.0)]
    [3.5, 2.5, 2.0, 2.0]

    Source: R2 Loss, arXiv 2303.08253, section 3 (margin); the bound on `M` is ours.
    """
    rows, combine = _rows(w, dim, channel_axis)
    size = ops.abs(rows)
    limit = magnitude(_column(margin, size.dtype))
    largest = ops.max(size, axis=1, keepdims=True)
    held = ops.where(ops.less_equal(limit, largest), limit, largest)
    outside = ops.sum(ops.relu(size - limit), axis=1, keepdims=True)
    pull = _pull(limit, largest, size.shape[1])
    return combine(outside + held + pull * (limit - ops.stop_gradient(limit)))


def soft_min_max(w, sharpness, *, dim: int = 1, channel_axis: int | tuple[int, ...] | None = None):
    """A smooth range: soft maximum minus soft minimum (R2 soft-min-max).

    `R = sum_j (s_max - s_min + exp(-a))` with `p = softmax(a w)`, `q = softmax(-a w)`, `s_max = sum_i p_i w_i`,
    `s_min = sum_i q_i w_i` in each coordinate `j`; `a` is the sharpness. `R - exp(-a)` tends to `max w - min w`
    for a large `a` and to `2 a Var(w)` for a small one.
    Gradient: `dR/dw_i = p_i (1 + a (w_i - s_max)) - q_i (1 - a (w_i - s_min))`,
    `dR/da = Var_p(w) + Var_q(w) - exp(-a)`. By channels, `R = 1/C sum_c` of the same, and the gradients `1/C` of these.

    Args:
        w: tensor of any shape and float type.
        sharpness: scalar, or one value a coordinate or channel, shape `(dim,)` or `(C,)`; above 0, in units of 1 over
            those of `w`.
        dim: length of a palette vector, see `subvectors`.
        channel_axis: axes of the channels, see `channels`; None takes the tensor as a whole.

    Returns:
        Scalar tensor.

    Raises:
        ValueError: see `subvectors` and `channels`; `dim` above 1 together with `channel_axis`.

    Example:

    >>> round(float(soft_min_max([0.5, -2.0, 1.0], 50.0)), 4)
    3.0

    Source: R2 Loss, arXiv 2303.08253, section 3 (soft-min-max).
    """
    rows, combine = _rows(w, dim, channel_axis)
    sharpness = _column(sharpness, rows.dtype)
    # The soft minimum is minus the soft maximum of -w; both at once are half as many operations.
    both = ops.stack([rows, -rows])
    shares = ops.softmax(both * sharpness, axis=-1)
    return combine(ops.sum(shares * both, axis=(0, 2)) + ops.exp(-sharpness[:, 0]))


def kurtosis(w):
    """Kurtosis of the weights: 3 for a normal distribution, 1.8 for a uniform one.

    `K = mean(z^4) / mean(z^2)^2` with `z = w - mean w`; 0 for a constant tensor.
    Gradient: `dK/dw_i = 4 / (n s^4) (z_i^3 - mean(z^3) - K s^2 z_i)` with `s^2 = mean(z^2)`; 0 for a constant tensor.

    Args:
        w: tensor of any shape and float type.

    Returns:
        Scalar tensor, at least 1 (0 for a constant tensor).

    Example:

    >>> round(float(kurtosis([-1.0, 0.0, 1.0])), 4)
    1.5

    Source: KURE, Robust Quantization, arXiv 2002.07686, section 4.
    """
    centred, std, varies = _spread(as_float(w))
    live = ops.cast(varies, std.dtype)
    # Kurtosis does not change with the scale, and (w - mean)^4 of small weights would underflow. For a constant tensor
    # everything is multiplied by 0, gradients included.
    squares = ops.square(centred * (live / ops.where(varies, std, ops.ones_like(std))))
    return ops.mean(ops.square(squares)) / ops.square(ops.mean(squares) + (1.0 - live))


def magnitude(x):
    """Returns `|x|` with the gradient 1 at 0, where `abs` has 0 and would hold a learned scalar for ever.

    Args:
        x: tensor of any float type.

    Returns:
        Tensor of the shape and type of `x`.

    Example:

    >>> [float(value) for value in magnitude(ops.convert_to_tensor([-2.0, 0.5]))]
    [2.0, 0.5]
    """
    return x * ops.stop_gradient(ops.cast(ops.where(x < 0, -1.0, 1.0), x.dtype))


def _spread(w):
    """Returns `w - mean w`, and without gradient the standard deviation and whether it is more than rounding."""
    mean = ops.mean(w)
    centred = w - mean
    std = _deviation(centred)
    return centred, std, std > _CONSTANT * ops.stop_gradient(ops.abs(mean))


def _deviation(centred, axis: int | None = None):
    """Returns the root mean square of a tensor, or along an axis that stays, without gradient."""
    return ops.stop_gradient(ops.sqrt(ops.mean(ops.square(centred), axis=axis, keepdims=axis is not None)))


def _with_gradient(std, centred, live, axis: int | None = None):
    """Returns a standard deviation with its gradient where `live`; nothing of it is infinite where it is 0."""
    half = ops.where(live, 0.5 / ops.where(live, std, ops.ones_like(std)), ops.zeros_like(std))
    squares = ops.mean(ops.square(centred), axis=axis, keepdims=axis is not None)
    return std + half * (squares - ops.stop_gradient(squares))


def _pull(limit, largest, count: int):
    """Returns the gradient of a margin above the largest weight, 0 below."""
    beyond = ops.greater(limit, largest)
    safe = ops.where(beyond, limit, ops.ones_like(limit))
    strength = ops.maximum(1.0, count / _PULL * (1.0 - largest / safe))
    return ops.stop_gradient(ops.where(beyond, strength, ops.zeros_like(strength)))


def _rows(w, dim: int, channel_axis: int | tuple[int, ...] | None):
    """Returns coordinates or channels as rows, which reduce several times faster than columns, and what joins them."""
    if channel_axis is None:
        vectors = subvectors(as_float(w), dim)
        return ops.reshape(vectors, (1, -1)) if dim == 1 else ops.transpose(vectors), ops.sum
    check_dim(dim)
    if dim > 1:
        fix = "Sub-vectors run across the channels: choose one of the two"
        raise ValueError(invalid("dim", "1 together with a channel_axis", dim, fix))
    return channels(as_float(w), channel_axis), ops.mean


def _axes(shape: tuple[int, ...], channel_axis: int | tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Returns the channel axes of a shape and the other ones, as non-negative numbers."""
    rank, given = len(shape), (channel_axis,) if isinstance(channel_axis, int) else tuple(channel_axis)
    kept = [axis % rank for axis in given if -rank <= axis < rank]
    if not given or len(set(kept)) < len(given):
        raise ValueError(invalid("channel_axis", f"one or more axes of the weight's shape {shape}", channel_axis))
    return kept, [axis for axis in range(rank) if axis not in kept]


def _column(values, dtype: str):
    """Returns one value, or one a coordinate, as a column."""
    return ops.reshape(ops.cast(values, dtype), (-1, 1))
