"""Statistics of the inputs that kernels have in the float model.

AdaRound goes through a model in order, as the inputs of a layer depend on how the layers before it were rounded. These
do not: one pass over the data serves all kernels at all numbers of bits, and the results can be combined.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from r2keras._models import layer_by_layer, values
from r2keras._models.walk import ModelView
from r2keras.calibration import as_matrix
from r2keras.calibration.data_checks import Batch
from r2keras.calibration.rounding.adaround import MEMORY_LIMIT
from r2keras.calibration.rounding.moments import Moments


@dataclasses.dataclass
class InputStatistics:
    """Second moments and means of the patches of one kernel's inputs in the float model.

    Args:
        form: the kernel as a matrix.
        weights: the kernel as that matrix, (groups, fan_in, outputs).
        moments: second moments, without drift.
        sums: sums of the patches, (groups, 1, fan_in).
        samples: samples read.
    """

    form: as_matrix.MatrixForm
    weights: np.ndarray
    moments: Moments
    sums: np.ndarray
    samples: int = 0

    @classmethod
    def of(cls, layer: keras.Layer, name: str, kernel: np.ndarray) -> InputStatistics:
        """Returns empty statistics of a kernel of a built linear layer."""
        form = as_matrix.matrix_form(layer, name)
        weights = form.to_matrix(kernel)
        groups, fan_in, _ = weights.shape
        return cls(form, weights, Moments.zeros(weights), np.zeros((groups, 1, fan_in)))

    @property
    def is_enough(self) -> bool:
        """Whether more samples would hardly change the statistics."""
        return self.moments.is_enough(self.samples)

    def add(self, inputs: Any) -> None:
        """Adds the inputs of one call."""
        array = as_matrix.numpy(inputs)
        self.samples += len(array)
        self.sums += self.moments.add_float(self.form, array)

    def output_error(self, quantized: np.ndarray) -> float:
        """Returns the mean squared error of the outputs with a kernel of other values and a corrected bias."""
        errors = self.form.to_matrix(quantized) - self.weights
        shift = self._mean_shift(errors)
        return float((self.moments.error(errors) - np.square(shift)).clip(0.0).sum())

    def bias_shift(self, quantized: np.ndarray) -> np.ndarray:
        """Returns the mean change of each output, (groups, outputs), with a kernel of other values."""
        return self._mean_shift(self.form.to_matrix(quantized) - self.weights)[:, 0]

    def _mean_shift(self, errors: np.ndarray) -> np.ndarray:
        """Returns the mean change of the outputs under an error of the weights, (groups, 1, outputs)."""
        return self.sums @ errors.astype(np.float64) / max(self.moments.rows, 1)


def input_statistics(view: ModelView, data: list[Batch]) -> dict[str, InputStatistics]:
    """Returns the statistics of all kernels of linear layers by the kernels' full names, in one pass over the data.

    Args:
        view: the float model.
        data: checked batches. Layers with many outputs per sample use the first ones only.
    """
    linear = {path: layer for path, layer in view.layers if as_matrix.is_linear(layer)}
    found: dict[str, InputStatistics] = {}
    by_path: dict[str, list[InputStatistics]] = {}
    for kernel in view.kernels:
        if kernel.path not in linear:
            continue
        statistics = InputStatistics.of(linear[kernel.path], kernel.name, values.to_numpy(kernel.variable))
        groups, fan_in, _ = statistics.weights.shape
        if groups * fan_in**2 * 8 <= MEMORY_LIMIT:
            found[kernel.full_name] = statistics
            by_path.setdefault(kernel.path, []).append(statistics)

    seen: list[tuple[str, np.ndarray]] = []

    def call(path: str, layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        if any(not statistics.is_enough for statistics in by_path.get(path, ())):
            seen.append((path, as_matrix.numpy(args[0] if args else kwargs["inputs"])))
        return layer(*args, **kwargs)

    for batch in data:
        layer_by_layer.run(view.model, batch, call)
        # Only now: the run keeps what is assigned to variables, and patches come from layers with kernels of their own.
        for path, inputs in seen:
            for statistics in by_path[path]:
                statistics.add(inputs)
        seen.clear()
    return found
