"""Layers: wrappers that compress the weights of any layer, activation quantizers, and quantized recurrent layers."""

from r2keras.layers.fake_quantize import FakeQuantize
from r2keras.layers.palette_monitor import PaletteMonitor
from r2keras.layers.palettize import Palettize
from r2keras.layers.quantize_activation import GridActivation, QuantizeActivation
from r2keras.layers.recurrent import QuantizedGRU, QuantizedLSTM, QuantizedSimpleRNN

__all__ = [
    "FakeQuantize",
    "GridActivation",
    "PaletteMonitor",
    "Palettize",
    "QuantizeActivation",
    "QuantizedGRU",
    "QuantizedLSTM",
    "QuantizedSimpleRNN",
]
