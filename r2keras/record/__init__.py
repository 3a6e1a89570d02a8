"""The record: the compressed tensors of a model, its activation grids, and what stays float."""

from r2keras.record.palette_layout import PaletteLayout
from r2keras.record.palettized_tensor import PalettizedTensor
from r2keras.record.quantized_activation import QuantizedActivation
from r2keras.record.quantized_tensor import QuantizedTensor
from r2keras.record.quantized_tensor import broadcast_scales as broadcast_scales
from r2keras.record.range_figures import HISTOGRAM_BINS as HISTOGRAM_BINS
from r2keras.record.range_figures import RangeFigures
from r2keras.record.record import FORMAT_VERSION as FORMAT_VERSION
from r2keras.record.record import CompressionRecord, Tensor
from r2keras.record.record import table_bytes as table_bytes
from r2keras.record.sign_planes import sign_planes as sign_planes
from r2keras.record.sign_planes import tables_of as tables_of

__all__ = [
    "CompressionRecord",
    "PaletteLayout",
    "PalettizedTensor",
    "QuantizedActivation",
    "QuantizedTensor",
    "RangeFigures",
    "Tensor",
]


def __dir__() -> list[str]:
    """Returns the public names."""
    return __all__
