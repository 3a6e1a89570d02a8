"""Wrappers and activation quantizers of a prepared model."""

from __future__ import annotations

import keras

from r2keras._models.walk import ModelView, view_of
from r2keras.layers.quantize_activation import QuantizeActivation
from r2keras.layers.wrappers.substitute import SubstituteWeights


def wrappers(model: keras.Model | ModelView) -> list[tuple[str, SubstituteWeights]]:
    """Returns the wrapped layers of a model with their paths."""
    return view_of(model).instances(SubstituteWeights)


def quantizers_of(model: keras.Model | ModelView) -> list[tuple[str, QuantizeActivation]]:
    """Returns the layers of a prepared model that quantize activations, with their paths."""
    return view_of(model).instances(QuantizeActivation)
