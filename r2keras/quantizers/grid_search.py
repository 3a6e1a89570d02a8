"""Search for the uniform grid with the least squared error, once per weight, outside of training.

The values are rounded in NumPy: a search makes a few hundred small steps, and
each of them costs a backend more time to start than to compute. Sums are the backend's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from keras import ops

from r2keras.ops import affine

# Fractions of the min-max scale that the MSE search tries, 5/4 down to 1/32. Some exceed 1, because a small block of
# weights can fit a wider grid best.
MSE_FRACTIONS = tuple((40 - i) / 32 for i in range(40))
# Weights times candidates in one batch of the search: 16 MB of squared errors.
MSE_ELEMENTS = 4_000_000
# Values that are rounded at once, if the weight has fewer: 256 KB, which stay in the processor's cache.
BLOCK_ELEMENTS = 65_536
# Least-squares rounds after the search.
MSE_REFINEMENTS = 8

# Error, scale and zero point of the best grid so far.
Best = tuple[np.ndarray, np.ndarray, np.ndarray]


def mse_range(x, shape, quant_min, quant_max, zero_point=0.0, symmetric=True):
    """Returns the scale and zero point with the least squared error: a search around the min-max range, then refined.

    For every block, 40 scales are tried, evenly spaced from 1/32 to 5/4 of the min-max scale. An asymmetric grid tries
    them with the min-max zero point and with its two neighbors. The best one is then refined by least squares
    (`affine.refine_scale`, 8 rounds). Never worse than the min-max range, which is among the candidates.

    Args:
        x: float tensor with values; a symbolic tensor has none.
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
    values = np.asarray(ops.convert_to_numpy(ops.cast(x, "float32")))
    # The squares of huge values are infinite, as in a backend, which says nothing.
    with np.errstate(over="ignore", invalid="ignore"):
        grid = _mse_range(values, shape, quant_min, quant_max, zero_point, symmetric)
    return tuple(map(ops.convert_to_tensor, grid))


def _mse_range(values, shape, quant_min, quant_max, zero_point, symmetric) -> tuple[np.ndarray, np.ndarray]:
    """Returns the result of `mse_range` as arrays."""
    limits = np.float32(quant_min), np.float32(quant_max)
    best: Best | None = None
    for base_scale, base_zero in _base_grids(values, shape, quant_min, quant_max, zero_point, symmetric):
        for fractions in _fraction_batches(values.size):
            scales = fractions.reshape(-1, *[1] * values.ndim) * base_scale
            found = _best_of(_squared_errors(values, scales, base_zero, limits), scales, base_zero)
            best = found if best is None else _better(best, found)
    assert best is not None  # There is at least one grid.
    _, scale, zero = best
    for _ in range(MSE_REFINEMENTS):
        refined = _refined(values, scale, zero, limits)
        if np.array_equal(refined, scale):
            # Every further round would give the same.
            break
        scale = refined
    return np.maximum(scale, np.float32(affine.MIN_SCALE)), zero


