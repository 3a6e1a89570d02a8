"""Specs: the compression of weights and activations, and the recipe that assigns specs to the weights of a model."""

from r2keras.specs.activation import ACTIVATION_METHODS as ACTIVATION_METHODS
from r2keras.specs.activation import ACTIVATION_RANGES as ACTIVATION_RANGES
from r2keras.specs.activation import ActivationSpec
from r2keras.specs.palette import PaletteSpec
from r2keras.specs.quant import GRANULARITIES as GRANULARITIES
from r2keras.specs.quant import LEVELS as LEVELS
from r2keras.specs.quant import METHODS as METHODS
from r2keras.specs.quant import RANGES as RANGES
from r2keras.specs.quant import QuantSpec
from r2keras.specs.recipe import AUTO as AUTO
from r2keras.specs.recipe import EDGES as EDGES
from r2keras.specs.recipe import SPEC_KINDS as SPEC_KINDS
from r2keras.specs.recipe import STEPS as STEPS
from r2keras.specs.recipe import Recipe, Spec

__all__ = ["ActivationSpec", "PaletteSpec", "QuantSpec", "Recipe", "Spec"]


def __dir__() -> list[str]:
    """Returns the public names."""
    return __all__
