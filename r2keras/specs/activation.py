"""The spec of activation quantization."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from r2keras._util.errors import check_int, check_number, check_only_with, invalid, invalid_choice
from r2keras.specs.base import BaseSpec

ACTIVATION_METHODS = ("ste", "pact", "lsq", "ewgs", "dorefa")
ACTIVATION_RANGES = ("moving_average", "min_max", "percentile", "mse")
# Ranges of 8-bit grids that LiteRT prescribes; `activation_plan` gives them to the functions that they are named after.
FIXED_RANGES = ("sigmoid", "tanh")
# The gradient scaling of EWGS where none is given, for weights and activations alike.
DELTA = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivationSpec(BaseSpec):
    """Uniform quantization of a layer's output, one scale per tensor: `x = scale * (code - zero_point)`.

    Codes lie in `[-2^(b-1), 2^(b-1) - 1]`; the zero point is an integer code, so that zero (padding) is exact. An
    unsigned range `[0, high]` has `zero_point = quant_min` and uses every level for that range.

    Args:
        num_bits: bits per value, 2 to 8.
        method: `"ste"` (an observed range), `"pact"`, `"lsq"` (LSQ+: with an offset), `"ewgs"` (a learned range), or
            `"dorefa"` (the range [0, 1]).
        range: how `method="ste"` finds the range, from each batch in training and from all data in calibration:
            `"moving_average"` of minimum and maximum (in calibration the same as `"min_max"`), `"min_max"` (the widest
            seen), `"percentile"`, `"mse"` (in training, the moving averages of these). None means `"moving_average"`
            at 8 bits and `"mse"` below, where extreme values would leave too few levels for all others. `"sigmoid"` and
            `"tanh"` are the grids, of 8 bits, that LiteRT prescribes for these functions. Other methods take None only.
        unsigned: whether values are never negative, as after a ReLU.
        delta: with `method="ewgs"`, how strongly rounding errors scale gradients, at least 0; None means 1e-3.

    Raises:
        ValueError: a value out of range, or two values that contradict each other.
        TypeError: a number that is not an integer, or a switch that is neither True nor False.

    Example:

    >>> spec = ActivationSpec(num_bits=4, unsigned=True)
    >>> spec.quant_min, spec.quant_max, spec.range
    (-8, 7, 'mse')

    Source: Jacob et al., arXiv 1712.05877, sections 2 and 3.1.
    """

    num_bits: int = 8
    method: str = "ste"
    range: str | None = None
    unsigned: bool = False
    delta: float | None = None

    def __post_init__(self):
        self._set("num_bits", check_int("num_bits", self.num_bits, 2, 8))
        if self.range not in FIXED_RANGES or self.method != "ste":
            check_method_and_range(self.method, self.range)
        elif self.num_bits != 8:
            raise ValueError(invalid("num_bits", f"8 with range={self.range!r}", self.num_bits))
        if not isinstance(self.unsigned, bool):
            raise TypeError(invalid("unsigned", "True or False", self.unsigned))
        check_only_with("delta", self.delta, "method", "ewgs", self.method)
        self._set("delta", check_number("delta", self.delta, 0, math.inf))
        if self.method == "ste":
            self._set_default("range", "moving_average" if self.num_bits == 8 else "mse")
        if self.method == "ewgs":
            self._set_default("delta", DELTA)

    @property
    def quant_min(self) -> int:
        """The lowest code."""
        return -(2 ** (self.num_bits - 1))

    @property
    def quant_max(self) -> int:
        """The highest code."""
        return 2 ** (self.num_bits - 1) - 1


def check_method_and_range(
    method: object, range: object, prefix: str = "", methods: Sequence[str] = ACTIVATION_METHODS
) -> None:
    """Raises for a method or a range that activations do not have.

    Args:
        method: the method of an `ActivationSpec`.
        range: its range, or None.
        methods: the methods that the caller accepts.
        prefix: what precedes both names in the caller's arguments; `QuantSpec` has `activation_method`.
    """
    if method not in methods:
        raise ValueError(invalid_choice(f"{prefix}method", methods, method))
    if range is not None and method != "ste":
        expected = f"None with {prefix}method={method!r}"
        raise ValueError(invalid(f"{prefix}range", expected, range, "The method sets its own range"))
    if range not in (*ACTIVATION_RANGES, None):
        raise ValueError(invalid_choice(f"{prefix}range", ACTIVATION_RANGES, range))
