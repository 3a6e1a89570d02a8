"""Second moments of a layer's inputs, from which the output error of changed weights follows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from r2keras.calibration.as_matrix import MatrixForm, numpy

# Bytes of float32 patches that are processed at a time.
CHUNK_BYTES = 2**26
# Rows of patches beyond which more samples of a layer change its moments by less than rounding does: a layer of
# 32 x 32 outputs reaches them after 128 samples, which are the fewest that are read.
ENOUGH_ROWS = 2**17
FEWEST_SAMPLES = 128


@dataclasses.dataclass
class Moments:
    """Sums over the rows of a layer's patches, `x` in the quantized model and `t` in the float model, in float64.

    With the weight error `E = W_q - W`, the output error of a row is `x W_q - t W = x E + (x - t) W`. Its square,
    summed over the rows, is `E' inner E + 2 E' cross + constant` for each output.

    Args:
        inner: `sum x' x`, (groups, fan_in, fan_in).
        cross: `sum x' (x - t) W`, (groups, fan_in, outputs).
        constant: `sum ((x - t) W)^2`, (groups, 1, outputs).
        rows: the number of rows in the sums.
    """

    inner: np.ndarray
    cross: np.ndarray
    constant: np.ndarray
    rows: int = 0

    @classmethod
    def zeros(cls, matrix: np.ndarray) -> Moments:
        """Returns empty sums for a kernel matrix (groups, fan_in, outputs)."""
        groups, fan_in, outputs = matrix.shape
        return cls(np.zeros((groups, fan_in, fan_in)), np.zeros(matrix.shape), np.zeros((groups, 1, outputs)))

    def add(self, form: MatrixForm, float_form: MatrixForm, matrix: np.ndarray, inputs: Any, float_inputs: Any) -> None:
        """Adds the patches of a batch.

        Args:
            form: the kernel in the quantized model.
            float_form: the kernel in the float model.
            matrix: the float kernel as a matrix.
            inputs: the layer's inputs in the quantized model.
            float_inputs: the layer's inputs in the float model.
        """
        inputs, float_inputs = numpy(inputs), numpy(float_inputs)
        step = max(1, CHUNK_BYTES // max(1, inputs[0].nbytes * form.spread))
        for start in range(0, len(inputs), step):
            part = slice(start, start + step)
            # With the groups first, each group is one matrix product.
            rows, floats = (
                np.ascontiguousarray(own_form.patches(x[part]).transpose(1, 0, 2))
                for own_form, x in ((form, inputs), (float_form, float_inputs))
            )
            drift = (rows - floats) @ matrix
            transposed = rows.transpose(0, 2, 1)
            self.inner += transposed @ rows
            self.cross += transposed @ drift
            self.constant += np.square(drift).sum(axis=1, keepdims=True, dtype=np.float64)
            self.rows += rows.shape[1]

    def add_float(self, form: MatrixForm, inputs: np.ndarray) -> np.ndarray:
        """Adds the patches of a batch that the float model and the quantized one share; returns their sum.

        Args:
            form: the kernel.
            inputs: the layer's inputs.

        Returns:
            The sums of the patches, (groups, 1, fan_in).
        """
        step = max(1, CHUNK_BYTES // max(1, inputs[0].nbytes * form.spread))
        sums = np.zeros((self.inner.shape[0], 1, self.inner.shape[1]))
        for start in range(0, len(inputs), step):
            rows = np.ascontiguousarray(form.patches(inputs[start : start + step]).transpose(1, 0, 2))
            self.inner += rows.transpose(0, 2, 1) @ rows
            sums += rows.sum(axis=1, keepdims=True, dtype=np.float64)
            self.rows += rows.shape[1]
        return sums

    def is_enough(self, samples: int) -> bool:
        """Whether the moments of so many samples would hardly change with more."""
        return samples >= FEWEST_SAMPLES and self.rows >= ENOUGH_ROWS

    def error(self, errors: np.ndarray) -> np.ndarray:
        """Returns the mean squared output error of a weight error `E`, (groups, 1, outputs)."""
        errors = errors.astype(np.float64)
        change = (errors * (self.inner @ errors + 2 * self.cross)).sum(axis=1, keepdims=True)
        return np.maximum(change + self.constant, 0) / max(self.rows, 1)
