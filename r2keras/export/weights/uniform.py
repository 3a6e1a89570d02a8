"""Recorded codes as LiteRT's 2-, 4- and 8-bit integers: container width, layout of the scales, arithmetic."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from r2keras._util.errors import invalid
from r2keras.export.weights.axis_layout import Layout
from r2keras.export.weights.matching import Match
from r2keras.record import QuantizedTensor, broadcast_scales

# Widths at which the doubled codes `2 c + 1` of a mid-rise grid still fit the container.
DOUBLED = (1, 3, 5, 6, 7)
# Bytes that one more operator with its tensors takes in a file, about.
OVERHEAD = 192


def container_bits(num_bits: int) -> int:
    """Returns the width of the integers that hold `num_bits`-bit codes.

    >>> [container_bits(b) for b in range(1, 9)]
    [2, 2, 4, 4, 8, 8, 8, 8]
    """
    if not 1 <= num_bits <= 8:
        raise ValueError(invalid("num_bits", "an integer from 1 to 8", num_bits))
    return next(width for width in (2, 4, 8) if num_bits <= width)


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """One weight as the file holds it.

    The runtime computes `reshape(((scale * (codes - zero_point)) + add) * multiply)` in float32; `layout.invert` undoes
    a transposition.

    Args:
        bits: container width: 2, 4 or 8.
        codes: int8, in the constant's shape, or `[groups, values per group]` if scales vary along several axes.
        scale: float32 vector, one entry per index of `codes` along `axis`, or a single entry.
        zero_point: int64 vector, as long as `scale`.
        axis: the axis of `codes` along which `scale` varies.
        add: float32, broadcasts to `codes`: half a step of a mid-rise grid; None to add nothing.
        multiply: float32, broadcasts to `codes`: scales of groups; None to multiply by nothing.
        layout: maps the constant to `codes`.
        doubled: whether `codes` are `2 c + 1` for a mid-rise code `c`.
    """

    bits: int
    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int
    add: np.ndarray | None
    multiply: np.ndarray | None
    layout: Layout
    doubled: bool

    def values(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the float32 constant that the runtime computes, in its `shape`."""
        along = [1] * self.codes.ndim
        along[self.axis] = self.scale.size
        steps = self.codes.astype(np.float32) - self.zero_point.astype(np.float32).reshape(along)
        values = self.scale.reshape(along) * steps
        values = values if self.add is None else values + self.add
        values = values if self.multiply is None else values * self.multiply
        return self.layout.invert(values, shape)

    def recorded_codes(self, match: Match, shape: tuple[int, ...], source_shape: tuple[int, ...]) -> np.ndarray:
        """Returns the codes in the shape and on the grid of the record.

        Args:
            match: how the constant holds the weight.
            shape: shape of the constant.
            source_shape: shape of the weight.
        """
        codes = match.layout.invert(self.layout.invert(self.codes, shape), source_shape)
        return (codes - 1) // 2 if self.doubled else codes


def store(tensor: QuantizedTensor, match: Match, constant: np.ndarray, *, one_scale: bool = False) -> Stored:
    """Lays out a recorded weight as a replacement of `constant`.

    Args:
        tensor: codes and scales.
        match: how the constant holds the weight.
        constant: float32; folded scales are tuned to it, by units in the last place.
        one_scale: whether DEQUANTIZE takes codes of 8 bits with one scale only, as on LiteRT for Microcontrollers; an
            ADD and a MUL then apply zero points and scales that vary.

    Returns:
        The stored form, whose `values` equal `constant` within a few roundings.
    """
    codes, scale, zero_point = in_constant_layout(tensor, match)
    layout = group_layout(scale, zero_point)
    codes, scale, zero_point = layout.apply(codes), layout.apply(scale), layout.apply(zero_point)
    axes = varying_axes(scale, zero_point)
    axis, count = (axes[0], None) if axes else (0, 1)
    scale, zero_point = values_along(scale, axis)[:count], values_along(zero_point, axis)[:count]
    steps = codes - along(zero_point, codes, axis)
    scale = tune_scales(scale, steps, layout.apply(constant), axis, exact=match.is_exact)
    stored = _arithmetic(tensor, codes, scale, zero_point, axis, layout)
    return _with_one_scale(stored) if one_scale else stored


def in_constant_layout(tensor: QuantizedTensor, match: Match) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns codes, scales (float64, the folded factor included) and zero points, each in the constant's shape."""
    shape = tensor.codes.shape
    codes = match.layout.apply(tensor.codes)
    scale = match.layout.apply(broadcast_scales(tensor.scale, shape)) * match.factor
    return codes, scale, match.layout.apply(broadcast_scales(tensor.zero_point, shape))


