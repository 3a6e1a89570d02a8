"""Which quantizer a spec's method names."""

from __future__ import annotations

from r2keras.quantizers.affine import AffineQuantizer
from r2keras.quantizers.base import WeightQuantizer
from r2keras.quantizers.binary import BinaryQuantizer
from r2keras.quantizers.dorefa import DoReFaQuantizer
from r2keras.quantizers.ewgs import EWGSQuantizer
from r2keras.quantizers.lsq import LSQQuantizer
from r2keras.quantizers.ternary import TernaryQuantizer
from r2keras.quantizers.wrpn import WRPNQuantizer
from r2keras.specs import QuantSpec

QUANTIZERS: dict[str, type[WeightQuantizer]] = {
    "ste": AffineQuantizer,
    "lsq": LSQQuantizer,
    "ewgs": EWGSQuantizer,
    "dorefa": DoReFaQuantizer,
    "wrpn": WRPNQuantizer,
    "binary": BinaryQuantizer,
    "ternary": TernaryQuantizer,
}


def make(spec: QuantSpec, shape: tuple[int, ...], scale_shape: tuple[int, ...], **kwargs) -> WeightQuantizer:
    """Returns the quantizer of a spec's method for one weight.

    Args:
        spec: the grid and the method.
        shape: shape of the weight.
        scale_shape: shape of the scale (`quantizers.axes.scale_shape`).
        **kwargs: `name` and other arguments of a Keras layer.

    Returns:
        A layer that maps the weight to its grid values.

    Example:

    >>> from r2keras import QuantSpec
    >>> type(make(QuantSpec(num_bits=2, method="lsq"), (8, 4), (1, 4))).__name__
    'LSQQuantizer'
    """
    return QUANTIZERS[spec.method](spec, shape, scale_shape, **kwargs)
