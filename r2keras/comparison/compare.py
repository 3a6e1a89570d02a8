"""Comparison of a model with its file, or with another model, layer by layer."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from r2keras._util.display import Tabular
from r2keras._util.errors import check_int, check_number, invalid_part
from r2keras._util.shown import cut
from r2keras._util.tables import add_row, new_table, shape_text
from r2keras._util.text import DASH
from r2keras.comparison.outputs import Values, of_file, of_model
from r2keras.comparison.plot import write_comparison
from r2keras.export import LiteRTModel
from r2keras.export.tflite.activation_grid import Data

if TYPE_CHECKING:
    from rich.table import Table

# What stands for an infinite SQNR.
INFINITE = 999.0
# A tensor nearer than this is a layer's own, even if it is nearer to another layer: a rounded copy, say.
SURELY = 20.0
LONGEST_NAME = 40


@dataclasses.dataclass(frozen=True)
class LayerComparison:
    """One layer of a model beside its counterpart.

    Args:
        layer: path of the layer or operation.
        shape: shape of its output, without the samples.
        counterpart: the operator and name of the file's tensor, or the path of the other model's layer; "" if there is
            none: the converter merged the layer with a later one.
        sqnr_db: signal to quantization noise, `10 log10(sum(y^2) / sum((y - y')^2))`, in decibels; 999 if equal, None
            without a counterpart. 20 dB is an error of a tenth, 40 dB of a hundredth of the outputs' size.
        max_abs_difference: largest absolute difference; None without a counterpart.
        output_range: largest minus smallest output of the layer in the model.
        saturated: share of values at the ends of an integer grid; None where the counterpart is float.

    Example:

    >>> LayerComparison("conv", (8, 8, 4), "CONV_2D", 41.2, 0.02, 3.1, 0.001).departs(20.0)
    False
    """

    layer: str
    shape: tuple[int, ...]
    counterpart: str
    sqnr_db: float | None
    max_abs_difference: float | None
    output_range: float
    saturated: float | None

    def departs(self, min_sqnr_db: float) -> bool:
        """Whether the counterpart is further off than `min_sqnr_db` allows."""
        return self.sqnr_db is not None and self.sqnr_db < min_sqnr_db


@dataclasses.dataclass(frozen=True)
class Comparison(Tabular):
    """A model and its counterpart, layer by layer; `print` shows a table.

    Args:
        rows: one per layer, in the order in which they run.
        min_sqnr_db: below this, a layer departs.
        num_samples: number of samples.

    Example:

    >>> rows = (LayerComparison("conv", (4,), "CONV_2D", 41.0, 0.1, 3.0, None),
    ...         LayerComparison("head", (4,), "FULLY_CONNECTED", 9.0, 2.0, 3.0, None))
    >>> Comparison(rows, 20.0, 16).first_departure.layer
    'head'
    """

    rows: tuple[LayerComparison, ...]
    min_sqnr_db: float
    num_samples: int

    @property
    def first_departure(self) -> LayerComparison | None:
        """The first layer that departs; None if none does."""
        return next((row for row in self.rows if row.departs(self.min_sqnr_db)), None)

    def worst(self, number: int = 10) -> list[LayerComparison]:
        """Returns the layers with the lowest SQNR, the worst first."""
        found = [row for row in self.rows if row.sqnr_db is not None]
        return sorted(found, key=lambda row: row.sqnr_db or 0.0)[: check_int("number", number, 1, None)]

    def to_dict(self) -> dict[str, Any]:
        """Returns all figures as plain JSON."""
        return dataclasses.asdict(self)

    def plot(self, path: str | os.PathLike) -> None:
        """Draws the SQNR of each layer into an `.svg` or `.png` file.

        Raises:
            ImportError: matplotlib is not installed.
            OSError: the file cannot be written.
        """
        write_comparison(self.rows, self.min_sqnr_db, path)

    def __rich__(self) -> Table:
        first = self.first_departure
        found = f"{first.layer} is the first below {self.min_sqnr_db:g} dB" if first else "no layer departs"
        columns = [("layer", False), ("shape", False), ("SQNR dB", True), ("max difference", True), ("range", True)]
        columns += [("saturated", True), ("counterpart", False)]
        table = new_table(f"Layer by layer, {self.num_samples} samples: {found}", columns, foldable="counterpart")
        for row in self.rows:
            add_row(table, _cells(row))
        return table


def compare(
    model: keras.Model,
    other: str | os.PathLike | keras.Model,
    data: Data,
    *,
    num_samples: int = 32,
    min_sqnr_db: float = 20.0,
) -> Comparison:
    """Compares every layer's output in a model with its counterpart in a file, or in another model.

    A file of `to_litert` has no names of layers, and merges some. Each layer's counterpart is therefore the tensor of
    equal size whose values are nearest, unless these are nearer to another layer. The file runs on LiteRT's built-in
    kernels, as XNNPACK keeps no results of its operators; these round integers a little differently. Layers of another
    model are found by their paths.

    Args:
        model: a built Functional or Sequential Keras model: the compressed one, to find where a file goes wrong, or the
            float one, to find where compression costs most.
        other: the file, or the other model.
        data: inputs: array; list of arrays; or dict by input name.
        num_samples: how many of them are used, the first ones.
        min_sqnr_db: a layer below departs.

    Returns:
        One row per layer.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: ai-edge-litert is not installed.
        TypeError: `model` or `other` is of another type.
        ValueError: the file is not a `.tflite`, is for microcontrollers, or takes other inputs than the model.

    Example:

    >>> import tempfile
    >>> from r2keras.export import to_litert
    >>> first = keras.layers.Dense(3, activation="relu", name="a")
    >>> model = keras.Sequential([keras.Input((4,)), first, keras.layers.Dense(2, name="b")])
    >>> path = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> _ = to_litert(model, path)
    >>> rows = compare(model, path, np.eye(4, dtype=np.float32)).rows
    >>> [(row.layer, row.counterpart.split()[0], row.sqnr_db > 100) for row in rows]
    [('a', 'FULLY_CONNECTED', True), ('b', 'FULLY_CONNECTED', True)]

    Source: signal to quantization noise ratio as in Lin et al., arXiv 1511.06393, section 3.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(invalid_part("model", "a Keras model", str(type(model))))
    num_samples = check_int("num_samples", num_samples, 1, None)
    limit = check_number("min_sqnr_db", min_sqnr_db, -1000.0, 1000.0)
    arrays = [array[:num_samples] for array in _arrays(model, data)]
    expected = of_model(model, arrays)
    if isinstance(other, keras.Model):
        found = of_model(other, arrays)
        counterparts = [_best(row, [c for c in found if _is_part(c.name, row.name)]) for row in expected]
    else:
        runner = LiteRTModel(other)
        sizes = {row.values[0].size for row in expected}
        candidates = of_file(other, runner.arrays(_data_like(runner, arrays), "data"), sizes)
        counterparts = _matched(expected, candidates)
    rows = tuple(_row(layer, counterpart) for layer, counterpart in zip(expected, counterparts, strict=True))
    return Comparison(rows, 20.0 if limit is None else limit, len(arrays[0]))


