"""What becomes what: frozen specifications of one weight's compression, and the recipe that orders them."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from r2keras._errors import invalid, invalid_choice

METHODS = ("ste",)
RANGES = ("min_max", "mse", "percentile")
GRANULARITIES = ("per_tensor", "per_channel", "per_group")
LEVELS = ("mid_tread", "mid_rise")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantSpec:
    """Uniform quantization of a weight tensor: `w = scale * (code - zero_point)`.

    Integer codes lie in `[quant_min, quant_max]`. Mid-tread grids have a level at zero; mid-rise grids have
    `2**num_bits` symmetric levels half a step off zero (`zero_point = -1/2`), which keeps all four levels useful
    at 2 bits where the mid-tread grid is left with {-1, 0, 1}.

    | grid | codes at `b` bits | zero_point |
    |---|---|---|
    | symmetric, mid-tread, narrow range (default above 2 bits) | `-(2^(b-1) - 1) .. 2^(b-1) - 1` | 0 |
    | symmetric, mid-tread, full range | `-2^(b-1) .. 2^(b-1) - 1` | 0 |
    | symmetric, mid-rise (default at 1 and 2 bits) | `-2^(b-1) .. 2^(b-1) - 1` | -1/2 |
    | asymmetric | `-2^(b-1) .. 2^(b-1) - 1` | an integer code |

    Args:
        num_bits: bits a weight, 1 to 8.
        method: how training sees the rounding: `"ste"`, the straight-through estimator.
        range: how the scale is chosen: `"min_max"` covers every weight, `"mse"` minimises the squared error,
            `"percentile"` covers all but the outermost weights.
        granularity: who shares a scale: `"per_tensor"`, `"per_channel"` or `"per_group"`.
        group_size: weights a group along the input axis; needed by, and only by, `"per_group"`.
        channel_axis: the axis that KEEPS its own scale under `"per_channel"` (negative counts from the end);
            None takes the output axis of the layer.
        symmetric: whether the grid is symmetric around zero; an asymmetric one follows the weights' minimum and
            maximum, always holds zero, and has `levels="mid_tread"`.
        narrow_range: whether a mid-tread symmetric grid leaves out its lowest code; None means True there.
        levels: `"mid_tread"` or `"mid_rise"`; None means mid-rise at 1 and 2 bits if symmetric, else mid-tread.
        percentile: with `range="percentile"`, and only then, the percentage of the weights that share a scale to cover,
            above 50 and up to 100; None means 99.9 there.

    Raises:
        ValueError: a value out of range, or two values that contradict each other.
        TypeError: a number that is not an integer, or a switch that is neither True nor False.

    Example:

    >>> spec = QuantSpec(num_bits=4)
    >>> spec.quant_min, spec.quant_max
    (-7, 7)
    >>> QuantSpec(num_bits=2).levels
    'mid_rise'

    Source: Jacob et al., arXiv 1712.05877, section 2; Nagel et al., arXiv 2106.08295, section 2.
    """

    num_bits: int = 8
    method: str = "ste"
    range: str = "mse"
    granularity: str = "per_channel"
    group_size: int | None = None
    channel_axis: int | None = None
    symmetric: bool = True
    narrow_range: bool | None = None
    levels: str | None = None
    percentile: float | None = None

    kind: ClassVar[str] = "quantize"

    def __post_init__(self):
        _check_int("num_bits", self.num_bits, 1, 8)
        _check_choices(self)
        self._resolve_defaults()
        self._check_granularity()
        self._check_grid()
        self._check_percentile()

    def _resolve_defaults(self) -> None:
        """Writes out `levels` and `narrow_range`, so that equal grids are equal specs."""
        if self.levels is None:
            rise = self.symmetric and self.num_bits <= 2
            object.__setattr__(self, "levels", "mid_rise" if rise else "mid_tread")
        if self.narrow_range is None:
            object.__setattr__(self, "narrow_range", self.symmetric and self.levels == "mid_tread")
        if self.percentile is None and self.range == "percentile":
            object.__setattr__(self, "percentile", 99.9)

    def _check_granularity(self) -> None:
        if self.granularity == "per_group":
            if self.group_size is None:
                raise ValueError(
                    invalid(
                        "group_size",
                        "a number of weights with granularity='per_group'",
                        None,
                        "Pass group_size=32, say",
                    )
                )
            _check_int("group_size", self.group_size, 1, None)
        elif self.group_size is not None:
            raise ValueError(
                invalid(
                    "group_size",
                    f"None with granularity={self.granularity!r}",
                    self.group_size,
                    "Pass granularity='per_group' to share a scale by groups",
                )
            )
        if self.granularity != "per_channel" and self.channel_axis is not None:
            raise ValueError(
                invalid(
                    "channel_axis",
                    f"None with granularity={self.granularity!r}",
                    self.channel_axis,
                    "Only granularity='per_channel' keeps an axis",
                )
            )

    def _check_grid(self) -> None:
        plain = self.symmetric and self.levels == "mid_tread"
        if self.levels == "mid_rise" and not self.symmetric:
            raise ValueError(
                invalid(
                    "levels", "'mid_tread' with symmetric=False", self.levels, "An asymmetric grid always holds zero"
                )
            )
        if self.narrow_range and not plain:
            raise ValueError(
                invalid(
                    "narrow_range",
                    "False or None unless the grid is symmetric and mid-tread",
                    True,
                    "Leave narrow_range out",
                )
            )
        if plain and self.num_bits == 1:
            raise ValueError(
                invalid(
                    "levels",
                    "'mid_rise' for a symmetric grid of 1 bit",
                    self.levels,
                    "One bit has two levels, and neither is zero",
                )
            )

    def _check_percentile(self) -> None:
        if self.percentile is None:
            return
        if self.range != "percentile":
            raise ValueError(
                invalid(
                    "percentile",
                    f"None with range={self.range!r}",
                    self.percentile,
                    "Pass range='percentile' to leave out the outermost weights",
                )
            )
        if isinstance(self.percentile, bool) or not isinstance(self.percentile, (int, float)):
            raise TypeError(invalid("percentile", "a number above 50 and up to 100", self.percentile))
        if not 50 < self.percentile <= 100:
            raise ValueError(invalid("percentile", "a number above 50 and up to 100", self.percentile))
        object.__setattr__(self, "percentile", float(self.percentile))

    @property
    def quant_min(self) -> int:
        """The lowest code."""
        return -(2 ** (self.num_bits - 1)) + int(self.narrow_range)

    @property
    def quant_max(self) -> int:
        """The highest code."""
        return 2 ** (self.num_bits - 1) - 1

    def to_dict(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> QuantSpec:
        """Returns the spec of a `to_dict` result, or of any part of it.

        Raises:
            ValueError: a key that is not an argument of the class (the nearest one is offered), or a bad value.
            TypeError: a value of another type.

        Example:

        >>> QuantSpec.from_dict({"num_bits": 4}) == QuantSpec(num_bits=4)
        True
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for key in config:
            if key not in names:
                raise ValueError(invalid_choice(f"key of {cls.__name__}", names, key))
        return cls(**config)


