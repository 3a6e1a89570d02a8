"""Comparison of a Keras model and its file on the same data."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from r2keras._util.errors import invalid, invalid_part
from r2keras.export.runtime.litert_model import LiteRTModel
from r2keras.export.runtime.tflm_model import TFLMModel
from r2keras.export.tflite.activation_grid import Data, output_steps
from r2keras.export.tflite.interpreter import read
from r2keras.export.weights.lookup_read_back import is_for_microcontrollers

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT


@dataclasses.dataclass(frozen=True)
class Verification:
    """The comparison of a model and its file on the same data.

    Args:
        max_abs_difference: largest absolute difference between the outputs; of the worst output if there are several.
        output_range: largest minus smallest value of that output in Keras.
        agreement: share of samples with the same decision: the same largest class, or, for a single unit, the same side
            of the threshold; None if the output is not a classification.
        model_accuracy: share of correct decisions of the Keras model; None without integer labels.
        file_accuracy: share of correct decisions of the file; None without integer labels.
        num_samples: number of samples.
        output_step: step of the worst output's grid in a file of integer operators; None if that output is float.

    Example:

    >>> result = Verification(2e-6, 8.0, 1.0, 0.75, 0.75, 200)
    >>> result.relative_difference, result.passed()
    (2.5e-07, True)
    """

    max_abs_difference: float
    output_range: float
    agreement: float | None
    model_accuracy: float | None
    file_accuracy: float | None
    num_samples: int
    output_step: float | None = None

    @property
    def steps(self) -> float | None:
        """`max_abs_difference` in steps of the output's grid; None if the output is float."""
        return None if self.output_step is None else self.max_abs_difference / self.output_step

    @property
    def relative_difference(self) -> float:
        """`max_abs_difference / output_range`. For a constant output the range is its absolute value."""
        return self.max_abs_difference / self.output_range

    def passed(self, tolerance: float = 1e-5, *, min_agreement: float | None = None) -> bool:
        """Whether the difference stays within `tolerance` times the output range.

        Args:
            tolerance: share of the output range. Files of integer operators differ by whole steps of the output's grid.
            min_agreement: the least share of equal decisions, which then decides instead of `tolerance`; for files of
                integer operators.
        """
        if min_agreement is None:
            return bool(self.relative_difference <= tolerance)
        return self.agreement is not None and self.agreement >= min_agreement

    def to_dict(self) -> dict[str, Any]:
        """Returns all figures as plain JSON."""
        return {**dataclasses.asdict(self), "relative_difference": self.relative_difference, "steps": self.steps}

    def __str__(self) -> str:
        lines = [
            f"samples             {self.num_samples}",
            f"largest difference  {self.max_abs_difference:.3g} ({self.relative_difference:.2g} of the output range)",
        ]
        if self.steps is not None:
            lines[-1] += f", {self.steps:.1f} steps of the output's grid"
        if self.agreement is not None:
            lines.append(f"same decision       {self.agreement:.2%}")
        if self.model_accuracy is not None:
            lines.append(
                f"accuracy            {self.model_accuracy:.2%} in Keras, {self.file_accuracy:.2%} in the file"
            )
        return "\n".join(lines)


