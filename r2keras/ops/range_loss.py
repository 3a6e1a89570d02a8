"""Losses that grow with the range of a weight tensor, written in `keras.ops`.

Each takes a tensor of any shape, computes in float32 (float64 stays float64) and returns one scalar.

`dim` is the length of a palette vector: the loss is computed for every coordinate of the sub-vectors and summed.
`channel_axis` gives the axes whose entries are quantized separately: the loss is computed for every channel and
averaged. A tensor whose channels are all alike then has the same loss per channel as per tensor, and one factor works
for both; a sum would grow with the number of channels.
"""

from __future__ import annotations

import math

import keras
from keras import ops

from r2keras._util.errors import invalid
from r2keras._util.numeric import as_int

# Beyond the largest weight, a margin is pulled back as hard as n / 100 of the n weights would push it out.
_WEIGHTS_PER_PULL = 100.0
# A standard deviation below this fraction of the mean is rounding error: the tensor counts as constant.
_CONSTANT = 1e-6
# A channel whose standard deviation is below this fraction of the tensor's is dead. In units of its own standard
# deviation, its gradients would explode.
_DEAD = 0.01


def subvectors(w, dim: int):
    """Splits a weight into sub-vectors of consecutive output channels (its last axis).

    A kernel of shape `(..., C)` gives `prod(...) * (C // dim)` rows, in row-major order. If `dim` does not divide `C`,
    the last `C % dim` channels are left out. `dim=1` gives one column with every weight.

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
    num_channels = w.shape[-1] if len(w.shape) else 1
    if dim > num_channels:
        fix = f"The weight has the shape {tuple(w.shape)}: use dim=1, or leave this weight out"
        raise ValueError(invalid("dim", f"at most the last axis of the weight ({num_channels})", dim, fix))
    return ops.reshape(w[..., : num_channels - num_channels % dim], (-1, dim))


def channels(w, channel_axis: int | tuple[int, ...] = -1):
    """Arranges the weights of every channel in a row.

    Args:
        w: tensor of rank 1 or more, any float type.
        channel_axis: the channel axis, or several; negative counts from the end.

    Returns:
        Tensor `(channels, weights per channel)` of the type of `w`; channels in row-major order of the axes as given.

    Raises:
        ValueError: an axis that the weight does not have, or that is given twice.

    Example:

    >>> import numpy as np
    >>> kernel = np.arange(6.0).reshape(3, 2)
    >>> keras.ops.convert_to_numpy(channels(kernel)).tolist()
    [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]
    """
    w = ops.convert_to_tensor(w)
    channel_axes, other_axes = _split_axes(tuple(w.shape), channel_axis)
    order = [*channel_axes, *other_axes]
    channels_first = w if order == sorted(order) else ops.transpose(w, order)
    return ops.reshape(channels_first, (math.prod(w.shape[axis] for axis in channel_axes), -1))


def channel_std(rows):
    """Returns the standard deviation of every channel, 1 where the whole tensor is constant.

    `std_c = max(sqrt(mean_i (w_ci - mean_i w_ci)^2), std(w) / 100)`. The lower bound is for dead channels: divided by
    a standard deviation near 0, their weights would get gradients that push them out of the range of all others.
    Gradient: `(w_ci - mean_i w_ci) / (n std_c)` for the `n` weights of a channel, 0 at the bound.

    Args:
        rows: tensor `(channels, weights per channel)`, see `channels`; any float type.

    Returns:
        A positive tensor `(channels, 1)`.

    Example:

    >>> import numpy as np
    >>> keras.ops.convert_to_numpy(channel_std(np.array([[1.0, 3.0], [5.0, 9.0]]))).tolist()
    [[1.0], [2.0]]
    """
    rows = as_float(rows)
    _, tensor_std, varies = _spread(rows)
    centered = rows - ops.mean(rows, axis=1, keepdims=True)
    own_std, floor = _root_mean_square(centered, axis=1), _DEAD * tensor_std
    bounded = _with_gradient(ops.maximum(own_std, floor), centered, own_std > floor, axis=1)
    return ops.where(varies, bounded, ops.ones_like(own_std))


def check_dim(dim: int) -> int:
    """Returns `dim` as a Python int; raises unless it is an integer of at least 1."""
    whole = as_int(dim)
    if whole is None or whole < 1:
        kind = TypeError if whole is None else ValueError
        raise kind(invalid("dim", "an integer of at least 1", dim))
    return whole


def safe_std(w):
    """Returns the standard deviation of a tensor, 1 for a constant tensor.

    `std = sqrt(mean((w - mean w)^2))`. A tensor counts as constant if this is at most `1e-6 |mean w|`, the size of
    float32 rounding errors of equal values.
    Gradient: `(w_i - mean w) / (n std)` for `n` weights, 0 for a constant tensor.

    Args:
        w: tensor of any shape and float type.

    Returns:
        A positive scalar tensor.

    Example:

    >>> float(safe_std([1.0, 3.0])), float(safe_std([0.0, 0.0]))
    (1.0, 1.0)
    """
    centered, std, varies = _spread(as_float(w))
    return ops.where(varies, _with_gradient(std, centered, varies), ops.ones_like(std))


def as_float(w):
    """Returns `w` as a float32 tensor; float64 stays float64."""
    w = ops.convert_to_tensor(w)
    return ops.cast(w, keras.backend.result_type(keras.backend.standardize_dtype(w.dtype), "float32"))


def linf(w, *, dim: int = 1, channel_axis: int | tuple[int, ...] | None = None):
    """Largest magnitude of the weights (R2 L-infinity).

    `R = sum_j max_i |w_ij|` over the coordinates `j` of the sub-vectors; `max|w|` for `dim=1`. Per channel, `R = 1/C
    sum_c max_i |w_ci|`.
    Gradient: `sign(w_i)` at the largest `|w_i|` of a coordinate (`sign(w_i) / C` for a channel), shared evenly between
    equal magnitudes, 0 elsewhere.

    Args:
        w: tensor of any shape and float type.
        dim: length of a palette vector, see `subvectors`.
        channel_axis: channel axes, see `channels`; None treats the tensor as a whole.

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
    """A margin plus the weights' excess beyond it (R2 margin).

    `R = sum_j (min(|M_j|, max_i|w_ij|) + sum_i max(|w_ij| - |M_j|, 0))`. Minimized over `M` it equals `linf(w)`.
    Up to `|M| = max|w|` this is the paper's `|M| + sum_i max(|w_i| - |M|, 0)`, with
    `dR/dw_i = sign(w_i) 1[|w_i| > |M|]` and `dR/dM = sign(M) (1 - count(|w_i| > |M|))`.

    A large step can push `M` beyond `max|w|`, where the paper's loss no longer restricts the layer and pulls `M` back
    with a gradient of only 1. Here, R is `max|w|` there, with the gradient of `linf` for `w`. `M`, although R does not
    depend on it, gets the gradient `sign(M) max(1, n/100 (1 - max|w| / |M|))` for `n` weights in the coordinate.

    Per channel, `R` is the mean of the same over the channels, each with its own `M_c` or all with one `M`, and the
    gradients are `1/C` of these. One `M` for all settles where, on average, one weight per channel is outside.

    Args:
        w: tensor of any shape and float type.
        margin: scalar, or one value per coordinate or channel, shape `(dim,)` or `(C,)`, in the units of `w`.
        dim: length of a palette vector, see `subvectors`.
        channel_axis: channel axes, see `channels`; None treats the tensor as a whole.

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
    magnitudes = ops.abs(rows)
    limit = magnitude(_column(margin, magnitudes.dtype))
    largest = ops.max(magnitudes, axis=1, keepdims=True)
    bounded = ops.where(ops.less_equal(limit, largest), limit, largest)
    excess = ops.sum(ops.relu(magnitudes - limit), axis=1, keepdims=True)
    pull = _pull(limit, largest, magnitudes.shape[1])
    # The last term is 0; it only adds the gradient `pull` to the margin's.
    return combine(excess + bounded + pull * (limit - ops.stop_gradient(limit)))


def soft_min_max(w, sharpness, *, dim: int = 1, channel_axis: int | tuple[int, ...] | None = None):
    """A smooth range: soft maximum minus soft minimum (R2 soft-min-max).

    `R = sum_j (s_max - s_min + exp(-a))` with `p = softmax(a w)`, `q = softmax(-a w)`, `s_max = sum_i p_i w_i`,
    `s_min = sum_i q_i w_i` in each coordinate `j`; `a` is the sharpness. `R - exp(-a)` tends to `max w - min w`
    for a large `a` and to `2 a Var(w)` for a small one.
    Gradient: `dR/dw_i = p_i (1 + a (w_i - s_max)) - q_i (1 - a (w_i - s_min))`,
    `dR/da = Var_p(w) + Var_q(w) - exp(-a)`. Per channel, `R` is the mean of the same over the channels, and the
    gradients are `1/C` of these.

    Args:
        w: tensor of any shape and float type.
        sharpness: scalar, or one value per coordinate or channel, shape `(dim,)` or `(C,)`; above 0, in the inverse
            units of `w`.
        dim: length of a palette vector, see `subvectors`.
        channel_axis: channel axes, see `channels`; None treats the tensor as a whole.

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
    # The soft minimum of w is minus the soft maximum of -w: stacked, both take one softmax.
    both = ops.stack([rows, -rows])
    probabilities = ops.softmax(both * sharpness, axis=-1)
    return combine(ops.sum(probabilities * both, axis=(0, 2)) + ops.exp(-sharpness[:, 0]))


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
    centered, std, varies = _spread(as_float(w))
    live = ops.cast(varies, std.dtype)
    # Divides by std because kurtosis does not depend on the scale and (w - mean)^4 of small weights would underflow.
    # For a constant tensor everything is multiplied by 0, gradients included.
    squares = ops.square(centered * (live / ops.where(varies, std, ops.ones_like(std))))
    return ops.mean(ops.square(squares)) / ops.square(ops.mean(squares) + (1.0 - live))


