"""What the words of the command line mean to r2keras."""

from __future__ import annotations

from collections.abc import Callable

from ptb_lib.settings import FLOAT_BITS, Settings
from r2keras import PaletteSpec, QuantSpec
from r2keras.regularizers import Kurtosis, R2Linf

# Online codes of a state cost a few operations a step; above this many bits an even grid is as good.
ALTERNATING_BITS = 4


def weight_spec(settings: Settings) -> QuantSpec | PaletteSpec | None:
    """Returns the spec of all four kernels, one scale (or table) a row; None for float.

    Raises:
        ValueError: bits that the method does not have.
    """
    if settings.method == "float":
        return None
    if settings.method == "palette":
        return PaletteSpec(num_bits=settings.weight_bits)
    options = {"range": "min_max"} if settings.method == "ste" else {}
    return QuantSpec(num_bits=settings.weight_bits, method=settings.method, **options)


def state_spec(settings: Settings) -> QuantSpec | None:
    """Returns the spec of the hidden state: fitted on line where the weights are, else even steps; None for float."""
    if settings.activation_bits == FLOAT_BITS:
        return None
    on_line = settings.method == "alternating" and settings.activation_bits <= ALTERNATING_BITS
    return QuantSpec(num_bits=settings.activation_bits, method="alternating" if on_line else "ste")


def regularizer(settings: Settings) -> Callable | None:
    """Returns the regularizer, scale-free; None for none."""
    makers = {
        "none": lambda: None,
        "linf": lambda: R2Linf(settings.factor, scale_free=True),
        "kurtosis": lambda: Kurtosis(settings.factor),
    }
    return makers[settings.regularizer]()
