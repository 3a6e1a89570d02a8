"""Weights and biases of integer operators: 4- or 8-bit codes, positive scales per channel, int32 biases."""

from __future__ import annotations

import dataclasses

import numpy as np

from r2keras.export.tflite.activation_grid import ActivationGrid
from r2keras.export.weights.matching import SMALLEST, Match
from r2keras.export.weights.mismatch import DECODING_TOLERANCE
from r2keras.export.weights.uniform import along, in_constant_layout, values_along, varying_axes
from r2keras.record import QuantizedTensor

# Keeps a bias within 2^30 of its steps, inside int32, and the rescaling of sums to the output's grid above 2^-30.
FINEST = 2.0**-30
# LiteRT multiplies sums by the ratio of their step to that of the output, which XNNPACK takes below 2^8.
LARGEST_RATIO = 2.0**7


class NotIntegerError(Exception):
    """An operator that cannot compute in integers. The message is the reason, such as "its grid is asymmetric"."""


@dataclasses.dataclass(frozen=True, eq=False)
class IntegerKernel:
    """Codes, scales and bias of an integer operator, `y = s_in * scale * (sum(codes * (x - z_in)) + bias)`.

    Args:
        bits: container width, 4 or 8.
        codes: int8, in the constant's shape.
        scale: float32 vector, positive, one entry per output channel, or a single entry.
        axis: the axis of the output channels.
        bias: int32, in steps of `s_in * scale`; None without a bias.
        sign: 1 or -1 per channel: codes of negative scales are negated.
        doubled: whether `codes` are `2 c + 1` for a mid-rise code `c`.
        coarse: per channel, whether its codes were rounded to a coarser step, at no loss in float32.
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
        """Says how codes read back from a file differ from the record or from the float constant; "" if they agree.

        Args:
            stored: the codes in the file.
            tensor: the weight in the record.
            match: how the float constant held the weight.
            constant: the float constant that the codes replaced.
        """
        codes = stored.astype(np.int16) * self._along(self.sign)
        codes = (codes - 1) // 2 if self.doubled else codes
        wrong = (codes != match.layout.apply(tensor.codes)) & ~self._along(self.coarse)
        if wrong.any():
            return f"{np.count_nonzero(wrong)} of {codes.size} codes differ"
        scale = self._along(self.scale)
        error = np.abs(scale * stored.astype(np.float32) - constant)
        allowed = DECODING_TOLERANCE * np.abs(constant) + SMALLEST + np.where(self._along(self.coarse), scale, 0)
        return "" if np.all(error <= allowed) else f"a value is off by {error.max():.3g}"

    def _along(self, vector: np.ndarray) -> np.ndarray:
        """Returns a vector reshaped to broadcast along the axis of the channels."""
        return along(vector, self.codes, self.axis)


def integer_kernel(
    tensor: QuantizedTensor,
    match: Match,
    axis: int,
    bias: np.ndarray | None,
    grids: tuple[ActivationGrid, ActivationGrid],
    shared: bool,
) -> IntegerKernel:
    """Lays out a recorded weight for an integer operator.

    `match.factor` holds a folded batch normalization. Negative scales negate the codes. A scale so small that the bias
    would overflow int32, or that products would vanish within one step of the output, is raised until neither happens,
    and the codes are rounded to it. The error of that rounding is below the precision of float32.

    Args:
        tensor: codes and scales.
        match: how the constant of the float file holds the weight.
        axis: the axis of the output channels in the constant.
        bias: float32 vector; None without a bias.
        grids: grids of the operator's input and output.
        shared: whether equal scales may be stored as one.

    Raises:
        NotIntegerError: integer operators do not support the grid of the weight.
    """
    codes, scale, doubled = _symmetric(tensor, match, axis)
    sign = np.where(scale < 0, -1, 1)
    scale = np.abs(scale)
    bias_values = np.zeros(scale.size) if bias is None else bias.astype(np.float64)
    min_scale = FINEST * np.maximum(np.abs(bias_values), grids[1].scale) / grids[0].scale
    coarse = scale < min_scale
    raised = np.maximum(scale, min_scale)
    rounded = np.rint(codes * along(scale / raised, codes, axis))
    codes = np.where(along(coarse, codes, axis), rounded, codes) * along(sign, codes, axis)
    largest = np.abs(codes).max(initial=0)
    if largest > 127:
        raise NotIntegerError(f"its codes reach {int(largest)}, and integer operators take -127 to 127")
    scale = raised.astype(np.float32)
    bias_step = scale.astype(np.float64) * np.float64(np.float32(grids[0].scale))
    bias_codes = None if bias is None else np.rint(bias_values / bias_step).astype(np.int32)
    if shared and np.all(scale == scale[0]):
        scale = scale[:1]
    bits = 4 if tensor.spec.num_bits <= 4 and largest <= 7 else 8
    return IntegerKernel(bits, codes.astype(np.int8), scale, axis, bias_codes, sign, doubled, coarse)


def check_ratio(step: float, grid: ActivationGrid) -> None:
    """Raises NotIntegerError if a step of an operator's sums is too large for the grid of its output."""
    if step >= LARGEST_RATIO * grid.scale:
        raise NotIntegerError("the grid of its output is too fine for that of its input")


def _symmetric(tensor: QuantizedTensor, match: Match, axis: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Returns int16 codes around zero, float64 scales per channel, and whether the codes count half steps."""
    codes, scale, zero_point = in_constant_layout(tensor, match)
    if set(varying_axes(scale, zero_point)) - {axis}:
        raise NotIntegerError("its scales vary within an output channel")
    codes, scale = codes.astype(np.int16), values_along(scale, axis).astype(np.float64)
    if np.all(zero_point == -0.5):
        return 2 * codes + 1, scale / 2, True
    if np.any(zero_point):
        raise NotIntegerError("its grid is asymmetric")
    return codes, scale, False