def magnitude(x):
    """Returns `|x|` with gradient 1 at 0, where the gradient 0 of `abs` would keep a learned scalar at 0 forever.

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
    """Returns `w - mean w`, its standard deviation, and whether that exceeds rounding errors; the last two detached."""
    mean = ops.mean(w)
    centered = w - mean
    std = _root_mean_square(centered)
    return centered, std, std > _CONSTANT * ops.stop_gradient(ops.abs(mean))


def _root_mean_square(centered, axis: int | None = None):
    """Returns the root mean square, without gradient: of the whole tensor, or along an axis, which is kept."""
    return ops.stop_gradient(ops.sqrt(ops.mean(ops.square(centered), axis=axis, keepdims=axis is not None)))


def _with_gradient(std, centered, live, axis: int | None = None):
    """Returns a standard deviation with its gradient where `live`; the gradient is 0, not infinite, elsewhere."""
    half = ops.where(live, 0.5 / ops.where(live, std, ops.ones_like(std)), ops.zeros_like(std))
    squares = ops.mean(ops.square(centered), axis=axis, keepdims=axis is not None)
    return std + half * (squares - ops.stop_gradient(squares))


def _pull(limit, largest, count: int):
    """Returns the gradient of a margin beyond the largest weight, 0 elsewhere."""
    beyond = ops.greater(limit, largest)
    safe = ops.where(beyond, limit, ops.ones_like(limit))
    strength = ops.maximum(1.0, count / _WEIGHTS_PER_PULL * (1.0 - largest / safe))
    return ops.stop_gradient(ops.where(beyond, strength, ops.zeros_like(strength)))


def _rows(w, dim: int, channel_axis: int | tuple[int, ...] | None):
    """Returns coordinates or channels as rows, and the function that combines their losses.

    Rows, because these reduce several times faster than columns.
    """
    if channel_axis is None:
        vectors = subvectors(as_float(w), dim)
        return ops.reshape(vectors, (1, -1)) if dim == 1 else ops.transpose(vectors), ops.sum
    check_dim(dim)
    if dim > 1:
        fix = "Sub-vectors span several channels: use either dim or channel_axis"
        raise ValueError(invalid("dim", "1 together with a channel_axis", dim, fix))
    return channels(as_float(w), channel_axis), ops.mean


def _split_axes(shape: tuple[int, ...], channel_axis: int | tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Returns the channel axes of a shape and its other axes, as non-negative numbers."""
    rank = len(shape)
    axes = tuple(channel_axis) if isinstance(channel_axis, (list, tuple)) else (channel_axis,)
    channel_axes = [axis % rank for axis in axes if -rank <= axis < rank]
    if not axes or len(set(channel_axes)) < len(axes):
        raise ValueError(invalid("channel_axis", f"one or more axes of the weight's shape {shape}", channel_axis))
    return channel_axes, [axis for axis in range(rank) if axis not in channel_axes]


def _column(values, dtype: str):
    """Returns one value, or one per row, as a column."""
    return ops.reshape(ops.cast(values, dtype), (-1, 1))
