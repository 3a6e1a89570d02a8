"""A warning about features of a model's input that are too small for the steps of the input's grid."""

from __future__ import annotations

import warnings

import keras
import numpy as np

from r2keras.calibration.data_checks import Batch
from r2keras.layers.quantize_activation import QuantizeActivation

# A feature whose range has fewer steps of the input's grid loses most of its information.
MIN_STEPS = 8
# A range of more standard deviations comes from a few extreme samples, as of pixels at an image's edge.
MAX_DEVIATIONS = 10
# Features that the warning names.
NAMED = 5


class InputFeatures:
    """Ranges of the features of each quantized input, along its last axis.

    Args:
        model: the model.
        layers: the layers that quantize its inputs, by the names of the inputs; others are ignored.
    """

    def __init__(self, model: keras.Model, layers: dict[str, QuantizeActivation]) -> None:
        named = [(index, layers.get(tensor.name)) for index, tensor in enumerate(model.inputs)]
        sizes = [tensor.shape[-1] if len(tensor.shape) > 1 else None for tensor in model.inputs]
        self._layers = {index: layer for index, layer in named if layer is not None and (sizes[index] or 1) > 1}
        self._names = [tensor.name for tensor in model.inputs]
        self._statistics = {index: _Features(sizes[index] or 1) for index in self._layers}

    def add(self, batch: Batch) -> None:
        """Adds the values of a batch."""
        for index, features in self._statistics.items():
            features.add(batch[index])

    def warn(self, stacklevel: int) -> None:
        """Warns once per input about features that lose most of their information on the input's grid."""
        for index, layer in self._layers.items():
            features, step = self._statistics[index], layer.grid()[0]
            for_grid = np.flatnonzero(features.is_lost(step))
            if for_grid.size:
                first = ", ".join(f"{i} ({features.low[i]:.3g} to {features.high[i]:.3g})" for i in for_grid[:NAMED])
                more = f" and {for_grid.size - NAMED} more" if for_grid.size > NAMED else ""
                warnings.warn(
                    f"The {layer.spec.num_bits}-bit grid of the input {self._names[index]!r} has steps of {step:.3g}, "
                    f"too large for the features {first}{more}. Expected features of similar ranges. Normalize each "
                    "feature before the model, or leave input_bits out.",
                    UserWarning,
                    stacklevel=stacklevel,
                )


class _Features:
    """Extremes and deviations of features that come in batches."""

    def __init__(self, size: int) -> None:
        self.low = np.full(size, np.inf)
        self.high = np.full(size, -np.inf)
        self.count = 0
        self.sums = np.zeros((2, size))

    def add(self, values: np.ndarray) -> None:
        """Adds values whose last axis is that of the features."""
        rows = values.reshape(-1, values.shape[-1])
        self.low = np.minimum(self.low, rows.min(axis=0))
        self.high = np.maximum(self.high, rows.max(axis=0))
        self.count += len(rows)
        self.sums += [rows.sum(axis=0, dtype=np.float64), np.square(rows, dtype=np.float64).sum(axis=0)]

    def is_lost(self, step: float) -> np.ndarray:
        """Returns which features vary, but by few steps of a grid."""
        mean, square = self.sums / max(self.count, 1)
        deviation = np.sqrt(np.maximum(square - mean * mean, 0))
        span = self.high - self.low
        return (span > 0) & (span < MIN_STEPS * step) & (span <= MAX_DEVIATIONS * deviation)
