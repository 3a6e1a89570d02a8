"""Specs: the compression of weights and activations, and the recipe that assigns specs to the weights of a model."""

from r2keras.specs.activation import ACTIVATION_METHODS, ACTIVATION_RANGES, ActivationSpec
from r2keras.specs.palette import PaletteSpec
from r2keras.specs.quant import GRANULARITIES, LEVELS, METHODS, RANGES, QuantSpec
from r2keras.specs.recipe import SPEC_KINDS, STEPS, Recipe, Spec

__all__ = [
    "ACTIVATION_METHODS",
    "ACTIVATION_RANGES",
    "GRANULARITIES",
    "LEVELS",
    "METHODS",
    "RANGES",
    "SPEC_KINDS",
    "STEPS",
    "ActivationSpec",
    "PaletteSpec",
    "QuantSpec",
    "Recipe",
    "Spec",
]