def _check_int(name: str, value: object, low: int, high: int | None) -> None:
    """Raises unless `value` is an integer in `[low, high]`."""
    expected = f"an integer from {low} to {high}" if high is not None else f"an integer of at least {low}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(invalid(name, expected, value))
    if value < low or (high is not None and value > high):
        raise ValueError(invalid(name, expected, value))


def _check_choices(spec: QuantSpec) -> None:
    """Raises for a word that no argument knows."""
    allowed = {"method": METHODS, "range": RANGES, "granularity": GRANULARITIES, "levels": (*LEVELS, None)}
    for name, choices in allowed.items():
        if getattr(spec, name) not in choices:
            raise ValueError(invalid_choice(name, [choice for choice in choices if choice], getattr(spec, name)))
    if not isinstance(spec.symmetric, bool):
        raise TypeError(invalid("symmetric", "True or False", spec.symmetric))
    if not isinstance(spec.narrow_range, (bool, type(None))):
        raise TypeError(invalid("narrow_range", "True, False or None", spec.narrow_range))
    if isinstance(spec.channel_axis, bool) or not isinstance(spec.channel_axis, (int, type(None))):
        raise TypeError(invalid("channel_axis", "an integer or None", spec.channel_axis))


SPEC_KINDS: dict[str, type] = {QuantSpec.kind: QuantSpec}