def _base_grids(values, shape, quant_min, quant_max, zero_point, symmetric) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the scales and zero points that the search starts from, the min-max range first.

    They are those of `affine.symmetric_scale` and `affine.asymmetric_range`, bit for bit.
    """
    split_shape, axes = affine.block_axes(values.shape, shape)
    blocks = values.reshape(split_shape)
    low, high = (end(axis=tuple(axes)).reshape(shape) for end in (blocks.min, blocks.max))
    least = np.float32(affine.MIN_SCALE)
    if symmetric:
        slack = 0.5 if zero_point else 0.0
        per_high, per_low = (
            np.float32(1.0 / part) for part in (quant_max - zero_point + slack, quant_min - zero_point - slack)
        )
        yield np.maximum(np.maximum(high * per_high, low * per_low), least), np.full(shape, zero_point, np.float32)
        return
    limits = np.float32(quant_min), np.float32(quant_max)
    low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    scale = np.maximum((high - low) * np.float32(1.0 / (quant_max - quant_min)), least)
    zero = np.clip(np.rint(limits[0] - low / scale), *limits)
    for shift in (0.0, -1.0, 1.0):
        yield scale, np.clip(zero + np.float32(shift), *limits)


def _fraction_batches(num_elements: int) -> Iterator[np.ndarray]:
    """Yields the fractions of the scale to try: as many at once as memory allows."""
    batch_size = max(1, min(len(MSE_FRACTIONS), MSE_ELEMENTS // max(num_elements, 1)))
    for start in range(0, len(MSE_FRACTIONS), batch_size):
        yield np.array(MSE_FRACTIONS[start : start + batch_size], np.float32)


def _squared_errors(values: np.ndarray, scales: np.ndarray, zero: np.ndarray, limits: tuple) -> np.ndarray:
    """Returns `sum (x - fake_quantize(x))^2` over the values that share a scale, for each scale of the leading axis."""
    errors = np.empty((len(scales), *values.shape), np.float32)
    spread_zero = _expand(zero, values.shape)
    count = max(1, BLOCK_ELEMENTS // max(values.size, 1))
    for start in range(0, len(scales), count):
        block = slice(start, start + count)
        scale, out = _expand(scales[block], (-1, *values.shape)), errors[block]
        _steps(values, scale, spread_zero, limits, out)
        out *= scale
        np.subtract(values, out, out=out)
        np.square(out, out=out)
    return _sums(errors, scales.shape)


def _best_of(errors: np.ndarray, scales: np.ndarray, zero: np.ndarray) -> Best:
    """Returns the least error over the leading axis, and the scale and zero point that give it, block by block."""
    index = np.argmin(errors, axis=0)[None]
    error, scale = (np.take_along_axis(part, index, axis=0)[0] for part in (errors, scales))
    return error, scale, zero


def _better(first: Best, second: Best) -> Best:
    """Returns, block by block, the error, scale and zero point with the smaller error."""
    error, scale, zero = (np.where(second[0] < first[0], b, a) for a, b in zip(first, second, strict=True))
    return error, scale, zero


def _refined(values: np.ndarray, scale: np.ndarray, zero: np.ndarray, limits: tuple) -> np.ndarray:
    """Returns the result of `affine.refine_scale`."""
    steps = np.empty_like(values)
    spread_scale, spread_zero = _expand(scale, values.shape), _expand(zero, values.shape)
    _steps(values, spread_scale, spread_zero, limits, steps)
    numerator = _sums(values * steps, scale.shape)
    denominator = _sums(np.square(steps, out=steps), scale.shape)
    alive = denominator > 0
    refined = numerator / np.where(alive, denominator, np.float32(1))
    return np.where(alive, np.maximum(refined, np.float32(affine.MIN_SCALE)), scale)


def _steps(values: np.ndarray, scale: np.ndarray, zero: np.ndarray, limits: tuple, out: np.ndarray) -> None:
    """Writes `code - zero_point` of all values to `out`, with scales and zero points that broadcast against them."""
    np.divide(values, scale, out=out)
    has_zero = zero.any()
    if has_zero:
        out += zero
    np.rint(out, out=out)
    np.maximum(out, limits[0], out=out)
    np.minimum(out, limits[1], out=out)
    if has_zero:
        out -= zero


def _sums(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the sums over the values that share an entry of `shape`."""
    split_shape, axes = affine.block_axes(values.shape, shape)
    if not axes:
        return values.reshape(shape)
    return np.asarray(ops.convert_to_numpy(ops.sum(values.reshape(split_shape), axis=axes))).reshape(shape)


def _expand(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeats a scale along the axes where one entry serves a run of elements, as `affine.expand` does; not on -1."""
    for axis, size in enumerate(shape):
        if size > 0 and values.shape[axis] not in (1, size):
            values = np.repeat(values, size // values.shape[axis], axis)
    return values
