"""Grids of 8-bit activations in a file: reading, writing, and finding them from data where the record has none."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from r2keras._errors import invalid
from r2keras.export import packages
from r2keras.export.builder import write
from r2keras.export.flatbuffer import INT8, buffer_of, open_interpreter
from r2keras.export.quiet import quiet

LOWEST, HIGHEST = -128, 127


@dataclasses.dataclass(frozen=True)
class Grid:
    """An 8-bit grid, `x = scale * (code - zero_point)`.

    Args:
        scale: positive.
        zero_point: the code of zero, in `[-128, 127]`.

    Example:

    >>> Grid(0.5, -128).low, Grid(0.5, -128).high
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
    def over(cls, low: float, high: float) -> Grid:
        """Returns the finest grid over a range and zero.

        >>> Grid.over(1.0, 127.5)
        Grid(scale=0.5, zero_point=-128)
        """
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / (HIGHEST - LOWEST) or 1.0
        return cls(scale, int(np.clip(np.rint(LOWEST - low / scale), LOWEST, HIGHEST)))


def grid_of(tensor: Any) -> Grid:
    """Returns the grid of an int8 tensor."""
    return Grid(float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0]))


def set_grid(tensor: Any, grid: Grid) -> None:
    """Gives a tensor a grid."""
    made = packages.schema().QuantizationParametersT()
    made.scale = np.asarray([grid.scale], np.float32)
    made.zeroPoint = np.asarray([grid.zero_point], np.int64)
    tensor.quantization = made


def output_steps(file: Any) -> list[float | None]:
    """Returns the step of each output of a file: of its integers, or of those it is dequantized from; None if float."""
    graph = file.subgraphs[0]
    makers = {int(i): op for op in graph.operators for i in op.outputs}
    steps = []
    for output in map(int, graph.outputs):
        maker = makers.get(output)
        source = int(maker.inputs[0]) if maker is not None and len(maker.inputs) == 1 else output
        tensor = graph.tensors[output if graph.tensors[output].type == INT8 else source]
        known = tensor.type == INT8 and tensor.quantization is not None and not buffer_of(file, tensor).size
        steps.append(grid_of(tensor).scale if known else None)
    return steps


def measured(file: Any, tensors: Iterable[int], data: Any, batch_size: int = 64) -> dict[int, Grid]:
    """Runs a file on data and returns the grids of tensors that span their smallest to their largest value.

    Args:
        file: the schema's `ModelT`.
        tensors: indices in the first subgraph.
        data: array; list of arrays in the order of the inputs; or dict by input name.
        batch_size: samples a run.

    Raises:
        ValueError: the data do not fit the inputs, are empty or not finite.
    """
    wanted = list(tensors)
    interpreter = open_interpreter(write(file), "the converted model", keep_all=True)
    inputs = interpreter.get_input_details()
    arrays = _checked(data, inputs)
    ranges = np.tile([np.inf, -np.inf], (len(wanted), 1))
    count, fixed = len(arrays[0]), int(inputs[0]["shape_signature"][0])
    for start in range(0, count, fixed if fixed > 0 else batch_size):
        # A file with a fixed batch has its last one filled up from the start.
        rows = np.arange(start, start + fixed) % count if fixed > 0 else slice(start, start + batch_size)
        _run(interpreter, inputs, [array[rows] for array in arrays])
        for row, tensor in enumerate(wanted):
            values = interpreter.get_tensor(tensor)
            ranges[row] = min(ranges[row, 0], values.min()), max(ranges[row, 1], values.max())
    return {tensor: Grid.over(*map(float, ends)) for tensor, ends in zip(wanted, ranges, strict=True)}


def _run(interpreter: Any, inputs: list[dict[str, Any]], batch: list[np.ndarray]) -> None:
    """Runs one batch."""
    with quiet():
        for detail, array in zip(inputs, batch, strict=True):
            interpreter.resize_tensor_input(detail["index"], array.shape)
        interpreter.allocate_tensors()
    for detail, array in zip(inputs, batch, strict=True):
        interpreter.set_tensor(detail["index"], np.ascontiguousarray(array.astype(detail["dtype"], copy=False)))
    interpreter.invoke()


def _checked(data: Any, inputs: list[dict[str, Any]]) -> list[np.ndarray]:
    """Returns the data as arrays in the order of the inputs."""
    names = [detail["name"] for detail in inputs]
    if isinstance(data, dict):
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
