"""How recorded codes go into LiteRT's 2-, 4- and 8-bit integers: container, layout of the scales, arithmetic."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from r2keras._errors import invalid
from r2keras.export.layout import Layout
from r2keras.export.match import Match
from r2keras.record import QuantizedTensor, expand

DOUBLED = (1, 3, 5, 6, 7)
OVERHEAD = 192


def container_bits(num_bits: int) -> int:
    """Returns the width of the integers that hold codes of `num_bits` bits.

    >>> [container_bits(b) for b in range(1, 9)]
    [2, 2, 4, 4, 8, 8, 8, 8]
    """
    if not 1 <= num_bits <= 8:
        raise ValueError(invalid("num_bits", "an integer from 1 to 8", num_bits))
    return 2 if num_bits <= 2 else 4 if num_bits <= 4 else 8


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """One weight as the file holds it; the runtime computes
    `reshape(((scale * (codes - zero_point)) + add) * multiply)`, in float32, and `layout` undoes a transposition.

    Args:
        bits: container width: 2, 4 or 8.
        codes: int8, of the constant's shape, or `[groups, values of a group]` if scales do not follow one axis.
        scale: float32 vector, one entry for each index of `codes` along `axis`, or a single one.
        zero_point: int64 vector, `scale`'s length.
        axis: the axis of `codes` along which `scale` varies.
        add: float32, broadcasts to `codes`: half a step of a mid-rise grid; None: nothing is added.
        multiply: float32, broadcasts to `codes`: scales of groups; None: nothing is multiplied.
        layout: from the constant's axes to `codes`.
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
        """Returns the constant that the runtime computes, float32, of the constant's `shape`."""
        along = [1] * self.codes.ndim
        along[self.axis] = self.scale.size
        steps = self.codes.astype(np.float32) - self.zero_point.astype(np.float32).reshape(along)
        values = self.scale.reshape(along) * steps
        values = values if self.add is None else values + self.add
        values = values if self.multiply is None else values * self.multiply
        return self.layout.invert(values, shape)

    def recorded_codes(self, match: Match, shape: tuple[int, ...], source_shape: tuple[int, ...]) -> np.ndarray:
        """Returns the codes in the shape and the grid of the record."""
        codes = match.layout.invert(self.layout.invert(self.codes, shape), source_shape)
        return (codes - 1) // 2 if self.doubled else codes


def store(tensor: QuantizedTensor, match: Match, constant: np.ndarray) -> Stored:
    """Lays out a recorded weight for the place of `constant`.

    Args:
        tensor: codes and scales.
        match: how the constant holds the weight.
        constant: float32; scales of folded channels are tuned to it, unit by unit in the last place.

    Returns:
        The stored form; its `values` equal `constant` within a few roundings.
    """
    codes, scale, zero_point = placed(tensor, match)
    layout = grouping(scale, zero_point)
    codes, scale, zero_point = layout.apply(codes), layout.apply(scale), layout.apply(zero_point)
    axes = varying(scale, zero_point)
    axis, count = (axes[0], None) if axes else (0, 1)
    scale, zero_point = vector(scale, axis)[:count], vector(zero_point, axis)[:count]
    steps = codes - along(zero_point, codes, axis)
    scale = tuned(scale, steps, layout.apply(constant), axis, exact=match.is_exact)
    return _arithmetic(tensor, codes, scale, zero_point, axis, layout)


def placed(tensor: QuantizedTensor, match: Match) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns codes, scale (float64, factor included) and zero point, each of the constant's shape."""
    shape = tensor.codes.shape
    codes = match.layout.apply(tensor.codes)
    scale = match.layout.apply(expand(tensor.scale, shape)) * match.factor
    return codes, scale, match.layout.apply(expand(tensor.zero_point, shape))


