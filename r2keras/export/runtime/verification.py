"""Comparison of a Keras model and its file on the same data."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from r2keras._models.values import packed
from r2keras._util.display import Tabular
from r2keras._util.errors import invalid, invalid_part
from r2keras._util.tables import pairs_table
from r2keras.export.runtime.litert_model import LiteRTModel
from r2keras.export.runtime.tflm_model import TFLMModel
from r2keras.export.tflite.activation_grid import Data, output_steps
from r2keras.export.tflite.interpreter import read
from r2keras.export.weights.decode_operator import is_for_microcontrollers

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT
    from rich.table import Table

# In shares of an output's largest value: the range below which it is constant up to rounding, and the smallest range.
CONSTANT, SMALLEST_RANGE = 2.0**-21, 2.0**-5
# The decision on a sample whose output has a NaN.
UNDECIDED = -(2**62)


@dataclasses.dataclass(frozen=True)
class Verification(Tabular):
    """The comparison of a model and its file on the same data; `print` shows it as a table.

    Args:
        max_abs_difference: largest absolute difference between the outputs; of the worst output if there are several.
        output_range: largest minus smallest finite value of that output in Keras, at least 1/32 of the largest absolute
            value, because float32 rounds in proportion to the values; for a constant output, its absolute value.
        agreement: share of samples with the same decision: the same largest class, or, for a single unit, the same side
            of the threshold; of the worst output if there are several. A sample with a NaN has no decision, and never
            the same one. None if no output is a classification.
        model_accuracy: share of correct decisions of the Keras model; None without integer labels.
        file_accuracy: share of correct decisions of the file; None without integer labels.
        num_samples: number of samples.
        output_step: step of the worst output's grid in a file of integer operators; None if that output is float.
        num_nan: number of samples with a NaN in an output of the model or of the file; NaN equals not even NaN.

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
    num_nan: int = 0

    @property
    def steps(self) -> float | None:
        """`max_abs_difference` in steps of the output's grid; None if the output is float."""
        return None if self.output_step is None else self.max_abs_difference / self.output_step

    @property
    def relative_difference(self) -> float:
        """`max_abs_difference / output_range`; NaN if an output has a NaN."""
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

    def __rich__(self) -> Table:
        return pairs_table("File and Keras model", self._figures())

    def _figures(self) -> list[tuple[str, str]]:
        """Returns the names and values of the figures that are known."""
        difference = f"{self.max_abs_difference:.3g} ({self.relative_difference:.2g} of the output range)"
        if self.steps is not None:
            difference += f", {self.steps:.1f} steps of the output's grid"
        figures = [("samples", str(self.num_samples)), ("largest difference", difference)]
        if self.num_nan:
            figures.append(("not a number", f"{self.num_nan} of {self.num_samples} samples"))
        if self.agreement is not None:
            figures.append(("same decision", f"{self.agreement:.2%}"))
        if self.model_accuracy is not None:
            figures.append(("accuracy", f"{self.model_accuracy:.2%} in Keras, {self.file_accuracy:.2%} in the file"))
        return figures


def verify(
    model: keras.Model,
    path: str | os.PathLike,
    data: Data | tuple[Data, np.ndarray],
    *,
    labels: np.ndarray | None = None,
    batch_size: int = 128,
    isolated: bool = False,
) -> Verification:
    """Runs a Keras model and its `.tflite` file on the same data and compares the outputs.

    A file of `to_tflm`, or with Huffman codes, runs on LiteRT for Microcontrollers, any other on LiteRT. Integer
    outputs are compared by the values that they represent. States that a file keeps between calls (`recurrent="fused"`)
    are reset before every sample. A file of integer operators (`to_litert(..., activations="int8")`) rounds where Keras
    does not: judge it by the agreement, or by the difference in steps of the output's grid.

    Args:
        model: the model that was exported.
        path: the file.
        data: array; list of arrays or dict by name for several inputs; or a tuple `(inputs, labels)`.
        labels: integer class labels, one per sample; not together with a tuple in `data`.
        batch_size: samples per run; one on microcontrollers.
        isolated: whether to run the file in a process of its own, for a file of unknown origin: what crashes that
            process is an error here.

    Returns:
        The comparison.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: the package that runs the file is not installed.
        TypeError: `model` is not a model, or `path` is not a path.
        ValueError: the file is not a `.tflite`, or ended the process of its own; the data does not fit its inputs; the
            labels are given twice, not integers, or not one per sample.

    Example:

    >>> import tempfile
    >>> from r2keras.export import to_litert
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> path = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> _ = to_litert(model, path)
    >>> verify(model, path, np.eye(4, dtype=np.float32)).passed()
    True
    """
    if not callable(getattr(model, "predict", None)):
        raise TypeError(invalid_part("model", "the Keras model that was exported", str(type(model))))
    inputs, labels = _split(data, labels)
    file = read(path)
    actual = _outputs(file, path, inputs, batch_size, isolated)
    given = _structured(model, inputs)
    expected = [np.asarray(y) for y in keras.tree.flatten(model.predict(given, batch_size=batch_size, verbose=0))]
    _check_outputs(path, expected, actual)
    difference, output_range, step = max(
        ((*_distance(a, b), step) for a, b, step in zip(expected, actual, output_steps(file), strict=True)),
        key=lambda compared: _rank(compared[0] / compared[1]),
    )
    model_decisions, file_decisions = (
        [_decisions(y, like) for y, like in zip(z, expected, strict=True)] for z in (expected, actual)
    )
    pairs = zip(model_decisions, file_decisions, strict=True)
    shares = [_share(a, b) for a, b in pairs if a is not None and b is not None]
    return Verification(
        max_abs_difference=difference,
        output_range=output_range,
        agreement=min(shares, default=None),
        model_accuracy=_accuracy(model_decisions, labels),
        file_accuracy=_accuracy(file_decisions, labels),
        num_samples=len(expected[0]),
        output_step=step,
        num_nan=_num_nan([*expected, *actual]),
    )


