"""Lookup of the quantizer class of a spec's method."""

from __future__ import annotations

from typing import Any

from r2keras.quantizers.activation import ActivationQuantizer, RangeActivation
from r2keras.quantizers.affine import AffineQuantizer
from r2keras.quantizers.alternating import AlternatingQuantizer
from r2keras.quantizers.balanced import BalancedQuantizer
from r2keras.quantizers.base import WeightQuantizer
from r2keras.quantizers.binary import BinaryQuantizer
from r2keras.quantizers.dorefa import DoReFaActivation, DoReFaQuantizer
from r2keras.quantizers.ewgs import EWGSActivation, EWGSQuantizer
from r2keras.quantizers.fixed import LIMITS, FixedActivation
from r2keras.quantizers.lsq import LSQActivation, LSQQuantizer
from r2keras.quantizers.pact import PACTActivation
from r2keras.quantizers.ternary import TernaryQuantizer
from r2keras.quantizers.wrpn import WRPNQuantizer
from r2keras.specs import ActivationSpec, QuantSpec

QUANTIZERS: dict[str, type[WeightQuantizer]] = {
    "ste": AffineQuantizer,
    "lsq": LSQQuantizer,
    "ewgs": EWGSQuantizer,
    "dorefa": DoReFaQuantizer,
    "wrpn": WRPNQuantizer,
    "binary": BinaryQuantizer,
    "ternary": TernaryQuantizer,
    "balanced": BalancedQuantizer,
    "alternating": AlternatingQuantizer,
}
ACTIVATIONS: dict[str, type[ActivationQuantizer]] = {
    "ste": RangeActivation,
    "pact": PACTActivation,
    "lsq": LSQActivation,
    "ewgs": EWGSActivation,
    "dorefa": DoReFaActivation,
}


def make(spec: QuantSpec, shape: tuple[int, ...], scale_shape: tuple[int, ...], **kwargs: Any) -> WeightQuantizer:
    """Returns the quantizer of a spec's method for one weight.

    Args:
        spec: the grid and the method.
        shape: shape of the weight.
        scale_shape: shape of the scale, one entry per group of weights that shares it.
        **kwargs: `name` and other arguments of a Keras layer.

    Returns:
        A layer that maps the weight to its grid values.

    Example:

    >>> from r2keras import QuantSpec
    >>> type(make(QuantSpec(num_bits=2, method="lsq"), (8, 4), (1, 4))).__name__
    'LSQQuantizer'
    """
    return QUANTIZERS[spec.method](spec, shape, scale_shape, **kwargs)


def make_activation(spec: ActivationSpec, **kwargs: Any) -> ActivationQuantizer:
    """Returns the quantizer of a spec's method for one activation tensor.

    Args:
        spec: the grid and the method.
        **kwargs: `name` and other arguments of a Keras layer.

    Returns:
        A layer that maps the tensor to its grid values.

    Example:

    >>> from r2keras.specs import ActivationSpec
    >>> type(make_activation(ActivationSpec(num_bits=4, method="pact"))).__name__
    'PACTActivation'
    """
    kind = FixedActivation if spec.range in LIMITS else ACTIVATIONS[spec.method]
    return kind(spec, **kwargs)
