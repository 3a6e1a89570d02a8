"""Outputs of every layer of a model, and values of every tensor of a file."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import keras
import numpy as np

from r2keras._models import layer_by_layer
from r2keras._util.native_log import quiet
from r2keras.export.tflite.interpreter import open_interpreter, read
from r2keras.export.tflite.schema import name_of
from r2keras.export.tflite.subgraph import Subgraph, outputs_of

if TYPE_CHECKING:
    from pathlib import Path

    from r2keras.export.tflite.subgraph import OperatorT


@dataclasses.dataclass(frozen=True, eq=False)
class Values:
    """The values of one tensor on some samples.

    Args:
        name: path of the layer, or name of the tensor and its operator.
        values: floats, samples first.
        saturated: share of the codes at the ends of an integer grid; None for floats.
    """

    name: str
    values: np.ndarray
    saturated: float | None = None


def of_model(model: keras.Model, batch: list[np.ndarray]) -> list[Values]:
    """Returns the outputs of every call of a layer or operation, in the order in which they run.

    Args:
        model: a built Functional or Sequential model.
        batch: one array per input.
    """
    found: list[Values] = []
    count: dict[str, int] = {}

    def call(path: str, layer: keras.Layer, *args, **kwargs):
        outputs = layer(*args, **kwargs)
        count[path] = count.get(path, 0) + 1
        for number, output in enumerate(keras.tree.flatten(outputs)):
            suffix = f" (call {count[path]})" if count[path] > 1 else ""
            suffix += f" (output {number})" if number else ""
            values = keras.ops.convert_to_numpy(output)
            if np.issubdtype(values.dtype, np.floating) and values.shape[:1] == batch[0].shape[:1]:
                found.append(Values(path + suffix, values.astype(np.float32)))
        return outputs

    layer_by_layer.run(model, batch, call)
    return found


def of_file(path: str | os.PathLike | Path, arrays: list[np.ndarray], wanted: set[int]) -> list[Values]:
    """Returns the values of the results of every operator in a file's first subgraph, on LiteRT's built-in kernels.

    XNNPACK keeps no results of its own operators. The outputs that the file ends with are included.

    Args:
        path: a file that LiteRT runs.
        arrays: inputs in the file's types and order, samples first.
        wanted: numbers of values per sample; tensors of other sizes are left out.
    """
    file = read(path)
    with open(path, "rb") as stream:
        content = stream.read()
    interpreter = open_interpreter(content, str(path), keep_all=True)
    inputs = interpreter.get_input_details()
    step = _batch(inputs[0], len(arrays[0]))
    with quiet():
        for detail, array in zip(inputs, arrays, strict=True):
            if -1 in detail["shape_signature"]:
                interpreter.resize_tensor_input(detail["index"], (step, *array.shape[1:]))
        interpreter.allocate_tensors()
    graph = Subgraph(file)
    results = {index: op for op in graph.operators for index in outputs_of(op)}
    parts: dict[int, list[np.ndarray]] = {}
    for start in range(0, len(arrays[0]), step):
        interpreter.reset_all_variables()
        for detail, array in zip(inputs, arrays, strict=True):
            interpreter.set_tensor(detail["index"], _padded(array[start : start + step], step))
        with quiet():
            interpreter.invoke()
        for index in results:
            values = _values(interpreter, index, step, wanted)
            if values is not None:
                parts.setdefault(index, []).append(values[: len(arrays[0]) - start])
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    return [
        _dequantized(graph, results[index], index, np.concatenate(values), details[index])
        for index, values in parts.items()
    ]


def _batch(detail: dict, samples: int) -> int:
    """Returns the samples of one run: the file's if they are fixed."""
    return samples if detail["shape_signature"][0] == -1 else int(detail["shape"][0])


def _padded(array: np.ndarray, step: int) -> np.ndarray:
    """Returns a batch, filled up with copies of its last sample."""
    return np.concatenate([array, np.repeat(array[-1:], step - len(array), axis=0)])


def _values(interpreter, index: int, step: int, wanted: set[int]) -> np.ndarray | None:
    """Returns a copy of a tensor's values; None if it holds no numbers per sample, or as many as no layer returns."""
    try:
        values = interpreter.get_tensor(index)
    except ValueError:
        # Tensors of states and other resources have no values that can be read.
        return None
    has_samples = values.ndim > 0 and values.size % step == 0 and values.dtype.kind in "fi"
    if not has_samples or values.size // step not in wanted:
        return None
    return values.reshape(step, -1).copy()


def _dequantized(graph: Subgraph, op: OperatorT, index: int, codes: np.ndarray, detail: dict) -> Values:
    """Returns the values of a tensor: `scale * (code - zero_point)` for integers."""
    name = f"{graph.kind(op)} {name_of(graph.tensor(index))}".strip()
    scale, zero_point = detail["quantization"]
    if codes.dtype.kind == "f" or not scale:
        return Values(name, codes.astype(np.float32))
    limits = np.iinfo(codes.dtype)
    # After a ReLU the lowest code is zero: nothing was clipped.
    low = (codes == limits.min) & (zero_point != limits.min)
    saturated = float(np.mean(low | (codes == limits.max)))
    return Values(name, np.float32(scale) * (codes.astype(np.float32) - zero_point), saturated)
