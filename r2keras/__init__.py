"""Low-bit Keras models that really reach a phone or a microcontroller."""

from r2keras import callbacks, export, layers, quantizers, regularizers, report, search
from r2keras.budget import Footprint, break_even_width, footprint
from r2keras.calibration import calibrate
from r2keras.compress import finalize, prepare
from r2keras.placement import activation_plan
from r2keras.record import CompressionRecord, PalettizedTensor, QuantizedActivation, QuantizedTensor
from r2keras.regularizers import Kurtosis, R2Linf, R2Margin, R2SoftMinMax, regularize
from r2keras.specs import ActivationSpec, PaletteSpec, QuantSpec, Recipe
from r2keras.widening import widen

__version__ = "0.1.0"

__all__ = [
    "ActivationSpec",
    "CompressionRecord",
    "Footprint",
    "Kurtosis",
    "PaletteSpec",
    "PalettizedTensor",
    "QuantSpec",
    "QuantizedActivation",
    "QuantizedTensor",
    "R2Linf",
    "R2Margin",
    "R2SoftMinMax",
    "Recipe",
    "activation_plan",
    "break_even_width",
    "calibrate",
    "callbacks",
    "export",
    "finalize",
    "footprint",
    "layers",
    "prepare",
    "quantizers",
    "regularize",
    "regularizers",
    "report",
    "search",
    "widen",
]
