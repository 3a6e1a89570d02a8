"""Layers: wrappers that compress the weights of any layer, activation quantizers, and quantized recurrent layers."""

from r2keras.layers.dynamic_input import DynamicInput
from r2keras.layers.palette_monitor import PaletteMonitor
from r2keras.layers.quantize_activation import GridActivation, QuantizeActivation
from r2keras.layers.recurrent.layers import QuantizedGRU, QuantizedLSTM, QuantizedSimpleRNN
from r2keras.layers.wrappers.fake_quantize import FakeQuantize
from r2keras.layers.wrappers.palettize import Palettize

__all__ = [
    "DynamicInput",
    "FakeQuantize",
    "GridActivation",
    "PaletteMonitor",
    "Palettize",
    "QuantizeActivation",
    "QuantizedGRU",
    "QuantizedLSTM",
    "QuantizedSimpleRNN",
]


def __dir__() -> list[str]:
    """Returns the public names."""
    return __all__
