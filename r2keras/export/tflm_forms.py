"""How a recorded weight goes into a file for microcontrollers: tables, integers, factors outside; the smallest wins."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from r2keras.export.containers import placed, varying, vector
from r2keras.export.match import Match
from r2keras.export.tflm_tables import MAX_BITS, Lookup, tabulate
from r2keras.palettized import PalettizedTensor
from r2keras.record import QuantizedTensor

# What operators and tensors take in the file, beside the values: DECODE or DEQUANTIZE; MUL and ADD.
OPERATOR_BYTES, FACTOR_BYTES = 160, 230
# Constants of at most so many bytes lose little by staying float.
SMALL = 1024
SMALLER = "floats take less than indices, table and operators"
# The dummy grid that a float tensor needs beside tables of its channels: a scale and a zero point each.
GRID_BYTES = 12


@dataclasses.dataclass(frozen=True, eq=False)
class Integers:
    """A tensor as integers on one grid: `value = scale * (code - zero_point)`.

    Args:
        codes: int8 or int16, the tensor's shape.
        scale: positive.
        zero_point: the code of zero; 0 with int16.
    """

    codes: np.ndarray
    scale: float
    zero_point: int

    @property
    def bits(self) -> int:
        """Bits of a code, 8 or 16."""
        return 8 * self.codes.itemsize

    @property
    def num_bytes(self) -> int:
        """Bytes of the codes."""
        return self.codes.nbytes

    @property
    def note(self) -> str:
        """Says what is stored."""
        return f"{self.bits}-bit integers"

    def values(self) -> np.ndarray:
        """Returns the tensor, float32."""
        return np.float32(self.scale) * (self.codes.astype(np.float32) - np.float32(self.zero_point))


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """What stands for a constant: stored values, and what the operator's output is multiplied with.

    Args:
        store: tables or integers.
        factor: float32 vector, one entry an output channel, applied after the operator; None: there is none.
        axis: the constant's axis of output channels, where there is a factor.
    """

    store: Lookup | Integers
    factor: np.ndarray | None = None
    axis: int | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes in the file, about."""
        beside = 0 if self.factor is None else FACTOR_BYTES + self.factor.nbytes
        if isinstance(self.store, Lookup) and self.store.axis is not None:
            beside += GRID_BYTES * len(self.store.tables)
        return OPERATOR_BYTES + self.store.num_bytes + beside


def forms(
    tensor: QuantizedTensor | PalettizedTensor, match: Match, constant: np.ndarray, axis: int | None
) -> Iterator[Form]:
    """Yields every form that gives `constant`, up to a rounding where a factor is outside.

    Args:
        tensor: the record's entry.
        match: how the constant holds it.
        constant: float32.
        axis: the constant's axis of output channels, if all operators that use it can take a factor a channel
            afterwards; None if not.
    """
    for table_axis in (None, *sorted({0, constant.ndim - 1})):
        yield from _listed(tabulate(constant, table_axis))
    if isinstance(tensor, QuantizedTensor):
        yield from _integer_forms(tensor, match, axis)
    if axis is not None:
        for base, factor in _separated(tensor, match, constant):
            if varying(factor, factor) == [axis]:
                yield from _listed(tabulate(base), vector(factor, axis).astype(np.float32), axis)


def smallest(
    tensor: QuantizedTensor | PalettizedTensor, match: Match, constant: np.ndarray, axis: int | None
) -> tuple[Form | None, str]:
    """Returns the form that takes the fewest bytes, or None if floats do, and then why; see `forms`."""
    best = min(forms(tensor, match, constant, axis), key=lambda form: form.num_bytes, default=None)
    if best is not None and best.num_bytes < constant.nbytes:
        return best, ""
    different = len(np.unique(constant))
    if different <= 2**MAX_BITS or constant.nbytes <= SMALL:
        return None, SMALLER
    return None, f"{different} different values are too many for a look-up table of {2**MAX_BITS}"


def _listed(lookup: Lookup | None, *factor: Any) -> list[Form]:
    """Returns the form of a table, if there is one."""
    return [] if lookup is None else [Form(lookup, *factor)]


def _separated(
    tensor: QuantizedTensor | PalettizedTensor, match: Match, constant: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields float32 values and float64 factors, of the constant's shape, whose product is the constant."""
    folded = np.broadcast_to(match.factor, constant.shape)
    if isinstance(tensor, PalettizedTensor):
        plain = dataclasses.replace(tensor, scale=np.ones_like(tensor.scale)).values()
        scale = match.layout.apply(np.broadcast_to(tensor.scale, tensor.layout.shape))
        yield match.layout.apply(plain), scale * folded
    else:
        codes, scale, zero_point = placed(tensor, match)
        yield (codes - zero_point).astype(np.float32), scale
        yield match.layout.apply(tensor.values()), folded


def _integer_forms(tensor: QuantizedTensor, match: Match, axis: int | None) -> Iterator[Form]:
    """Yields the form of codes on one grid, with their scales as factors if these differ by channel."""
    codes, scale, zero_point = placed(tensor, match)
    axes = varying(scale, scale)
    if axes not in ([], [axis]):
        return
    factor = vector(scale, axis).astype(np.float32) if axes else None
    one = 1.0 if axes else float(scale.flat[0])
    zero = float(zero_point.flat[0])
    if one <= 0:
        return
    if np.all(zero_point == np.rint(zero)):
        yield Form(Integers(codes, one, int(zero)), factor, axis)
    else:
        # Twice the steps, so that those of a mid-rise grid, which are halves, are whole.
        steps = np.rint(2 * (codes - zero_point.astype(np.float64)))
        yield Form(Integers(steps.astype(np.int16), one / 2, 0), factor, axis)
