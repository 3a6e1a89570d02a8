"""What a runtime will make of a stored weight, computed in NumPy from the file alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from r2keras.export import packages
from r2keras.export.flatbuffer import WIDTHS, buffer_of, shape_of, values_of
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
        operator = next(op for op in graph.operators if int(op.inputs[0]) == at)
        kind = kind_of(file, operator)
        second = graph.tensors[int(operator.inputs[1])] if len(operator.inputs) > 1 else None
        at = int(operator.outputs[0])
        result = _STEPS[kind](file, graph.tensors[codes], result, second, graph.tensors[at])
    return result


def kind_of(file: Any, operator: Any) -> str:
    """Returns the name of an operator."""
    code = file.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    names = vars(packages.schema().BuiltinOperator)
    return next(name for name, value in names.items() if value == number)


def _dequantize(file: Any, codes: Any, result: np.ndarray, second: None, output: Any) -> np.ndarray:
    """Returns `scale * (code - zero_point)`."""
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
    "RESHAPE": _reshape,
    "TRANSPOSE": _transpose,
}
