"""Activation grids measured by running the float file on data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from r2keras._util.errors import invalid, invalid_part
from r2keras._util.native_log import quiet
from r2keras.export.tflite.activation_grid import ActivationGrid, Data
from r2keras.export.tflite.interpreter import TensorDetail, open_interpreter
from r2keras.export.tflite.writer import write

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

    from r2keras.export.tflite.schema import ModelT


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
    inputs: list[TensorDetail] = interpreter.get_input_details()
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


def _run(interpreter: Interpreter, inputs: list[TensorDetail], batch: list[np.ndarray]) -> None:
    """Runs one batch."""
    with quiet():
        for detail, array in zip(inputs, batch, strict=True):
            interpreter.resize_tensor_input(detail["index"], array.shape)
        interpreter.allocate_tensors()
    for detail, array in zip(inputs, batch, strict=True):
        interpreter.set_tensor(detail["index"], np.ascontiguousarray(array.astype(detail["dtype"], copy=False)))
    interpreter.invoke()


def _checked(data: Data, inputs: list[TensorDetail]) -> list[np.ndarray]:
    """Returns the data as arrays in the order of the inputs; raises ValueError if they do not fit."""
    names = [detail["name"] for detail in inputs]
    if isinstance(data, Mapping):
        if set(data) != set(names):
            raise ValueError(invalid("data", f"a dict with the keys {sorted(names)}", sorted(data)))
        data = [data[name] for name in names]
    arrays = [np.asarray(x) for x in (data if isinstance(data, (list, tuple)) else [data])]
    shapes = [tuple(int(size) for size in detail["shape_signature"])[1:] for detail in inputs]
    fits = len(arrays) == len(shapes) and all(
        array.ndim == len(shape) + 1
        and all(size in (-1, own) for size, own in zip(shape, array.shape[1:], strict=True))
        for array, shape in zip(arrays, shapes, strict=True)
    )
    if not fits or not len(arrays[0]) or len({len(array) for array in arrays}) > 1:
        expected = f"inputs without labels, of one length above 0 and the shapes {[('n', *s) for s in shapes]}"
        raise ValueError(invalid("data", expected, [array.shape for array in arrays]))
    if not all(np.isfinite(array).all() for array in arrays if np.issubdtype(array.dtype, np.floating)):
        raise ValueError(invalid_part("data", "finite values", "NaN or infinite values", "Clean the data first"))
    return arrays
