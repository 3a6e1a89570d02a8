"""Layers: wrappers that compress the weights of any layer."""

from r2keras.layers.fake_quantize import FakeQuantize

__all__ = ["FakeQuantize"]
