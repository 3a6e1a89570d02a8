"""The spec of uniform weight quantization."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from r2keras._util.errors import check_int, check_number, check_only_with, invalid, invalid_choice
from r2keras._util.numeric import as_int
from r2keras.specs.activation import ACTIVATION_METHODS, DELTA, ActivationSpec, check_method_and_range
from r2keras.specs.base import BaseSpec
from r2keras.specs.dynamic import DYNAMIC, check_dynamic

METHODS = ("ste", "lsq", "ewgs", "dorefa", "wrpn", "binary", "ternary", "balanced", "alternating")
RANGES = ("min_max", "percentile", "mse")
GRANULARITIES = ("per_tensor", "per_channel", "per_group", "per_gate")
LEVELS = ("mid_tread", "mid_rise")
# Levels and ranges of bits that the methods' papers fix; methods not listed take both levels and 1 to 8 bits.
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
PERCENTILE = 99.9
# The `activation_method` that only states of recurrent layers have: it fits codes to each row at run time.
FITTED_AT_RUN_TIME = "alternating"
# The default of `activation_method` by the method of the weights; WRPN quantizes activations as DoReFa does.
PARTNERS = {"lsq": "lsq", "ewgs": "ewgs", "dorefa": "dorefa", "wrpn": "dorefa"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantSpec(BaseSpec):
    """Uniform quantization of a weight tensor: `w = scale * (code - zero_point)`.

    Integer codes lie in `[quant_min, quant_max]`. Mid-tread grids have a level at zero; mid-rise grids have
    `2**num_bits` symmetric levels half a step off zero (`zero_point = -1/2`), which keeps all four levels useful
    at 2 bits, where a symmetric mid-tread grid has only {-1, 0, 1}.

    | grid | codes at `b` bits | zero_point |
    |---|---|---|
    | symmetric, mid-tread, narrow range (default above 2 bits) | `-(2^(b-1) - 1) .. 2^(b-1) - 1` | 0 |
    | symmetric, mid-tread, full range | `-2^(b-1) .. 2^(b-1) - 1` | 0 |
    | symmetric, mid-rise (default at 1 and 2 bits) | `-2^(b-1) .. 2^(b-1) - 1` | -1/2 |
    | asymmetric | `-2^(b-1) .. 2^(b-1) - 1` | an integer code |

    Args:
        num_bits: bits per weight, 1 to 8; the only argument that may be positional.
        method: the quantizer used in training, each from one paper: `"ste"` (straight-through estimator), `"lsq"`
            (learned step size), `"ewgs"` (element-wise gradient scaling), `"dorefa"`, `"wrpn"`, `"binary"`,
            `"ternary"`, `"balanced"`, `"alternating"` (signs times coefficients per row). See `r2keras.quantizers`.
        range: how `method="ste"` chooses the scale: `"min_max"` covers every weight, `"percentile"` all but the
            largest, `"mse"` minimizes the squared error. None means `"mse"`. Other methods set or learn their own
            scale and take None only.
        percentile: with `range="percentile"`, the share of magnitudes that the range covers, in percent, from 50 to
            100; None means 99.9.
        granularity: which weights share a scale: `"per_tensor"`, `"per_channel"`, `"per_group"` or (in recurrent
            layers) `"per_gate"`.
        group_size: weights per group along the input axis; required with `"per_group"`, None otherwise.
        channel_axis: the axis that KEEPS its own scale under `"per_channel"` (negative counts from the end);
            None means the output axis of the layer.
        symmetric: whether the grid is symmetric around zero; an asymmetric one follows the weights' minimum and
            maximum, always contains zero, and has `levels="mid_tread"`.
        narrow_range: whether a symmetric mid-tread grid leaves out its lowest code; None means True there.
        levels: `"mid_tread"` or `"mid_rise"`. None means the levels of the method's paper (mid-rise for EWGS, DoReFa,
            binary, balanced and alternating, mid-tread for WRPN and ternary); for other methods, mid-rise on symmetric
            grids of 1 and 2 bits and mid-tread otherwise.
        delta: with `method="ewgs"`, how strongly the rounding error scales the gradient, at least 0; None means 1e-3.
        activation_bits: bits of the layer's output (after batch normalization and activation function), 2 to 8; for a
            recurrent layer, bits of the state inside its time loop; None leaves it float.
        activation_method: `"ste"`, `"pact"`, `"lsq"`, `"ewgs"` or `"dorefa"`; None means the counterpart of `method`
            (the same for LSQ, EWGS and DoReFa, DoReFa for WRPN, otherwise straight-through). `"alternating"`, 2 to 4
            bits, fits codes to each row of a recurrent state at run time and leaves other layers' outputs float.
            `"dynamic"`, 8 bits, rounds each row of the layer's input at run time (`ops.dynamic_quantize`) where the
            layer is a product (see `dynamic_twin`), for files with `activations="dynamic"`; no range is kept. Only with
            `activation_bits`.
        activation_range: how `activation_method="ste"` finds its range (`ActivationSpec.range`); None means
            `"moving_average"` at 8 bits and `"mse"` below.

    Raises:
        ValueError: a value out of range, or two values that contradict each other.
        TypeError: a number that is not an integer, or a switch that is neither True nor False.

    Example:

    >>> spec = QuantSpec(4)
    >>> spec.quant_min, spec.quant_max
    (-7, 7)
    >>> QuantSpec(num_bits=2).levels
    'mid_rise'

    Source: Jacob et al., arXiv 1712.05877, section 2; Nagel et al., arXiv 2106.08295, section 2.
    """

    num_bits: int = dataclasses.field(default=8, kw_only=False)
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
    # The activation arguments as one spec, set once in `__post_init__`; not a field, because they are fields already.
    _activation: ClassVar[ActivationSpec | None] = None

    def __post_init__(self):
        self._set("num_bits", check_int("num_bits", self.num_bits, 1, 8))
        _check_choices(self)
        self._check_numbers()
        self._check_method()
        self._resolve_defaults()
        self._check_granularity()
        self._check_grid()
        self._resolve_activation()

    def _check_numbers(self) -> None:
        """Raises for a number out of range, or without the choice that it belongs to."""
        check_only_with("percentile", self.percentile, "range", "percentile", self.range)
        self._set("percentile", check_number("percentile", self.percentile, 50, 100))
        check_only_with("delta", self.delta, "method", "ewgs", self.method)
        self._set("delta", check_number("delta", self.delta, 0, math.inf))
        if self.channel_axis is not None:
            axis = as_int(self.channel_axis)
            if axis is None:
                raise TypeError(invalid("channel_axis", "an integer or None", self.channel_axis))
            self._set("channel_axis", axis)

    def _resolve_defaults(self) -> None:
        """Replaces None by the value it stands for, so that equal grids are equal specs."""
        levels = "mid_rise" if self.symmetric and self.num_bits <= 2 else "mid_tread"
        self._set_default("levels", METHOD_LEVELS.get(self.method, levels))
        self._set_default("narrow_range", self.symmetric and self.levels == "mid_tread")
        if self.method == "ste":
            self._set_default("range", "mse")
        if self.range == "percentile":
            self._set_default("percentile", PERCENTILE)
        if self.method == "ewgs":
            self._set_default("delta", DELTA)

    def _check_method(self) -> None:
        """Raises for an argument that contradicts the method."""
        if self.method == "ste":
            return
        low, high = METHOD_BITS.get(self.method, (1, 8))
        fixed_levels = METHOD_LEVELS.get(self.method)
        condition = f" with method={self.method!r}"
        if not low <= self.num_bits <= high:
            bits = str(low) if low == high else f"{low} to {high}"
            raise ValueError(invalid("num_bits", bits + condition, self.num_bits, f"Pass num_bits={low}"))
        if not self.symmetric:
            raise ValueError(invalid("symmetric", "True" + condition, False, "Only method='ste' has asymmetric grids"))
        if self.range is not None:
            raise ValueError(invalid("range", "None" + condition, self.range, "The method sets its own range"))
        if fixed_levels and self.levels not in (fixed_levels, None):
            raise ValueError(invalid("levels", repr(fixed_levels) + condition, self.levels, "Leave levels out"))
        if self.method == "alternating" and self.granularity == "per_group":
            expected = "'per_tensor', 'per_channel' or 'per_gate'" + condition
            raise ValueError(invalid("granularity", expected, self.granularity, "Use 'per_channel'"))
        if fixed_levels == "mid_tread" and self.narrow_range is False:
            raise ValueError(invalid("narrow_range", "True" + condition, False, "Leave narrow_range out"))

    def _check_granularity(self) -> None:
        """Raises for a group size or a channel axis that does not go with the granularity."""
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
            self._set("group_size", check_int("group_size", self.group_size, 1, None))
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
        """Raises for levels and ranges that a grid cannot have together."""
        has_center_level = self.symmetric and self.levels == "mid_tread"
        if self.levels == "mid_rise" and not self.symmetric:
            raise ValueError(
                invalid(
                    "levels", "'mid_tread' with symmetric=False", self.levels, "An asymmetric grid always contains zero"
                )
            )
        if self.narrow_range and not has_center_level:
            raise ValueError(
                invalid(
                    "narrow_range",
                    "False or None unless the grid is symmetric and mid-tread",
                    True,
                    "Leave narrow_range out",
                )
            )
        if has_center_level and self.num_bits == 1:
            raise ValueError(
                invalid(
                    "levels",
                    "'mid_rise' for a symmetric grid of 1 bit",
                    self.levels,
                    "One bit has two levels, and neither is zero",
                )
            )

    def _resolve_activation(self) -> None:
        """Sets the defaults of the activation arguments and the spec they stand for; raises for bad ones."""
        if self.activation_bits is None:
            for name in ("activation_method", "activation_range"):
                if getattr(self, name) is not None:
                    fix = "Pass activation_bits=8, say"
                    raise ValueError(invalid(name, "None without activation_bits", getattr(self, name), fix))
            return
        self._set("activation_bits", check_int("activation_bits", self.activation_bits, 2, 8))
        method = self._set_default("activation_method", PARTNERS.get(self.method, "ste"))
        if method == FITTED_AT_RUN_TIME:
            self._check_state(self.activation_bits)
            return
        if method == DYNAMIC:
            check_dynamic(self, self.activation_bits)
            return
        methods = (*ACTIVATION_METHODS, FITTED_AT_RUN_TIME, DYNAMIC)
        check_method_and_range(method, self.activation_range, "activation_", methods)
        activation = ActivationSpec(
            num_bits=self.activation_bits,
            method=method,
            range=self.activation_range,
            delta=self.delta if method == "ewgs" else None,
        )
        self._set_default("activation_range", activation.range)
        object.__setattr__(self, "_activation", activation)

    def _check_state(self, bits: int) -> None:
        """Raises for a state fitted at run time that has too many bits, or a range."""
        condition = f" with activation_method={FITTED_AT_RUN_TIME!r}"
        if bits > METHOD_BITS[FITTED_AT_RUN_TIME][1]:
            raise ValueError(invalid("activation_bits", "2 to 4" + condition, bits, "Pass 3"))
        if self.activation_range is not None:
            fix = "The codes are fitted to each row"
            raise ValueError(invalid("activation_range", "None" + condition, self.activation_range, fix))

    def activation(self, *, unsigned: bool = False) -> ActivationSpec | None:
        """Returns the spec of the layer's output; None if it stays float, as under `"alternating"` and `"dynamic"`.

        Args:
            unsigned: whether the output is never negative, as after a ReLU.

        Example:

        >>> QuantSpec(num_bits=2, method="ewgs", activation_bits=2).activation().method
        'ewgs'
        """
        if self._activation is None:
            return None
        return dataclasses.replace(self._activation, unsigned=unsigned)

    @property
    def quant_min(self) -> int:
        """The lowest code."""
        return -(2 ** (self.num_bits - 1)) + (1 if self.narrow_range else 0)

    @property
    def quant_max(self) -> int:
        """The highest code."""
        return 2 ** (self.num_bits - 1) - 1


def _check_choices(spec: QuantSpec) -> None:
    """Raises for an argument whose value is not one of its choices, or not of its type."""
    if spec.method == "pact":
        fix = "PACT is for activations: pass activation_method='pact'"
        raise ValueError(invalid("method", "a method for weights", "pact", fix))
    allowed = {"method": METHODS, "range": (*RANGES, None), "granularity": GRANULARITIES, "levels": (*LEVELS, None)}
    for name, choices in allowed.items():
        if getattr(spec, name) not in choices:
            raise ValueError(invalid_choice(name, [choice for choice in choices if choice], getattr(spec, name)))
    if not isinstance(spec.symmetric, bool):
        raise TypeError(invalid("symmetric", "True or False", spec.symmetric))
    if not isinstance(spec.narrow_range, (bool, type(None))):
        raise TypeError(invalid("narrow_range", "True, False or None", spec.narrow_range))
