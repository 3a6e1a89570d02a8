"""The grid of a quantized activation in the record."""

from __future__ import annotations

import dataclasses


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
        half = 2 ** (self.num_bits - 1) if self.num_bits in range(2, 9) else 0
        if not (half and 0 < self.scale < float("inf") and -half <= self.zero_point < half):
            raise ValueError(
                f"The grid of activation {self.name!r} is invalid: scale={self.scale!r}, "
                f"zero_point={self.zero_point!r}, num_bits={self.num_bits!r}. Expected a positive scale, 2 to 8 bits "
                "and a zero point among the codes. The record was edited or is corrupt."
            )
