"""Stored forms of a weight for microcontrollers: look-up tables or integers, with or without channel factors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from r2keras.export.weights.decode_operator import OPERATOR_BYTES
from r2keras.export.weights.huffman import Huffman, encode
from r2keras.export.weights.lookup_table import MAX_BITS, LookupTable, tabulate
from r2keras.export.weights.matching import Match
from r2keras.export.weights.uniform import in_constant_layout, values_along, varying_axes
from r2keras.record import PalettizedTensor, QuantizedTensor, Tensor

# Bytes of a MUL and an ADD in the file.
FACTOR_BYTES = 230
# Constants up to this many bytes lose little by staying float.
SMALL = 1024
SMALLER = "floats take less than indices, table and operators"
# Per channel, the float32 scale and int64 zero point of the dummy grid that tables per channel need.
GRID_BYTES = 12


@dataclasses.dataclass(frozen=True, eq=False)
class Integers:
    """A tensor as integers on one grid: `value = scale * (code - zero_point)`.

    Args:
        codes: int8 or int16, in the tensor's shape.
        scale: positive.
        zero_point: the code of zero; 0 with int16.
    """

    codes: np.ndarray
    scale: float
    zero_point: int

    @property
    def bits(self) -> int:
        """Bits per code, 8 or 16."""
        return 8 * self.codes.itemsize

    @property
    def num_bytes(self) -> int:
        """Bytes of the codes."""
        return self.codes.nbytes

    @property
    def note(self) -> str:
        """Describes the stored form."""
        return f"{self.bits}-bit integers"

    def values(self) -> np.ndarray:
        """Returns the tensor, float32."""
        return np.float32(self.scale) * (self.codes.astype(np.float32) - np.float32(self.zero_point))


@dataclasses.dataclass(frozen=True, eq=False)
class HuffmanIntegers(Integers):
    """Integers that are stored as Huffman codes; int8 only."""

    @functools.cached_property
    def stored(self) -> Huffman:
        """The bytes in the file."""
        return encode(self.codes)

    @property
    def bits(self) -> int:
        """Bits per code on average, rounded up."""
        return max(1, -(-8 * len(self.stored.packed) // self.codes.size))

    @property
    def num_bytes(self) -> int:
        """Bytes of codewords and tables, and of the second operator: a DECODE and a DEQUANTIZE."""
        return self.stored.num_bytes + OPERATOR_BYTES

    @property
    def note(self) -> str:
        """Describes the stored form."""
        return f"Huffman codes of {8 * len(self.stored.packed) / self.codes.size:.1f} bits on average"


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """A replacement of a constant: stored values, and factors for the operator's output.

    Args:
        store: tables or integers.
        factor: float32 vector, one entry per output channel, multiplied after the operator; None without factors.
        axis: the axis of output channels in the constant, where there is a factor.
    """

    store: LookupTable | Integers
    factor: np.ndarray | None = None
    axis: int | None = None

    @property
    def num_bytes(self) -> int:
        """Approximate bytes in the file."""
        extra = 0 if self.factor is None else FACTOR_BYTES + self.factor.nbytes
        if isinstance(self.store, LookupTable) and self.store.axis is not None:
            extra += GRID_BYTES * len(self.store.tables)
        return OPERATOR_BYTES + self.store.num_bytes + extra


def forms(
    tensor: Tensor, match: Match, constant: np.ndarray, axis: int | None, huffman: bool = False
) -> Iterator[Form]:
    """Yields every form that gives `constant`, up to one rounding where a factor is applied after the operator.

    Args:
        tensor: the weight in the record.
        match: how the constant holds it.
        constant: float32.
        axis: the axis of output channels in the constant, if all its operators can be followed by one factor per
            channel; None if not.
        huffman: whether integers may be Huffman codes.
    """
    for table_axis in (None, *sorted({0, constant.ndim - 1})):
        yield from _table_form(tabulate(constant, table_axis))
    if isinstance(tensor, QuantizedTensor):
        for form in _integer_forms(tensor, match, axis):
            yield form
            if huffman:
                yield from _huffman_form(form)
    if axis is not None:
        for base, factor in _factorizations(tensor, match, constant):
            if varying_axes(factor, factor) == [axis]:
                yield from _table_form(tabulate(base), values_along(factor, axis).astype(np.float32), axis)


def smallest(
    tensor: Tensor, match: Match, constant: np.ndarray, axis: int | None, huffman: bool = False
) -> tuple[Form | None, str]:
    """Returns the smallest form of `forms` and "", or None and the reason if floats are smaller."""
    best = min(forms(tensor, match, constant, axis, huffman), key=lambda form: form.num_bytes, default=None)
    if best is not None and best.num_bytes < constant.nbytes:
        return best, ""
    num_distinct = len(np.unique(constant))
    if num_distinct <= 2**MAX_BITS or constant.nbytes <= SMALL:
        return None, SMALLER
    return None, f"{num_distinct} different values are too many for a look-up table of {2**MAX_BITS}"


def _table_form(table: LookupTable | None, factor: np.ndarray | None = None, axis: int | None = None) -> list[Form]:
    """Returns the form of a table; none if the values do not fit in one."""
    return [] if table is None else [Form(table, factor, axis)]


def _huffman_form(form: Form) -> list[Form]:
    """Returns the form of the same integers as Huffman codes; none if they do not fit in 8 bits."""
    store = form.store
    assert isinstance(store, Integers)
    codes = store.codes.astype(np.int8)
    if not np.array_equal(codes, store.codes):
        return []
    return [dataclasses.replace(form, store=HuffmanIntegers(codes, store.scale, store.zero_point))]


def _factorizations(tensor: Tensor, match: Match, constant: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields pairs of float32 values and float64 factors, in the constant's shape, whose product is the constant."""
    folded = np.broadcast_to(match.factor, constant.shape)
    if isinstance(tensor, PalettizedTensor):
        unscaled = dataclasses.replace(tensor, scale=np.ones_like(tensor.scale)).values()
        scale = match.layout.apply(np.broadcast_to(tensor.scale, tensor.layout.shape))
        yield match.layout.apply(unscaled), scale * folded
    else:
        codes, scale, zero_point = in_constant_layout(tensor, match)
        yield (codes - zero_point).astype(np.float32), scale
        yield match.layout.apply(tensor.values()), folded


def _integer_forms(tensor: QuantizedTensor, match: Match, axis: int | None) -> Iterator[Form]:
    """Yields the form of codes on one grid, with scales as factors if they differ between channels."""
    codes, scale, zero_point = in_constant_layout(tensor, match)
    axes = varying_axes(scale, scale)
    if axes not in ([], [axis]):
        return
    factor = values_along(scale, axes[0]).astype(np.float32) if axes else None
    common_scale = 1.0 if axes else float(scale.flat[0])
    if common_scale <= 0:
        return
    first_zero_point = float(zero_point.flat[0])
    if np.all(zero_point == np.rint(first_zero_point)):
        yield Form(Integers(codes, common_scale, int(first_zero_point)), factor, axis)
    else:
        # Doubled, because the steps of a mid-rise grid are halves.
        steps = np.rint(2 * (codes - zero_point.astype(np.float64)))
        yield Form(Integers(steps.astype(np.int16), common_scale / 2, 0), factor, axis)