def _is_part(name: str, layer: str) -> bool:
    """Whether a layer of the compressed model is a layer itself, or what was split off it: rounding, an activation."""
    return name == layer or name.startswith(f"{layer}_")


def _data_like(runner: LiteRTModel, arrays: list[np.ndarray]) -> Data:
    """Returns arrays in the form that a file's `arrays` takes."""
    return arrays if len(runner.input_names) > 1 or len(arrays) > 1 else arrays[0]


def _arrays(model: keras.Model, data: Data) -> list[np.ndarray]:
    """Returns one array per input of a model."""
    from r2keras.export.runtime.inputs import matched

    names = [tensor.name for tensor in model.inputs]
    shapes = [tuple(-1 if size is None else size for size in tensor.shape) for tensor in model.inputs]
    return matched(data, names, [(-1, *shape[1:]) for shape in shapes], "data")


def _best(layer: Values, candidates: Sequence[Values]) -> Values | None:
    """Returns the candidate of equal size with the highest SQNR."""
    fitting = [row for row in candidates if row.values[0].size == layer.values[0].size]
    return max(fitting, key=lambda row: _sqnr(layer.values, row.values), default=None)


def _matched(layers: Sequence[Values], candidates: Sequence[Values]) -> list[Values | None]:
    """Returns the counterpart of each layer in a file.

    A layer that the converter merged with a later one has none: the tensor nearest to it is nearer to the later one.
    """
    nearest = [_best(layer, candidates) for layer in layers]
    sqnr = [-INFINITE if c is None else _sqnr(layer.values, c.values) for layer, c in zip(layers, nearest, strict=True)]
    highest: dict[int, float] = {}
    for counterpart, value in zip(nearest, sqnr, strict=True):
        highest[id(counterpart)] = max(value, highest.get(id(counterpart), -INFINITE))
    return [
        counterpart if value >= SURELY or value == highest[id(counterpart)] else None
        for counterpart, value in zip(nearest, sqnr, strict=True)
    ]


def _sqnr(expected: np.ndarray, actual: np.ndarray) -> float:
    """Returns the ratio of signal to noise in decibels; -999 for values that are not finite."""
    signal = expected.reshape(len(expected), -1).astype(np.float64)
    noise = signal - actual.reshape(len(actual), -1)
    power, error = float(np.sum(signal**2)), float(np.sum(noise**2))
    if not np.isfinite(power) or not np.isfinite(error):
        return -INFINITE
    if error == 0.0:
        return INFINITE
    return 10.0 * float(np.log10(max(power, 1e-300) / error))


def _row(layer: Values, counterpart: Values | None) -> LayerComparison:
    """Returns the comparison of one layer."""
    spread = float(np.ptp(layer.values)) if layer.values.size else 0.0
    shape = layer.values.shape[1:]
    if counterpart is None:
        return LayerComparison(layer.name, shape, "", None, None, spread, None)
    actual = counterpart.values.reshape(layer.values.shape)
    difference = float(np.abs(layer.values.astype(np.float64) - actual).max(initial=0.0))
    sqnr = _sqnr(layer.values, actual)
    return LayerComparison(layer.name, shape, counterpart.name, sqnr, difference, spread, counterpart.saturated)


def _cells(row: LayerComparison) -> list[str]:
    """Returns the cells of one row."""
    cells = [row.layer, shape_text(row.shape)]
    if row.sqnr_db is None or row.max_abs_difference is None:
        return [*cells, DASH, DASH, f"{row.output_range:.3g}", DASH, "merged with another layer"]
    saturated = DASH if row.saturated is None else f"{row.saturated:.2%}"
    sqnr = "equal" if row.sqnr_db >= INFINITE else f"{row.sqnr_db:.1f}"
    name = cut(row.counterpart, LONGEST_NAME)
    return [*cells, sqnr, f"{row.max_abs_difference:.3g}", f"{row.output_range:.3g}", saturated, name]
