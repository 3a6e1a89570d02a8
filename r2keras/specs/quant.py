"""What becomes what: frozen specifications of one weight's compression, and the recipe that orders them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from r2keras._errors import check_int, check_owned, invalid, invalid_choice

if TYPE_CHECKING:
    from r2keras.palette_spec import PaletteSpec

METHODS = ("ste", "lsq", "ewgs", "dorefa", "wrpn", "binary", "ternary", "balanced", "alternating")
RANGES = ("min_max", "percentile", "mse")
GRANULARITIES = ("per_tensor", "per_channel", "per_group", "per_gate")
LEVELS = ("mid_tread", "mid_rise")
# What a method's paper fixes: its levels (None: either) and its numbers of bits.
METHOD_LEVELS = {
    "ewgs": "mid_rise",
    "dorefa": "mid_rise",
    "wrpn": "mid_tread",
    "binary": "mid_rise",
    "ternary": "mid_tread",
    "balanced": "mid_rise",
    "alternating": "mid_rise",
}
METHOD_BITS = {"wrpn": (2, 8), "binary": (1, 1), "ternary": (2, 2), "alternating": (1, 4)}
PERCENTILE, DELTA = 99.9, 1e-3
ACTIVATION_METHODS = ("ste", "pact", "lsq", "ewgs", "dorefa")
# For states of recurrent layers alone: codes fitted to each row on line.
ON_LINE = "alternating"
ACTIVATION_RANGES = ("moving_average", "min_max", "percentile", "mse")
# What goes with the weights' method where `activation_method` is left out; WRPN's activations are those of DoReFa.
PARTNERS = {"lsq": "lsq", "ewgs": "ewgs", "dorefa": "dorefa", "wrpn": "dorefa"}

_Spec = TypeVar("_Spec", bound="_Plain")


@dataclasses.dataclass(frozen=True)
class _Plain:
    """A frozen specification that goes to plain JSON and back."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls: type[_Spec], config: dict[str, Any]) -> _Spec:
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

    def _default(self, name: str, value: object) -> None:
        """Sets an argument that was left out."""
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantSpec(_Plain):
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
        method: how training sees the rounding, one paper each: `"ste"` (straight-through), `"lsq"` (learned step size),
            `"ewgs"` (element-wise gradient scaling), `"dorefa"`, `"wrpn"`, `"binary"`, `"ternary"`,
            `"balanced"`, `"alternating"` (signs times coefficients a row). See `r2keras.quantizers`.
        range: how the scale of `method="ste"` is chosen: `"min_max"` covers every weight, `"percentile"` all but the
            largest, `"mse"` (None there) minimises the squared error. Other methods set or learn their own: None.
        percentile: with `range="percentile"`, the share of magnitudes that the range covers, in percent, above 50 and
            at most 100; None means 99.9 there.
        granularity: who shares a scale: `"per_tensor"`, `"per_channel"`, `"per_group"` or (in recurrent layers)
            `"per_gate"`.
        group_size: weights a group along the input axis; needed by, and only by, `"per_group"`.
        channel_axis: the axis that KEEPS its own scale under `"per_channel"` (negative counts from the end);
            None takes the output axis of the layer.
        symmetric: whether the grid is symmetric around zero; an asymmetric one follows the weights' minimum and
            maximum, always holds zero, and has `levels="mid_tread"`.
        narrow_range: whether a mid-tread symmetric grid leaves out its lowest code; None means True there.
        levels: `"mid_tread"` or `"mid_rise"`; None means what the method's paper has (mid-rise: EWGS, DoReFa, binary;
            mid-tread: WRPN, ternary), else mid-rise at 1 and 2 bits if symmetric, else mid-tread.
        delta: with `method="ewgs"`, how strongly the rounding error scales the gradient, at least 0; None means 1e-3.
        activation_bits: bits of the layer's output (after batch normalisation and activation function), 2 to 8; of a
            recurrent layer's state, inside its time loop; None leaves it float.
        activation_method: `"ste"`, `"pact"`, `"lsq"`, `"ewgs"` or `"dorefa"`; None takes the partner of `method` (the
            same, DoReFa for WRPN, else straight-through). `"alternating"`, 2 to 4 bits, fits codes to each row of a
            recurrent state on line and leaves other layers' outputs float. Only with `activation_bits`.
        activation_range: how a range of `activation_method="ste"` is found (`ActivationSpec.range`); None means
            `"moving_average"` there at 8 bits, `"mse"` below.

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
    range: str | None = None
    percentile: float | None = None
    granularity: str = "per_channel"
    group_size: int | None = None
    channel_axis: int | None = None
    symmetric: bool = True
    narrow_range: bool | None = None
    levels: str | None = None
    delta: float | None = None
    activation_bits: int | None = None
    activation_method: str | None = None
    activation_range: str | None = None

    kind: ClassVar[str] = "quantize"

    def __post_init__(self):
        check_int("num_bits", self.num_bits, 1, 8)
        _check_choices(self)
        self._check_method()
        self._resolve_defaults()
        self._check_granularity()
        self._check_grid()
        self._check_activation()

    def _resolve_defaults(self) -> None:
        """Writes out what None stands for, so that equal grids are equal specs."""
        rise = "mid_rise" if self.symmetric and self.num_bits <= 2 else "mid_tread"
        self._default("levels", METHOD_LEVELS.get(self.method, rise))
        self._default("narrow_range", self.symmetric and self.levels == "mid_tread")
        if self.method == "ste":
            self._default("range", "mse")
        if self.range == "percentile":
            self._default("percentile", PERCENTILE)
        if self.method == "ewgs":
            self._default("delta", DELTA)

    def _check_method(self) -> None:
        """Raises for an argument that contradicts the method."""
        if self.method == "ste":
            return
        low, high = METHOD_BITS.get(self.method, (1, 8))
        wanted = METHOD_LEVELS.get(self.method)
        where = f" with method={self.method!r}"
        if not low <= self.num_bits <= high:
            bits = str(low) if low == high else f"{low} to {high}"
            raise ValueError(invalid("num_bits", bits + where, self.num_bits, f"Pass num_bits={low}"))
        if not self.symmetric:
            raise ValueError(invalid("symmetric", "True" + where, False, "Only method='ste' has asymmetric grids"))
        if self.range is not None:
            raise ValueError(invalid("range", "None" + where, self.range, "The method sets its own range"))
        if wanted and self.levels not in (wanted, None):
            raise ValueError(invalid("levels", repr(wanted) + where, self.levels, "Leave levels out"))
        if self.method == "alternating" and self.granularity == "per_group":
            raise ValueError(invalid("granularity", "another" + where, self.granularity, "Use 'per_channel'"))
        if wanted == "mid_tread" and self.narrow_range is False:
            raise ValueError(invalid("narrow_range", "True" + where, False, "Leave narrow_range out"))

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
            check_int("group_size", self.group_size, 1, None)
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

    def _check_activation(self) -> None:
        """Raises for a bad activation, or arguments of one where there is none; writes out its defaults."""
        if self.activation_bits is None:
            for name in ("activation_method", "activation_range"):
                if getattr(self, name) is not None:
                    fix = "Pass activation_bits=8, say"
                    raise ValueError(invalid(name, "None without activation_bits", getattr(self, name), fix))
            return
        check_int("activation_bits", self.activation_bits, 2, 8)
        self._default("activation_method", PARTNERS.get(self.method, "ste"))
        if self.activation_method == ON_LINE:
            self._check_on_line()
            return
        self._default("activation_range", self.activation().range)

    def _check_on_line(self) -> None:
        """Raises for a state on line with more bits than the method has, or with a range."""
        where = f" with activation_method={ON_LINE!r}"
        if self.activation_bits not in range(2, METHOD_BITS[ON_LINE][1] + 1):
            raise ValueError(invalid("activation_bits", "2 to 4" + where, self.activation_bits, "Pass 3"))
        if self.activation_range is not None:
            fix = "The codes are fitted to each row"
            raise ValueError(invalid("activation_range", "None" + where, self.activation_range, fix))

    def activation(self, *, unsigned: bool = False) -> ActivationSpec | None:
        """Returns what becomes of the layer's output, or None if it stays float (as under `"alternating"`).

        Args:
            unsigned: whether the output is never negative, as after a ReLU.

        Example:

        >>> QuantSpec(num_bits=2, method="ewgs", activation_bits=2).activation().method
        'ewgs'
        """
        if self.activation_bits is None or self.activation_method == ON_LINE:
            return None
        return ActivationSpec(
            num_bits=self.activation_bits,
            method=self.activation_method,
            range=self.activation_range,
            unsigned=unsigned,
            delta=self.delta if self.activation_method == "ewgs" else None,
        )

    @property
    def quant_min(self) -> int:
        """The lowest code."""
        return -(2 ** (self.num_bits - 1)) + int(self.narrow_range)

    @property
    def quant_max(self) -> int:
        """The highest code."""
        return 2 ** (self.num_bits - 1) - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivationSpec(_Plain):
    """Uniform quantization of a layer's output, one scale a tensor: `x = scale * (code - zero_point)`.

    Codes lie in `[-2^(b-1), 2^(b-1) - 1]`; the zero point is an integer code, so that zero (padding) is exact. An
    unsigned range `[0, high]` has `zero_point = quant_min` and spends every level on it.

    Args:
        num_bits: bits a value, 2 to 8.
        method: `"ste"` (a range observed), `"pact"`, `"lsq"` (LSQ+: with an offset), `"ewgs"` (a range learned), or
            `"dorefa"` (the range [0, 1]).
        range: how `method="ste"` finds a range, in training from each batch and in calibration from all data:
            `"moving_average"` of minimum and maximum, `"min_max"` (the widest seen), `"percentile"`, `"mse"` (the
            averages of these in training). None means `"moving_average"` there at 8 bits and `"mse"` below, where
            extremes would leave too few levels to all other values; other methods have None.
        unsigned: whether values are never negative, as after a ReLU.
        delta: with `method="ewgs"`, how strongly rounding errors scale gradients; None means 1e-3 there.

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
        check_int("num_bits", self.num_bits, 2, 8)
        if self.method not in ACTIVATION_METHODS:
            raise ValueError(invalid_choice("activation_method", ACTIVATION_METHODS, self.method))
        if not isinstance(self.unsigned, bool):
            raise TypeError(invalid("unsigned", "True or False", self.unsigned))
        if self.range is not None and self.method != "ste":
            where = f"None with activation_method={self.method!r}"
            raise ValueError(invalid("activation_range", where, self.range, "The method sets its own range"))
        if self.range not in (*ACTIVATION_RANGES, None):
            raise ValueError(invalid_choice("activation_range", ACTIVATION_RANGES, self.range))
        check_owned(self, "delta", "method=ewgs", 0, float("inf"))
        if self.method == "ste":
            self._default("range", "moving_average" if self.num_bits == 8 else "mse")
        if self.method == "ewgs":
            self._default("delta", DELTA)

    @property
    def quant_min(self) -> int:
        """The lowest code."""
        return -(2 ** (self.num_bits - 1))

    @property
    def quant_max(self) -> int:
        """The highest code."""
        return 2 ** (self.num_bits - 1) - 1


def _check_choices(spec: QuantSpec) -> None:
    """Raises for a word that no argument knows."""
    if spec.method == "pact":
        raise ValueError(
            invalid("method", "a method for weights", "pact", "PACT is for activations: pass activation_method='pact'")
        )
    allowed = {"method": METHODS, "range": (*RANGES, None), "granularity": GRANULARITIES, "levels": (*LEVELS, None)}
    for name, choices in allowed.items():
        if getattr(spec, name) not in choices:
            raise ValueError(invalid_choice(name, [choice for choice in choices if choice], getattr(spec, name)))
    if not isinstance(spec.symmetric, bool):
        raise TypeError(invalid("symmetric", "True or False", spec.symmetric))
    if not isinstance(spec.narrow_range, (bool, type(None))):
        raise TypeError(invalid("narrow_range", "True, False or None", spec.narrow_range))
    check_owned(spec, "percentile", "range=percentile", 50, 100)
    check_owned(spec, "delta", "method=ewgs", 0, float("inf"))
    if isinstance(spec.channel_axis, bool) or not isinstance(spec.channel_axis, (int, type(None))):
        raise TypeError(invalid("channel_axis", "an integer or None", spec.channel_axis))


SPEC_KINDS: dict[str, type[QuantSpec] | type[PaletteSpec]] = {QuantSpec.kind: QuantSpec}
