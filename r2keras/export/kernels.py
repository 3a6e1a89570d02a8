"""Weights and biases of integer operators: codes of 4 or 8 bits, positive scales a channel, int32 biases."""

from __future__ import annotations

import dataclasses

import numpy as np

from r2keras.export.check import TOLERANCE
from r2keras.export.containers import placed, varying, vector
from r2keras.export.grid import ActivationGrid
from r2keras.export.match import SMALLEST, Match
from r2keras.record import QuantizedTensor

FINEST = 2.0**-30


class NotIntegerError(Exception):
    """Why an operator cannot compute in integers; the text completes the sentence "it ... because ..."."""


@dataclasses.dataclass(frozen=True, eq=False)
class IntegerKernel:
    """What an integer operator computes with: `y = s_in scale (sum(codes (x - z_in)) + bias)`.

    Args:
        bits: container width, 4 or 8.
        codes: int8, of the constant's shape.
        scale: float32 vector, positive, one entry an output channel, or a single one.
        axis: the axis of the output channels.
        bias: int32, in steps of `s_in * scale`; None without one.
        sign: 1 or -1 for each channel: codes of negative scales are flipped.
        doubled: whether `codes` are `2 c + 1` for a mid-rise code `c`.
        coarse: for each channel, whether its codes were rounded to a coarser step, below float's precision.
    """

    bits: int
    codes: np.ndarray
    scale: np.ndarray
    axis: int
    bias: np.ndarray | None
    sign: np.ndarray
    doubled: bool
    coarse: np.ndarray

    def differs(self, stored: np.ndarray, tensor: QuantizedTensor, match: Match, constant: np.ndarray) -> str:
        """Says how codes read back from a file differ from the record's or from the float constant; "" if not at all.

        Args:
            stored: the codes in the file.
            tensor: the record's entry.
            match: how the weight lay in the float file.
            constant: the float constant that was there.
        """
        codes = stored.astype(np.int16) * self._along(self.sign)
        codes = (codes - 1) // 2 if self.doubled else codes
        wrong = (codes != match.layout.apply(tensor.codes)) & ~self._along(self.coarse)
        if wrong.any():
            return f"{np.count_nonzero(wrong)} of {codes.size} codes differ"
        scale = self._along(self.scale)
        off = np.abs(scale * stored.astype(np.float32) - constant)
        allowed = TOLERANCE * np.abs(constant) + SMALLEST + np.where(self._along(self.coarse), scale, 0)
        return "" if np.all(off <= allowed) else f"a value is off by {off.max():.3g}"

    def _along(self, vector: np.ndarray) -> np.ndarray:
        """Returns a vector shaped to broadcast along the axis of the channels."""
        shape = [1] * self.codes.ndim
        shape[self.axis] = vector.size
        return vector.reshape(shape)


def integer_kernel(
    tensor: QuantizedTensor,
    match: Match,
    axis: int,
    bias: np.ndarray | None,
    grids: tuple[ActivationGrid, ActivationGrid],
    shared: bool,
) -> IntegerKernel:
    """Lays out a recorded weight for an integer operator.

    A folded batch normalization is in `match.factor`. Negative scales flip the codes. A scale so small that the bias
    would leave int32, or that the product with the input would be lost beside one step of the output, is raised to
    where neither happens, and the codes rounded to it: what that changes is below float's own precision.

    Args:
        tensor: codes and scales.
        match: how the float file's constant holds the weight.
        axis: the axis of the output channels in the constant.
        bias: float32 vector; None without one.
        grids: the input's and the output's.
        shared: whether equal scales may be stored as one.

    Raises:
        NotIntegerError: the grid has no integer operator.
    """
    codes, scale, doubled = _symmetric(tensor, match, axis)
    sign = np.where(scale < 0, -1, 1)
    scale = np.abs(scale)
    taken = np.zeros(scale.size) if bias is None else bias.astype(np.float64)
    least = FINEST * np.maximum(np.abs(taken), grids[1].scale) / grids[0].scale
    coarse = scale < least
    along = [1] * codes.ndim
    along[axis] = scale.size
    shrunk = np.rint(codes * (scale / np.maximum(scale, least)).reshape(along))
    codes = np.where(coarse.reshape(along), shrunk, codes) * sign.reshape(along)
    largest = np.abs(codes).max(initial=0)
    if largest > 127:
        raise NotIntegerError(f"its codes reach {int(largest)}, and integer operators take -127 to 127")
    scale = np.maximum(scale, least).astype(np.float32)
    steps = scale.astype(np.float64) * np.float64(np.float32(grids[0].scale))
    whole = None if bias is None else np.rint(taken / steps).astype(np.int32)
    one = shared and bool(np.all(scale == scale[0]))
    bits = 4 if tensor.spec.num_bits <= 4 and largest <= 7 else 8
    return IntegerKernel(bits, codes.astype(np.int8), scale[:1] if one else scale, axis, whole, sign, doubled, coarse)


def _symmetric(tensor: QuantizedTensor, match: Match, axis: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Returns int16 codes around zero, float64 scales a channel, and whether the codes are those of half steps."""
    codes, scale, zero_point = placed(tensor, match)
    if set(varying(scale, zero_point)) - {axis}:
        raise NotIntegerError("its scales vary within an output channel")
    codes, scale = codes.astype(np.int16), vector(scale, axis).astype(np.float64)
    if np.all(zero_point == -0.5):
        return 2 * codes + 1, scale / 2, True
    if np.any(zero_point):
        raise NotIntegerError("its grid is asymmetric")
    return codes, scale, False
