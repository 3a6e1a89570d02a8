"""Low-bit Keras models for phones and microcontrollers.

Importing r2keras imports neither Keras nor a backend: each name is imported when it is first used. Specs, recipes and
records need NumPy only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from r2keras._registration import register_with_keras

if TYPE_CHECKING:
    from r2keras import (
        budget,
        calibration,
        callbacks,
        export,
        layers,
        ops,
        quantizers,
        record,
        regularizers,
        report,
        search,
        specs,
        tfmot,
        widening,
        workloads,
    )
    from r2keras.automatic.compress import compress
    from r2keras.automatic.compressed import Compressed
    from r2keras.automatic.sensitivity import LayerSensitivity, Sensitivity, sensitivity
    from r2keras.budget import Footprint, break_even_width, footprint
    from r2keras.calibration import calibrate
    from r2keras.comparison.compare import Comparison, LayerComparison, compare
    from r2keras.compression.activation_plan import activation_plan
    from r2keras.compression.distill import distill
    from r2keras.compression.dynamic_twin import dynamic_twin
    from r2keras.compression.finalize import finalize
    from r2keras.compression.prepare import prepare
    from r2keras.compression.recover import recover
    from r2keras.record import CompressionRecord, PalettizedTensor, QuantizedActivation, QuantizedTensor
    from r2keras.regularizers import Kurtosis, R2Linf, R2Margin, R2SoftMinMax, regularize
    from r2keras.specs import ActivationSpec, PaletteSpec, QuantSpec, Recipe
    from r2keras.widening import widen

__version__ = "0.1.0"

__all__ = [
    "ActivationSpec",
    "Comparison",
    "Compressed",
    "CompressionRecord",
    "Footprint",
    "Kurtosis",
    "LayerComparison",
    "LayerSensitivity",
    "PaletteSpec",
    "PalettizedTensor",
    "QuantSpec",
    "QuantizedActivation",
    "QuantizedTensor",
    "R2Linf",
    "R2Margin",
    "R2SoftMinMax",
    "Recipe",
    "Sensitivity",
    "activation_plan",
    "break_even_width",
    "budget",
    "calibrate",
    "calibration",
    "callbacks",
    "compare",
    "compress",
    "distill",
    "dynamic_twin",
    "export",
    "finalize",
    "footprint",
    "layers",
    "ops",
    "prepare",
    "quantizers",
    "record",
    "recover",
    "regularize",
    "regularizers",
    "report",
    "search",
    "sensitivity",
    "specs",
    "tfmot",
    "widen",
    "widening",
    "workloads",
]

# The module of every public name that is not a module itself.
_MODULES = {
    "ActivationSpec": "r2keras.specs",
    "Comparison": "r2keras.comparison.compare",
    "Compressed": "r2keras.automatic.compressed",
    "CompressionRecord": "r2keras.record",
    "Footprint": "r2keras.budget",
    "Kurtosis": "r2keras.regularizers",
    "LayerComparison": "r2keras.comparison.compare",
    "LayerSensitivity": "r2keras.automatic.sensitivity",
    "PaletteSpec": "r2keras.specs",
    "PalettizedTensor": "r2keras.record",
    "QuantSpec": "r2keras.specs",
    "QuantizedActivation": "r2keras.record",
    "QuantizedTensor": "r2keras.record",
    "R2Linf": "r2keras.regularizers",
    "R2Margin": "r2keras.regularizers",
    "R2SoftMinMax": "r2keras.regularizers",
    "Recipe": "r2keras.specs",
    "Sensitivity": "r2keras.automatic.sensitivity",
    "activation_plan": "r2keras.compression.activation_plan",
    "distill": "r2keras.compression.distill",
    "dynamic_twin": "r2keras.compression.dynamic_twin",
    "break_even_width": "r2keras.budget",
    "calibrate": "r2keras.calibration",
    "compare": "r2keras.comparison.compare",
    "compress": "r2keras.automatic.compress",
    "finalize": "r2keras.compression.finalize",
    "footprint": "r2keras.budget",
    "prepare": "r2keras.compression.prepare",
    "recover": "r2keras.compression.recover",
    "regularize": "r2keras.regularizers",
    "sensitivity": "r2keras.automatic.sensitivity",
    "widen": "r2keras.widening",
}


if not TYPE_CHECKING:  # A type checker takes the names from the imports above, and reports all others.

    def __getattr__(name: str) -> Any:
        """Imports a public name when it is first used (PEP 562)."""
        if name in _MODULES:
            value = getattr(importlib.import_module(_MODULES[name]), name)
        elif name in __all__:
            value = importlib.import_module(f"r2keras.{name}")
        else:
            raise AttributeError(f"module 'r2keras' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Returns the public names, whether they are imported already or not."""
    return sorted([*__all__, "__version__"])


register_with_keras()
