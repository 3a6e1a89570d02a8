"""Grids of 8-bit activations: reading and writing them, and measuring them on data where the record has none."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from r2keras._util.errors import invalid
from r2keras._util.native_log import quiet
from r2keras.export.builder import write
from r2keras.export.flatbuffer import INT8, open_interpreter, quantization
from r2keras.export.subgraph import Subgraph, inputs_of

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

    from r2keras.export.flatbuffer import ModelT, TensorT

# Inputs without labels: one array, one for each input in order, or one by input name.
Data = np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]

LOWEST, HIGHEST = -128, 127


@dataclasses.dataclass(frozen=True)
class ActivationGrid:
    """An 8-bit grid, `x = scale * (code - zero_point)`.

    Args:
        scale: positive.
        zero_point: the code of zero, in `[-128, 127]`.

    Example:

    >>> ActivationGrid(0.5, -128).low, ActivationGrid(0.5, -128).high
    (0.0, 127.5)
    """

    scale: float
    zero_point: int

    @property
    def low(self) -> float:
        """The lowest value."""
        return self.scale * (LOWEST - self.zero_point)

    @property
    def high(self) -> float:
        """The highest value."""
        return self.scale * (HIGHEST - self.zero_point)

    @classmethod
    def over(cls, low: float, high: float) -> ActivationGrid:
        """Returns the finest grid that spans a range and zero.

        >>> ActivationGrid.over(1.0, 127.5)
        ActivationGrid(scale=0.5, zero_point=-128)
        """
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / (HIGHEST - LOWEST) or 1.0
        return cls(scale, int(np.clip(np.rint(LOWEST - low / scale), LOWEST, HIGHEST)))


def grid_of(tensor: TensorT) -> ActivationGrid:
    """Returns the grid of an int8 tensor."""
    return ActivationGrid(float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0]))


def set_grid(tensor: TensorT, grid: ActivationGrid) -> None:
    """Sets the grid of a tensor."""
    tensor.quantization = quantization(grid.scale, grid.zero_point)


def output_steps(file: ModelT) -> list[float | None]:
    """Returns the step size of each output of a file, or of the integers that it is dequantized from; None if float."""
    graph = Subgraph(file)
    return [_output_step(graph, output) for output in graph.outputs]


def _output_step(graph: Subgraph, output: int) -> float | None:
    """Returns the step size of one output."""
    source, producer = output, graph.producer(output)
    if graph.tensor(output).type != INT8 and producer is not None and len(inputs_of(producer)) == 1:
        source = inputs_of(producer)[0]
    tensor = graph.tensor(source)
    is_integer = tensor.type == INT8 and tensor.quantization is not None and not graph.is_constant(source)
    return grid_of(tensor).scale if is_integer else None


def measured(file: ModelT, tensors: Iterable[int], data: Data, batch_size: int = 64) -> dict[int, ActivationGrid]:
    """Runs a file on data and returns grids that span the smallest to the largest value of each tensor.

    Args:
        file: the schema's `ModelT`.
        tensors: indices in the first subgraph.
        data: an array; a list of arrays in the order of the inputs; or a dict by input name.
        batch_size: samples per run, for files without a fixed batch size.

    Raises:
        ValueError: the data do not fit the inputs, are empty or not finite.
    """
    indices = list(tensors)
    interpreter = open_interpreter(write(file), "the converted model", keep_all=True)
    inputs = interpreter.get_input_details()
    arrays = _checked(data, inputs)
    ranges = np.tile([np.inf, -np.inf], (len(indices), 1))
    count, fixed = len(arrays[0]), int(inputs[0]["shape_signature"][0])
    for start in range(0, count, fixed if fixed > 0 else batch_size):
        # With a fixed batch size, the last batch is filled up with samples from the start.
        rows = np.arange(start, start + fixed) % count if fixed > 0 else slice(start, start + batch_size)
        _run(interpreter, inputs, [array[rows] for array in arrays])
        for row, tensor in enumerate(indices):
            values = interpreter.get_tensor(tensor)
            ranges[row] = min(ranges[row, 0], values.min()), max(ranges[row, 1], values.max())
    return {tensor: ActivationGrid.over(*map(float, ends)) for tensor, ends in zip(indices, ranges, strict=True)}


def _run(interpreter: Interpreter, inputs: list[dict[str, Any]], batch: list[np.ndarray]) -> None:
    """Runs one batch."""
    with quiet():
        for detail, array in zip(inputs, batch, strict=True):
            interpreter.resize_tensor_input(detail["index"], array.shape)
        interpreter.allocate_tensors()
    for detail, array in zip(inputs, batch, strict=True):
        interpreter.set_tensor(detail["index"], np.ascontiguousarray(array.astype(detail["dtype"], copy=False)))
    interpreter.invoke()


def _checked(data: Data, inputs: list[dict[str, Any]]) -> list[np.ndarray]:
    """Returns the data as arrays in the order of the inputs; raises ValueError if they do not fit."""
    names = [detail["name"] for detail in inputs]
    if isinstance(data, Mapping):
        if set(data) != set(names):
            raise ValueError(invalid("data", f"a dict with the keys {sorted(names)}", sorted(data)))
        data = [data[name] for name in names]
    arrays = [np.asarray(x) for x in (data if isinstance(data, (list, tuple)) else [data])]
    shapes = [tuple(int(size) for size in detail["shape_signature"])[1:] for detail in inputs]
    fits = len(arrays) == len(shapes) and all(
        array.ndim == len(shape) + 1 and all(w in (-1, n) for w, n in zip(shape, array.shape[1:], strict=True))
        for array, shape in zip(arrays, shapes, strict=True)
    )
    if not fits or not len(arrays[0]) or len({len(array) for array in arrays}) > 1:
        expected = f"inputs without labels, of one length above 0 and the shapes {[('n', *s) for s in shapes]}"
        raise ValueError(invalid("data", expected, [array.shape for array in arrays]))
    if not all(np.isfinite(array).all() for array in arrays if np.issubdtype(array.dtype, np.floating)):
        raise ValueError("The data have NaN or infinite values. Expected finite inputs. Clean them first.")
    return arrays