def _outputs(file: ModelT, path: str | os.PathLike, inputs: Data, batch_size: int, isolated: bool) -> list[np.ndarray]:
    """Returns the outputs of a file, as floats, on the runtime that it was written for."""
    if is_for_microcontrollers(file):
        on_device = TFLMModel(path, isolated=isolated)
        return on_device.dequantized(on_device.predict_named("data", inputs))
    runner = LiteRTModel(path, isolated=isolated)
    return runner.dequantized(runner.predict_named("data", inputs, batch_size))


def _check_outputs(path: str | os.PathLike, expected: list[np.ndarray], actual: list[np.ndarray]) -> None:
    """Raises ValueError unless a file returns as many outputs as its model, in the same shapes."""
    fix = "Export the model again"
    if len(expected) != len(actual):
        received = f"{path} with {len(actual)} outputs"
        raise ValueError(invalid_part("path", f"a file with the model's {len(expected)} outputs", received, fix))
    for model_output, file_output in zip(expected, actual, strict=True):
        if model_output.shape != file_output.shape:
            needed = f"a file with an output of the model's shape {model_output.shape}"
            raise ValueError(invalid_part("path", needed, f"an output of shape {file_output.shape}", fix))


def _structured(model: keras.Model, inputs: Data) -> Any:
    """Returns inputs by the keys of a model that takes a dict, which need not be the inputs' names."""
    if isinstance(model, keras.Sequential) or not isinstance(getattr(model, "input", None), Mapping):
        return inputs
    names = [tensor.name for tensor in model.inputs]
    if isinstance(inputs, Mapping):
        # A dict by the model's own keys stays as it is.
        return packed(model, [inputs[name] for name in names]) if set(inputs) == set(names) else inputs
    arrays = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    return packed(model, arrays) if len(arrays) == len(names) else inputs


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
        fix = "Cast class numbers to int, or take argmax of one-hot labels"
        raise ValueError(invalid_part("labels", "integer class labels", f"values of type {labels.dtype}", fix))
    arrays = keras.tree.flatten(inputs)
    count = (np.shape(arrays[0]) if arrays else ())[:1] or (0,)
    if labels.size != count[0]:
        raise ValueError(invalid("labels", f"one label for each of {count[0]} samples", labels.shape))
    return inputs, labels.ravel()


def _distance(expected: np.ndarray, actual: np.ndarray) -> tuple[float, float]:
    """Returns the largest difference and the range of the expected values; equal infinities do not differ."""
    wide, other = expected.astype(np.float64), actual.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.where(wide == other, 0.0, np.abs(wide - other))
    finite = wide[np.isfinite(wide)]
    largest = float(np.abs(finite).max(initial=0.0))
    spread = float(finite.max() - finite.min()) if finite.size else 0.0
    # Within the rounding of float32 an output is constant; a softmax over one class is.
    is_constant = spread <= CONSTANT * largest
    output_range = largest if is_constant else max(spread, SMALLEST_RANGE * largest)
    return float(difference.max(initial=0.0)), output_range or 1.0


def _rank(relative: float) -> float:
    """Returns a number to order differences by; not-a-number is the worst."""
    return np.inf if np.isnan(relative) else relative


def _decisions(output: np.ndarray, like: np.ndarray) -> np.ndarray | None:
    """Returns the class of each sample, or None if the output is not a classification.

    A single unit decides at 1/2 if all values of `like`, Keras' output, are probabilities, else at 0.
    """
    if output.ndim != 2 or output.shape[1] == 0:
        return None
    values, like = output.astype(np.float64), like[~np.isnan(like)]
    if output.shape[1] > 1:
        decisions = values.argmax(axis=1)
    else:
        is_probability = like.min(initial=0) >= 0 and like.max(initial=0) <= 1 + CONSTANT
        decisions = (values[:, 0] > (0.5 if is_probability else 0.0)).astype(np.int64)
    return np.where(np.isnan(values).any(axis=1), UNDECIDED, decisions)


def _share(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the share of equal decisions."""
    return float(np.mean((first == second) & (first != UNDECIDED)))


def _accuracy(decisions: list[np.ndarray | None], labels: np.ndarray | None) -> float | None:
    """Returns the share of correct decisions of the only output, or None without decisions or labels."""
    found = decisions[0] if len(decisions) == 1 else None
    return None if found is None or labels is None else float(np.mean(found == labels))


def _num_nan(outputs: list[np.ndarray]) -> int:
    """Returns the number of samples with a NaN in any output."""
    has_nan = [np.isnan(y.astype(np.float64)).reshape(len(y), -1).any(axis=1) for y in outputs]
    return int(np.sum(np.any(has_nan, axis=0))) if len({len(y) for y in outputs}) == 1 else 0
