"""What a runtime will make of a stored weight, computed in NumPy from the file alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from r2keras.export import packages
from r2keras.export.flatbuffer import FLOAT16, WIDTHS, buffer_of, shape_of, values_of
from r2keras.export.pack import unpack


def stored_codes(file: Any, tensor: Any) -> np.ndarray:
    """Returns the integers of a tensor of codes, int8, in its shape."""
    shape = shape_of(tensor)
    return unpack(buffer_of(file, tensor), WIDTHS[tensor.type], int(np.prod(shape))).reshape(shape)


def computed_values(file: Any, subgraph: int, codes: int, values: int) -> np.ndarray:
    """Returns the float32 tensor that the operators between two tensors compute.

    Args:
        file: the schema's `ModelT`.
        subgraph: index of the subgraph.
        codes: index of the tensor of codes.
        values: index of the float tensor at the end of the chain.
    """
    graph = file.subgraphs[subgraph]
    result, at = np.empty(0), codes
    while at != values:
        operator = next(op for op in graph.operators if op.inputs is not None and at in op.inputs)
        kind = kind_of(file, operator)
        others = [int(i) for i in operator.inputs if i != at]
        second = graph.tensors[others[0]] if others else None
        at = int(operator.outputs[0])
        if kind == "GATHER":
            result = _table(file, subgraph, others[0])[result]
        else:
            result = _STEPS[kind](file, graph.tensors[codes], result, second, graph.tensors[at])
    return result


def _table(file: Any, subgraph: int, table: int) -> np.ndarray:
    """Returns the float32 values of a palette's table, a constant or what operators make of one."""
    graph, start = file.subgraphs[subgraph], table
    if buffer_of(file, graph.tensors[table]).size:
        return values_of(file, graph.tensors[table])
    while not buffer_of(file, graph.tensors[start]).size:
        start = next(int(op.inputs[0]) for op in graph.operators if start in op.outputs)
    return computed_values(file, subgraph, start, table)


def kind_of(file: Any, operator: Any) -> str:
    """Returns the name of an operator."""
    code = file.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    names = vars(packages.schema().BuiltinOperator)
    return next(name for name, value in names.items() if value == number)


def _dequantize(file: Any, codes: Any, result: np.ndarray, second: None, output: Any) -> np.ndarray:
    """Returns `scale * (code - zero_point)`; half-precision floats as they are."""
    if codes.type == FLOAT16:
        return buffer_of(file, codes).view("<f2").reshape(shape_of(codes)).astype(np.float32)
    quantization = codes.quantization
    along = [1] * len(shape_of(codes))
    along[quantization.quantizedDimension] = len(quantization.scale)
    zero_point = np.asarray(quantization.zeroPoint, np.float32).reshape(along)
    scale = np.asarray(quantization.scale, np.float32).reshape(along)
    return scale * (stored_codes(file, codes).astype(np.float32) - zero_point)


def _add(file: Any, codes: Any, result: np.ndarray, second: Any, output: Any) -> np.ndarray:
    """Returns the sum with a constant."""
    return result + values_of(file, second)


def _multiply(file: Any, codes: Any, result: np.ndarray, second: Any, output: Any) -> np.ndarray:
    """Returns the product with a constant."""
    return result * values_of(file, second)


def _cast(file: Any, codes: Any, result: np.ndarray, second: None, output: Any) -> np.ndarray:
    """Returns floats as integers."""
    return result.astype(np.int32)


def _slice(file: Any, codes: Any, result: np.ndarray, second: Any, output: Any) -> np.ndarray:
    """Returns the first values along each axis."""
    return result[tuple(map(slice, shape_of(output)))]


def _reshape(file: Any, codes: Any, result: np.ndarray, second: None, output: Any) -> np.ndarray:
    """Returns the values in the output's shape."""
    return result.reshape(shape_of(output))


def _transpose(file: Any, codes: Any, result: np.ndarray, second: Any, output: Any) -> np.ndarray:
    """Returns the values with their axes in the order of a constant."""
    return result.transpose(buffer_of(file, second).view("<i4"))


_STEPS: dict[str, Callable[..., np.ndarray]] = {
    "DEQUANTIZE": _dequantize,
    "ADD": _add,
    "MUL": _multiply,
    "CAST": _cast,
    "SLICE": _slice,
    "RESHAPE": _reshape,
    "TRANSPOSE": _transpose,
}