def verify(
    model: keras.Model,
    path: str | os.PathLike,
    data: Data | tuple[Data, np.ndarray],
    *,
    labels: np.ndarray | None = None,
    batch_size: int = 128,
) -> Verification:
    """Runs a Keras model and its `.tflite` file on the same data and compares the outputs.

    A file of `to_tflm` runs on LiteRT for Microcontrollers, any other on LiteRT. Integer outputs are compared by the
    values that they represent. States that a file keeps between calls (`recurrent="fused"`) are reset before every
    sample. A file of integer operators (`to_litert(..., activations="int8")`) rounds where Keras does not: judge it by
    the agreement, or by the difference in steps of the output's grid.

    Args:
        model: the model that was exported.
        path: the file.
        data: array; list of arrays or dict by name for several inputs; or a tuple `(inputs, labels)`.
        labels: integer class labels, one per sample; not together with a tuple in `data`.
        batch_size: samples per run; one on microcontrollers.

    Returns:
        The comparison.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: the package that runs the file is not installed.
        ValueError: the file is not a `.tflite`, the data does not fit its inputs, or the labels are given twice, not
            integers, or not one per sample.

    Example:

    >>> import tempfile
    >>> from r2keras.export import to_litert
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> path = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> _ = to_litert(model, path)
    >>> verify(model, path, np.eye(4, dtype=np.float32)).passed()
    True
    """
    inputs, labels = _split(data, labels)
    file = read(path)
    actual = _outputs(file, path, inputs, batch_size)
    expected = [np.asarray(y) for y in keras.tree.flatten(model.predict(inputs, batch_size=batch_size, verbose=0))]
    if len(expected) != len(actual):
        outputs = f"{path} with {len(actual)} outputs"
        fix = "Export the model again"
        raise ValueError(invalid_part("path", f"a file with the model's {len(expected)} outputs", outputs, fix))
    steps = output_steps(file)
    difference, output_range, step = max(
        ((*_distance(a, b), step) for a, b, step in zip(expected, actual, steps, strict=True)),
        key=lambda compared: _rank(compared[0] / compared[1]),
    )
    model_decisions = file_decisions = None
    if len(actual) == 1:
        model_decisions, file_decisions = (_decisions(y, like=expected[0]) for y in (expected[0], actual[0]))
    return Verification(
        max_abs_difference=difference,
        output_range=output_range,
        agreement=_share(model_decisions, file_decisions),
        model_accuracy=_accuracy(model_decisions, labels),
        file_accuracy=_accuracy(file_decisions, labels),
        num_samples=len(expected[0]),
        output_step=step,
    )


def _outputs(file: ModelT, path: str | os.PathLike, inputs: Data, batch_size: int) -> list[np.ndarray]:
    """Returns the outputs of a file, as floats, on the runtime that it was written for."""
    if is_for_microcontrollers(file):
        return keras.tree.flatten(TFLMModel(path).predict(inputs))
    runner = LiteRTModel(path)
    return runner.dequantized(runner.predict(inputs, batch_size))


def _split(data: Data | tuple[Data, np.ndarray], labels: np.ndarray | None) -> tuple[Data, np.ndarray | None]:
    """Returns inputs and labels; raises ValueError for labels that do not fit."""
    inputs: Data
    if isinstance(data, tuple):
        if len(data) != 2 or labels is not None:
            raise ValueError(invalid("data", "inputs, or one tuple (inputs, labels)", f"a tuple of {len(data)}"))
        inputs, labels = data
    else:
        inputs = data
    if isinstance(inputs, list) and len(inputs) == 1:
        inputs = inputs[0]
    if labels is None:
        return inputs, None
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(invalid("labels", "integer class labels", labels.dtype.name, "Take argmax of one-hot labels"))
    count = len(keras.tree.flatten(inputs)[0])
    if labels.size != count:
        raise ValueError(invalid("labels", f"one label for each of {count} samples", labels.shape))
    return inputs, labels.ravel()


def _distance(expected: np.ndarray, actual: np.ndarray) -> tuple[float, float]:
    """Returns the largest difference and the range of the expected values."""
    if expected.shape != actual.shape:
        needed = f"a file with an output of the model's shape {expected.shape}"
        raise ValueError(invalid_part("path", needed, f"an output of shape {actual.shape}", "Export the model again"))
    difference = float(np.abs(expected.astype(np.float64) - actual).max(initial=0.0))
    spread = float(expected.max() - expected.min())
    return difference, spread or float(np.abs(expected).max()) or 1.0


def _rank(relative: float) -> float:
    """Returns a number to order differences by; not-a-number is the worst."""
    return np.inf if np.isnan(relative) else relative


def _decisions(output: np.ndarray, like: np.ndarray) -> np.ndarray | None:
    """Returns the class of each sample, or None if the output is not a classification.

    A single unit decides at 1/2 if all values of `like`, Keras' output, are probabilities, else at 0.
    """
    if output.ndim != 2 or output.shape[1] == 0:
        return None
    if output.shape[1] > 1:
        return output.argmax(axis=1)
    is_probability = like.min() >= 0 and like.max() <= 1
    return (output[:, 0] > (0.5 if is_probability else 0.0)).astype(np.int64)


def _share(first: np.ndarray | None, second: np.ndarray | None) -> float | None:
    """Returns the share of equal decisions, or None without decisions."""
    return None if first is None else float(np.mean(first == second))


def _accuracy(decisions: np.ndarray | None, labels: np.ndarray | None) -> float | None:
    """Returns the share of correct decisions, or None without decisions or labels."""
    return None if decisions is None or labels is None else float(np.mean(decisions == labels))
