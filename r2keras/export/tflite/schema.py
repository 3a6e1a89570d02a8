"""The schema objects of a `.tflite` file: reading them, reading constants from them, and making new ones."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from r2keras._util import optional_packages

if TYPE_CHECKING:
    # Other modules import the schema's types from here, under TYPE_CHECKING too: LiteRT is loaded on first use only.
    from ai_edge_litert.schema_py_generated import (
        ModelT,
        OperatorT,
        QuantizationParametersT,
        SubGraphT,
        TensorT,
    )

# Codes of the schema's `TensorType`.
FLOAT32, FLOAT16, INT32, UINT8, INT8, RESOURCE, INT4, INT2 = 0, 1, 2, 3, 9, 13, 17, 19
# Between the names of weights that share a constant.
SEPARATOR = ";"
# Types of integers by their bits, and bits by type.
TYPES = {2: INT2, 4: INT4, 8: INT8}
WIDTHS = {kind: bits for bits, kind in TYPES.items()}
# A field of an operator's options; bools are ints.
OptionValue = int | str | np.ndarray


def constants(file: ModelT) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields `(subgraph, tensor, values)` for every float32 constant in every subgraph, except scalars."""
    for g, graph in enumerate(file.subgraphs):
        for i, tensor in enumerate(graph.tensors):
            if tensor.type == FLOAT32 and shape_of(tensor) and buffer_of(file, tensor).size:
                yield g, i, values_of(file, tensor)


def buffer_of(file: ModelT, tensor: TensorT) -> np.ndarray:
    """Returns a constant's bytes; an empty vector for any other tensor."""
    data = file.buffers[tensor.buffer].data
    return np.asarray([] if data is None else data, np.uint8)


def values_of(file: ModelT, tensor: TensorT) -> np.ndarray:
    """Returns a float32 constant's values."""
    return buffer_of(file, tensor).view("<f4").reshape(shape_of(tensor))


def name_of(tensor: TensorT) -> str:
    """Returns a tensor's name; "" if it has none."""
    return (tensor.name or b"").decode()


def shape_of(tensor: TensorT) -> tuple[int, ...]:
    """Returns a tensor's shape."""
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)


def kind_of(file: ModelT, operator: OperatorT) -> str:
    """Returns the name of an operator in the schema's `BuiltinOperator`, `"DEQUANTIZE"`."""
    code = file.operatorCodes[operator.opcodeIndex]
    return _kinds()[max(code.builtinCode, code.deprecatedBuiltinCode)]


@functools.cache
def _kinds() -> dict[int, str]:
    """Returns the names of the built-in operators by code."""
    members = vars(optional_packages.schema().BuiltinOperator)
    return {code: name for name, code in members.items() if not name.startswith("_")}


def add_tensor(
    file: ModelT,
    graph: SubGraphT,
    shape: tuple[int, ...],
    kind: int,
    data: np.ndarray | None = None,
    name: str | None = None,
) -> int:
    """Adds a tensor, a constant if `data` is given, and returns its index in the subgraph."""
    schema = optional_packages.schema()
    tensor = schema.TensorT(shape=np.asarray(shape, np.int32), type=kind, name=name)
    if data is not None:
        set_data(file, tensor, data)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def set_data(file: ModelT, tensor: TensorT, data: np.ndarray) -> None:
    """Gives a tensor other bytes, in a buffer of its own."""
    file.buffers.append(optional_packages.schema().BufferT(data=np.ascontiguousarray(data).view(np.uint8).ravel()))
    tensor.buffer = len(file.buffers) - 1


def quantization(scale: np.ndarray | float, zero_point: np.ndarray | int = 0, axis: int = 0) -> QuantizationParametersT:
    """Returns the schema's quantization parameters, `x = scale * (code - zero_point)`.

    Args:
        scale: one for the whole tensor, or a vector of one for each index along `axis`.
        zero_point: as many, or one for all scales.
        axis: the axis along which the scales vary.
    """
    scale = np.ascontiguousarray(scale, np.float32).ravel()
    parameters = optional_packages.schema().QuantizationParametersT()
    parameters.scale = scale
    parameters.zeroPoint = np.ascontiguousarray(np.broadcast_to(zero_point, scale.shape), np.int64)
    parameters.quantizedDimension = axis
    return parameters


def operator(
    file: ModelT,
    kind: str,
    version: int,
    inputs: Sequence[int],
    outputs: Sequence[int],
    options_name: str | None = None,
    **options: OptionValue,
) -> OperatorT:
    """Returns a new operator.

    Args:
        file: gets the operator's code if it does not have it.
        kind: name in the schema's `BuiltinOperator`, `"DEQUANTIZE"`.
        version: the operator's version.
        inputs: tensor indices.
        outputs: tensor indices.
        options_name: the schema's name for the operator's options, `"ReducerOptions"`; None derives it from `kind`;
            `"NONE"` for an operator without options.
        options: fields of the operator's options.
    """
    schema = optional_packages.schema()
    options_name = options_name or f"{kind.title()}Options"
    values = None if options_name == "NONE" else getattr(schema, f"{options_name}T")()
    for field, value in options.items():
        setattr(values, field, value)
    return schema.OperatorT(
        opcodeIndex=_code_index(file, kind, version),
        inputs=np.asarray(inputs, np.int32),
        outputs=np.asarray(outputs, np.int32),
        builtinOptionsType=getattr(schema.BuiltinOptions, options_name),
        builtinOptions=values,
    )


def set_kind(file: ModelT, operator: OperatorT, kind: str, version: int) -> None:
    """Changes an operator's kind or version and keeps its inputs, outputs and options."""
    operator.opcodeIndex = _code_index(file, kind, version)


def _code_index(file: ModelT, kind: str, version: int) -> int:
    """Returns the index of an operator code of at least that version, added if the file has none."""
    schema = optional_packages.schema()
    builtin = getattr(schema.BuiltinOperator, kind)
    for i, code in enumerate(file.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin and code.version >= version:
            return i
    # Readers take the larger of the two fields; the old one is a byte and holds codes below 127 only.
    file.operatorCodes.append(
        schema.OperatorCodeT(builtinCode=builtin, deprecatedBuiltinCode=min(builtin, 127), version=version)
    )
    return len(file.operatorCodes) - 1
