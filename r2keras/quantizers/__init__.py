"""Quantizers: layers that turn a weight into the value it will have in the file, one paper a file."""

from r2keras.quantizers.affine import AffineQuantizer
from r2keras.quantizers.binary import BinaryQuantizer
from r2keras.quantizers.dorefa import DoReFaQuantizer
from r2keras.quantizers.ewgs import EWGSQuantizer
from r2keras.quantizers.lsq import LSQQuantizer
from r2keras.quantizers.methods import make
from r2keras.quantizers.ternary import TernaryQuantizer
from r2keras.quantizers.wrpn import WRPNQuantizer

__all__ = [
    "AffineQuantizer",
    "BinaryQuantizer",
    "DoReFaQuantizer",
    "EWGSQuantizer",
    "LSQQuantizer",
    "TernaryQuantizer",
    "WRPNQuantizer",
    "make",
]
