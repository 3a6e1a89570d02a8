"""Layers: wrappers that compress the weights of any layer, and layers that quantize activations."""

from r2keras.layers.fake_quantize import FakeQuantize
from r2keras.layers.palette_monitor import PaletteMonitor
from r2keras.layers.palettize import Palettize
from r2keras.layers.quantize_activation import GridActivation, QuantizeActivation

__all__ = ["FakeQuantize", "GridActivation", "PaletteMonitor", "Palettize", "QuantizeActivation"]
