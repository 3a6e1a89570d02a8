"""The record: the compressed tensors of a model, its activation grids, and what stays float."""

from r2keras.record.palette_layout import PaletteLayout
from r2keras.record.palettized_tensor import PalettizedTensor
from r2keras.record.quantized_activation import QuantizedActivation
from r2keras.record.quantized_tensor import QuantizedTensor, broadcast_scales
from r2keras.record.range_figures import HISTOGRAM_BINS, RangeFigures
from r2keras.record.record import FORMAT_VERSION, CompressionRecord, Tensor, table_bytes

__all__ = [
    "FORMAT_VERSION",
    "HISTOGRAM_BINS",
    "CompressionRecord",
    "PaletteLayout",
    "PalettizedTensor",
    "QuantizedActivation",
    "QuantizedTensor",
    "RangeFigures",
    "Tensor",
    "broadcast_scales",
    "table_bytes",
]
