"""The specs and regularizers that the flags describe."""

from __future__ import annotations

from collections.abc import Callable

from ptb_lib.settings import FLOAT_BITS, Settings
from r2keras import PaletteSpec, QuantSpec
from r2keras.regularizers import Kurtosis, R2Linf

# Fitting codes to the states at run time costs a few operations per step; above this width a uniform grid is as good.
ALTERNATING_BITS = 4


def weight_spec(settings: Settings) -> QuantSpec | PaletteSpec | None:
    """Returns the spec of all four kernels, with one scale (or table) per row; None for float.

    Raises:
        ValueError: the method does not support this number of bits.
    """
    if settings.method == "float":
        return None
    if settings.method == "palette":
        return PaletteSpec(num_bits=settings.weight_bits)
    options = {"range": "min_max"} if settings.method == "ste" else {}
    return QuantSpec(num_bits=settings.weight_bits, method=settings.method, **options)


def state_spec(settings: Settings) -> QuantSpec | None:
    """Returns the spec of the hidden state: alternating like the weights at few bits, else uniform; None for float."""
    if settings.activation_bits == FLOAT_BITS:
        return None
    alternating = settings.method == "alternating" and settings.activation_bits <= ALTERNATING_BITS
    return QuantSpec(num_bits=settings.activation_bits, method="alternating" if alternating else "ste")


def regularizer(settings: Settings) -> Callable | None:
    """Returns the regularizer, L-infinity in its scale-free form; None for none."""
    if settings.regularizer == "linf":
        return R2Linf(settings.factor, scale_free=True)
    if settings.regularizer == "kurtosis":
        return Kurtosis(settings.factor)
    return None
