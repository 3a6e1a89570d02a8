"""Quantizers: layers that map a weight or an activation to the values it will have in the file, one paper per file."""

from r2keras.quantizers.activation import RangeActivation
from r2keras.quantizers.affine import AffineQuantizer
from r2keras.quantizers.alternating import AlternatingQuantizer
from r2keras.quantizers.balanced import BalancedQuantizer
from r2keras.quantizers.binary import BinaryQuantizer
from r2keras.quantizers.dorefa import DoReFaActivation, DoReFaQuantizer
from r2keras.quantizers.ewgs import EWGSActivation, EWGSQuantizer
from r2keras.quantizers.lsq import LSQActivation, LSQQuantizer
from r2keras.quantizers.methods import make, make_activation
from r2keras.quantizers.pact import PACTActivation
from r2keras.quantizers.ternary import TernaryQuantizer
from r2keras.quantizers.wrpn import WRPNQuantizer

__all__ = [
    "AffineQuantizer",
    "AlternatingQuantizer",
    "BalancedQuantizer",
    "BinaryQuantizer",
    "DoReFaActivation",
    "DoReFaQuantizer",
    "EWGSActivation",
    "EWGSQuantizer",
    "LSQActivation",
    "LSQQuantizer",
    "PACTActivation",
    "RangeActivation",
    "TernaryQuantizer",
    "WRPNQuantizer",
    "make",
    "make_activation",
]


def __dir__() -> list[str]:
    """Returns the public names."""
    return __all__
