"""The grid of a quantized activation in the record."""

from __future__ import annotations

import dataclasses

from r2keras._util.numeric import as_int, as_number, is_finite
from r2keras._util.shown import shown


@dataclasses.dataclass(frozen=True)
class QuantizedActivation:
    """The grid of an activation tensor: `x = scale * (code - zero_point)`.

    Args:
        name: path of the layer that outputs the tensor, or the name of the model's input.
        scale: positive, float32.
        zero_point: the code of zero, in `[-2^(b-1), 2^(b-1) - 1]`; -1/2 for the mid-rise grid of a recurrent state.
        num_bits: bits of a code, 2 to 8.

    Raises:
        ValueError: a value out of range.

    Example:

    >>> QuantizedActivation("stem/relu", 0.05, -128, 8).zero_point
    -128
    """

    name: str
    scale: float
    zero_point: float
    num_bits: int

    def __post_init__(self):
        scale, zero_point, num_bits = as_number(self.scale), as_number(self.zero_point), as_int(self.num_bits) or 0
        half = 2 ** (num_bits - 1) if 2 <= num_bits <= 8 else 0
        is_scale = scale is not None and is_finite(scale) and scale > 0
        if not (half and is_scale and zero_point is not None and -half <= zero_point < half):
            raise ValueError(
                f"The grid of activation {shown(self.name)} is invalid: scale={shown(self.scale)}, "
                f"zero_point={shown(self.zero_point)}, num_bits={shown(self.num_bits)}. Expected a positive scale, "
                "2 to 8 bits and a zero point among the codes. The record was edited or is corrupt."
            )
        for name, value in (("scale", scale), ("zero_point", zero_point), ("num_bits", num_bits)):
            object.__setattr__(self, name, value)
