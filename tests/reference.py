"""Uniform quantization in NumPy, written from its formulas, block by block: the oracle for the package.

Divisions by a number of steps are products with its float32 reciprocal, so that results can be compared bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

TINY = np.float32(2.0**-64)


def blocks(shape: tuple[int, ...], scale_shape: tuple[int, ...]) -> Iterator[tuple[tuple, tuple]]:
    """Yields, for every entry of a scale, its index and the slices of the weights that share it."""
    runs = [size // parts for size, parts in zip(shape, scale_shape, strict=True)]
    for index in itertools.product(*map(range, scale_shape)):
        yield index, tuple(slice(i * run, (i + 1) * run) for i, run in zip(index, runs, strict=True))


def codes(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, low: int, high: int) -> np.ndarray:
    """clip(round(x / scale + zero_point), low, high), in float32, rounding half to even."""
    result = np.empty(x.shape, np.int64)
    for index, part in blocks(x.shape, scale.shape):
        steps = x[part].astype(np.float32) / np.float32(scale[index]) + np.float32(zero_point[index])
        result[part] = np.minimum(np.maximum(np.rint(steps), low), high)
    return result


def dequantize(code: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """scale * (code - zero_point), in float32."""
    result = np.empty(code.shape, np.float32)
    for index, part in blocks(code.shape, scale.shape):
        result[part] = np.float32(scale[index]) * (code[part].astype(np.float32) - np.float32(zero_point[index]))
    return result


def fake_quantize(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, low: int, high: int) -> np.ndarray:
    """The value of a weight after rounding to its grid."""
    return dequantize(codes(x, scale, zero_point, low, high), scale, zero_point)


def passes(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, low: int, high: int) -> np.ndarray:
    """1 where the straight-through gradient passes: half a step beyond the outermost codes at most."""
    result = np.empty(x.shape, np.float32)
    for index, part in blocks(x.shape, scale.shape):
        steps = x[part].astype(np.float32) / np.float32(scale[index]) + np.float32(zero_point[index])
        result[part] = (steps >= low - 0.5) & (steps <= high + 0.5)
    return result


def symmetric_range(x: np.ndarray, scale_shape: tuple[int, ...], low: int, high: int, rise: bool):
    """Min-max scale and zero point of a symmetric grid.

    Mid-tread: the smaller grid that reaches both ends. Mid-rise: `2 max|x|` in as many equal cells as there are codes.
    """
    scale = np.empty(scale_shape, np.float32)
    for index, part in blocks(x.shape, scale_shape):
        top, bottom = np.float32(x[part].max()), np.float32(x[part].min())
        if rise:
            scale[index] = np.float32(2.0 * max(top, -bottom) / (high - low + 1))
        else:
            scale[index] = max(top * np.float32(1 / high), bottom * np.float32(1 / low))
    return np.maximum(scale, TINY), np.full(scale_shape, -0.5 if rise else 0.0, np.float32)


def asymmetric_range(x: np.ndarray, scale_shape: tuple[int, ...], low: int, high: int):
    """Min-max scale and zero point of an asymmetric grid: zero is in the range, and is one of the codes."""
    scale, zero = np.empty(scale_shape, np.float32), np.empty(scale_shape, np.float32)
    for index, part in blocks(x.shape, scale_shape):
        bottom, top = np.float32(min(x[part].min(), 0)), np.float32(max(x[part].max(), 0))
        scale[index] = max((top - bottom) * np.float32(1 / (high - low)), TINY)
        zero[index] = np.clip(np.rint(low - bottom / scale[index]), low, high)
    return scale, zero


def squared_errors(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, low: int, high: int) -> np.ndarray:
    """The sum of (x - grid value)^2 for every entry of the scale, in float64."""
    wrong = (x.astype(np.float64) - fake_quantize(x, scale, zero_point, low, high)) ** 2
    result = np.empty(scale.shape)
    for index, part in blocks(x.shape, scale.shape):
        result[index] = wrong[part].sum()
    return result


def least_errors(x: np.ndarray, scale_shape: tuple[int, ...], low: int, high: int, zero_points) -> np.ndarray:
    """The least squared error that any scale can give, for every block: a fine grid for every allowed zero point."""
    result = np.empty(scale_shape)
    for index, part in blocks(x.shape, scale_shape):
        flat = x[part].astype(np.float64).ravel()
        result[index] = min(_least_error(flat, low, high, zero) for zero in zero_points)
    return result


def _least_error(flat: np.ndarray, low: int, high: int, zero: float) -> float:
    """Tries 2,000 scales, up to one that a single step of reaches the largest weight."""
    scales = np.linspace(0.0, 2.5 * (flat.max() - flat.min()) / (high - low), 2001)[1:, None]
    steps = np.clip(np.rint(flat / scales + zero), low, high) - zero
    return float(((flat - scales * steps) ** 2).sum(axis=1).min())