def grouping(scale: np.ndarray, zero_point: np.ndarray) -> Layout:
    """Returns the layout in which scale and zero point vary along one axis.

    Unchanged if they do already; otherwise two-dimensional, `[groups, values of a group]`, with axes reordered only
    where no run of equal scales is longer than one value.

    Args:
        scale: of the constant's shape.
        zero_point: of the constant's shape.

    Example:

    >>> scale = np.repeat(np.arange(4.0).reshape(2, 2), 3, axis=1)
    >>> grouping(scale, 0 * scale).shape
    (4, 3)
    """
    same = tuple(range(scale.ndim))
    if len(varying(scale, zero_point)) <= 1:
        return Layout(same, scale.shape)
    orders = [same, *(o for o in itertools.permutations(same) if o != same)]
    best = (1, same)
    for order in orders:
        best = max(best, (_run(scale.transpose(order), zero_point.transpose(order)), order), key=lambda pair: pair[0])
        if order == same and best[0] > 1:
            break
    return Layout(best[1], (scale.size // best[0], best[0]))


def _run(scale: np.ndarray, zero_point: np.ndarray) -> int:
    """Returns the largest `n` so that each `n` consecutive values have one scale and one zero point."""
    flat_scale, flat_zero = scale.ravel(), zero_point.ravel()
    changes = (flat_scale[1:] != flat_scale[:-1]) | (flat_zero[1:] != flat_zero[:-1])
    return int(np.gcd.reduce(np.append(np.flatnonzero(changes) + 1, flat_scale.size)))


def varying(scale: np.ndarray, zero_point: np.ndarray) -> list[int]:
    """Returns the axes along which the scale or the zero point is not constant."""
    return [a for a in range(scale.ndim) if not (_is_constant(scale, a) and _is_constant(zero_point, a))]


def _is_constant(values: np.ndarray, axis: int) -> bool:
    """Whether values do not change along an axis."""
    return bool(np.all(values == values.take([0], axis)))


def vector(values: np.ndarray, axis: int) -> np.ndarray:
    """Returns the values along an axis, the other indices being zero."""
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)[:, 0]


def along(vector: np.ndarray, like: np.ndarray, axis: int) -> np.ndarray:
    """Returns a vector shaped to broadcast along an axis of `like`."""
    shape = [1] * like.ndim
    shape[axis] = vector.size
    return vector.reshape(shape)


def tuned(scale: np.ndarray, steps: np.ndarray, target: np.ndarray, axis: int, exact: bool) -> np.ndarray:
    """Returns the float32 scales, within 4 units in the last place, whose products with `steps` meet `target` best."""
    nominal = scale.astype(np.float32)
    if exact:
        return nominal
    rows = np.moveaxis(steps, axis, 0).reshape(scale.size, -1).astype(np.float32)
    goal = np.moveaxis(target, axis, 0).reshape(scale.size, -1)
    best, best_error = nominal, np.full(scale.size, np.inf)
    for shift in (0, 1, -1, 2, -2, 3, -3, 4, -4):
        trial = (nominal.view(np.int32) + np.int32(shift)).view(np.float32)
        trial = np.where(nominal == 0, nominal, trial)
        error = np.abs(trial[:, None] * rows - goal).sum(axis=1, dtype=np.float64)
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
    """Chooses the container and how a half step and the scales of groups are applied."""
    bits = container_bits(tensor.spec.num_bits)
    half = bool(np.any(zero_point != np.rint(zero_point)))
    doubled = half and tensor.spec.num_bits in DOUBLED
    if doubled:
        codes, scale = 2 * codes + np.int8(1), scale / np.float32(2)
    whole = np.zeros(scale.size, np.int64) if half else zero_point.astype(np.int64)
    one, column = np.ones(1, np.float32), along(scale, codes, axis)
    adds = half and not doubled
    multiply = column if _multiplies(codes.size, bits, whole, adds) else None
    add = np.float32(0.5) * (column if multiply is None else one) if adds else None
    if multiply is not None:
        scale, whole = one, whole[:1]
    return Stored(bits, codes, scale, whole, axis, add, multiply, layout, doubled)


def _multiplies(size: int, bits: int, zero_point: np.ndarray, adds: bool) -> bool:
    """Whether scales go into a MUL: LiteRT wants an 8-byte zero point beside each scale of a quantized tensor.

    A MUL runs at every call, where DEQUANTIZE alone is done once (on x86: 0.016 -> 0.038 ms for 235k weights of
    4 bits; 8-bit ones lose XNNPACK), so it has to save much, or to come after an ADD, which runs at every call anyway.
    """
    zero_bytes, packed_bytes = 8 * zero_point.size, size * bits // 8
    enough = packed_bytes if bits == 8 else packed_bytes // 4
    return bool(not np.any(zero_point) and zero_bytes > OVERHEAD and (adds or zero_bytes > enough))