def group_layout(scale: np.ndarray, zero_point: np.ndarray) -> Layout:
    """Returns the layout in which scale and zero point vary along at most one axis.

    This is the identity where they already do. Otherwise it is `[groups, values per group]`; axes are reordered only
    if no two consecutive values share a scale.

    Args:
        scale: scale per value, in the constant's shape.
        zero_point: zero point per value, in the constant's shape.

    Example:

    >>> scale = np.repeat(np.arange(4.0).reshape(2, 2), 3, axis=1)
    >>> group_layout(scale, 0 * scale).shape
    (4, 3)
    """
    identity = tuple(range(scale.ndim))
    if len(varying_axes(scale, zero_point)) <= 1:
        return Layout(identity, scale.shape)
    best_order, group_size = identity, _group_size(scale, zero_point)
    if group_size == 1:
        for order in itertools.permutations(identity):
            size = _group_size(scale.transpose(order), zero_point.transpose(order))
            if size > group_size:
                best_order, group_size = order, size
    return Layout(best_order, (scale.size // group_size, group_size))


def _group_size(scale: np.ndarray, zero_point: np.ndarray) -> int:
    """Returns the largest `n` such that every block of `n` consecutive values has one scale and one zero point."""
    flat_scale, flat_zero = scale.ravel(), zero_point.ravel()
    changes = (flat_scale[1:] != flat_scale[:-1]) | (flat_zero[1:] != flat_zero[:-1])
    return int(np.gcd.reduce(np.append(np.flatnonzero(changes) + 1, flat_scale.size)))


def varying_axes(scale: np.ndarray, zero_point: np.ndarray) -> list[int]:
    """Returns the axes along which the scale or the zero point changes."""
    return [a for a in range(scale.ndim) if not (_is_constant(scale, a) and _is_constant(zero_point, a))]


def _is_constant(values: np.ndarray, axis: int) -> bool:
    """Whether values are equal along an axis."""
    return bool(np.all(values == values.take([0], axis)))


def values_along(values: np.ndarray, axis: int) -> np.ndarray:
    """Returns the vector of values along an axis, at index 0 of the other axes."""
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)[:, 0]


def along(vector: np.ndarray, like: np.ndarray, axis: int) -> np.ndarray:
    """Returns a vector reshaped to broadcast along an axis of `like`."""
    shape = [1] * like.ndim
    shape[axis] = vector.size
    return vector.reshape(shape)


def tune_scales(scale: np.ndarray, steps: np.ndarray, target: np.ndarray, axis: int, exact: bool) -> np.ndarray:
    """Returns the float32 scales, within 4 units in the last place, whose products with `steps` best match `target`.

    Args:
        scale: vector, one entry per index along `axis`.
        steps: codes less zero points, in the shape of `target`.
        target: the float constant.
        axis: the axis along which the scale varies.
        exact: whether nothing was folded into the constant; the scales are then rounded to float32 and kept.
    """
    nominal = scale.astype(np.float32)
    if exact:
        return nominal
    rows = np.moveaxis(steps, axis, 0).reshape(scale.size, -1).astype(np.float32)
    target_rows = np.moveaxis(target, axis, 0).reshape(scale.size, -1)
    best, best_error = nominal, np.full(scale.size, np.inf)
    for shift in (0, 1, -1, 2, -2, 3, -3, 4, -4):
        trial = (nominal.view(np.int32) + np.int32(shift)).view(np.float32)
        trial = np.where(nominal == 0, nominal, trial)
        error = np.abs(trial[:, None] * rows - target_rows).sum(axis=1, dtype=np.float64)
        best = np.where(error < best_error, trial, best)
        best_error = np.minimum(error, best_error)
    return best


def _arithmetic(
    tensor: QuantizedTensor,
    codes: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray,
    axis: int,
    layout: Layout,
) -> Stored:
    """Chooses the container, and the operators that apply a half step and the scales of groups."""
    bits = container_bits(tensor.spec.num_bits)
    is_mid_rise = bool(np.any(zero_point != np.rint(zero_point)))
    doubled = is_mid_rise and tensor.spec.num_bits in DOUBLED
    if doubled:
        codes, scale = 2 * codes + np.int8(1), scale / np.float32(2)
    stored_zero_point = np.zeros(scale.size, np.int64) if is_mid_rise else zero_point.astype(np.int64)
    one, broadcast_scale = np.ones(1, np.float32), along(scale, codes, axis)
    adds_half = is_mid_rise and not doubled
    multiply = broadcast_scale if _uses_mul(codes.size, bits, stored_zero_point, adds_half) else None
    add = None
    if adds_half:
        add = np.float32(0.5) * (broadcast_scale if multiply is None else one)
    if multiply is not None:
        scale, stored_zero_point = one, stored_zero_point[:1]
    return Stored(bits, codes, scale, stored_zero_point, axis, add, multiply, layout, doubled)


def _with_one_scale(stored: Stored) -> Stored:
    """Returns a stored form with codes of 8 bits, one scale and one zero point."""
    if stored.scale.size == 1:
        return dataclasses.replace(stored, bits=8)
    one, zero_point = np.ones(1, np.float32), stored.zero_point
    # Now in steps: half of one on mid-rise grids, which have no other zero points.
    add = None if stored.add is None else np.float32(0.5) * one
    if np.ptp(zero_point):
        add, zero_point = -along(zero_point, stored.codes, stored.axis).astype(np.float32), np.zeros_like(zero_point)
    factor = along(stored.scale, stored.codes, stored.axis)
    return dataclasses.replace(stored, bits=8, scale=one, zero_point=zero_point[:1], add=add, multiply=factor)


def _uses_mul(size: int, bits: int, zero_point: np.ndarray, adds_half: bool) -> bool:
    """Whether a MUL applies the scales, which saves the 8-byte zero point that LiteRT stores with each scale.

    A MUL runs at every call, while DEQUANTIZE alone runs once (on x86: 0.016 -> 0.038 ms for 235k weights of 4 bits;
    8-bit weights lose XNNPACK). So it has to save many bytes, or to follow an ADD, which runs at every call anyway.
    """
    zero_bytes, packed_bytes = 8 * zero_point.size, size * bits // 8
    threshold = packed_bytes if bits == 8 else packed_bytes // 4
    return bool(not np.any(zero_point) and zero_bytes > OVERHEAD and (adds_half or zero_bytes > threshold))
