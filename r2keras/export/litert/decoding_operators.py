"""The operators that decode a stored weight, as chains in which each operator takes the previous one's result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from r2keras.export.tflite.bit_packing import pack
from r2keras.export.tflite.schema import FLOAT16, FLOAT32, INT8, INT32, TYPES, OptionValue, operator, quantization
from r2keras.export.tflite.subgraph import Subgraph
from r2keras.export.weights.palette import StoredPalette
from r2keras.export.weights.uniform import Stored

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT

# The versions that LiteRT's converter writes (op_version.cc): DEQUANTIZE takes float16 from version 3 on, int8 with
# scales per channel from 5 on, and narrower integers from 6 on.
DEQUANTIZE_VERSIONS = {8: 5, 4: 6, 2: 6}
TABLE_VERSIONS = {FLOAT16: 3, INT8: 5}


class DecodingStep(NamedTuple):
    """One operator of a chain.

    Args:
        kind: the operator's name in the schema.
        shape: shape of its result.
        others: indices of its inputs other than the previous step's result.
        version: the operator's version.
        options: fields of the operator's options.
        result: type of its result.
    """

    kind: str
    shape: tuple[int, ...]
    others: tuple[int, ...] = ()
    version: int = 1
    options: Mapping[str, OptionValue] = MappingProxyType({})
    result: int = FLOAT32

    def inputs(self, source: int) -> list[int]:
        """Returns the operator's inputs; GATHER takes the table first."""
        return [*self.others, source] if self.kind == "GATHER" else [source, *self.others]

    def as_operator(self, file: ModelT, inputs: list[int], outputs: list[int]) -> OperatorT:
        """Returns the operator on given tensors."""
        return operator(file, self.kind, self.version, inputs, outputs, None, **self.options)


TO_INT32 = DecodingStep("CAST", (), options={"inDataType": FLOAT32, "outDataType": INT32}, result=INT32)


def chain(graph: Subgraph, steps: Sequence[DecodingStep], source: int, target: int) -> list[OperatorT]:
    """Returns the operators of the steps, the first one on `source`, the last one with the result `target`."""
    operators = []
    for step in steps:
        result = target if step is steps[-1] else graph.add_tensor(step.shape, step.result)
        operators.append(step.as_operator(graph.file, step.inputs(source), [result]))
        source = result
    return operators


def uniform_steps(
    graph: Subgraph, stored: Stored, shape: tuple[int, ...], name: str
) -> tuple[list[int], list[DecodingStep]]:
    """Adds codes and constants, and returns the steps from them to a tensor of `shape`.

    Returns:
        The named tensors, the codes first, and the steps.
    """
    codes = add_codes(graph, stored, stored.scale, stored.zero_point, stored.axis, name)
    named, steps = [codes], [_dequantize(stored)]
    for kind, values in (("ADD", stored.add), ("MUL", stored.multiply)):
        if values is not None:
            named.append(graph.add_tensor(values.shape, FLOAT32, values, name))
            steps.append(DecodingStep(kind, stored.codes.shape, (named[-1],)))
    transposed = tuple(shape[axis] for axis in stored.layout.order)
    if transposed != stored.codes.shape:
        steps.append(_reshape(transposed))
    if stored.layout.order != tuple(range(len(shape))):
        steps.append(_transpose(graph, shape, np.argsort(stored.layout.order)))
    return named, steps


def palette_steps(
    graph: Subgraph, stored: StoredPalette, shape: tuple[int, ...], name: str
) -> tuple[list[int], list[OperatorT], list[DecodingStep]]:
    """Adds indices, table and constants, and returns the steps from them to a tensor of `shape`.

    Returns:
        The named tensors, the indices first and the table second; the operators that make the table float, none if it
        is float already; the steps.
    """
    codes = add_codes(graph, stored, np.ones(1), np.full(1, -stored.half), 0, name)
    table, float_table, table_operators = add_table(graph, stored, name)
    named, steps, shape_of_indices = [codes, table], [_dequantize(stored)], stored.codes.shape
    if stored.offset is not None:
        named.append(graph.add_tensor(stored.offset.shape, FLOAT32, stored.offset, name))
        steps.append(DecodingStep("ADD", shape_of_indices, (named[-1],)))
    steps.append(TO_INT32._replace(shape=shape_of_indices))
    gathered = shape_of_indices if stored.dim == 1 else (*shape_of_indices, stored.dim)
    steps.append(DecodingStep("GATHER", gathered, (float_table,)))
    if stored.dim > 1:
        steps += _vector_steps(graph, stored, shape)
    if stored.multiply is not None:
        named.append(graph.add_tensor(stored.multiply.shape, FLOAT32, stored.multiply, name))
        steps.append(DecodingStep("MUL", shape, (named[-1],)))
    return named, table_operators, steps


def _vector_steps(graph: Subgraph, stored: StoredPalette, shape: tuple[int, ...]) -> list[DecodingStep]:
    """Returns the steps from `(rows, columns, dim)` to the weight's shape."""
    rows, columns = stored.codes.shape
    steps = []
    if columns > 1:
        steps.append(_transpose(graph, (rows, stored.dim, columns), np.asarray([0, 2, 1])))
    if stored.cut != stored.filled:
        begin = graph.add_tensor((3,), INT32, np.zeros(3, np.int32))
        size = graph.add_tensor((3,), INT32, np.asarray(stored.cut, np.int32))
        steps += [_reshape(stored.filled), DecodingStep("SLICE", stored.cut, (begin, size))]
    return [*steps, _reshape(shape)]


def add_codes(
    graph: Subgraph, stored: Stored | StoredPalette, scale: np.ndarray, zero_point: np.ndarray, axis: int, name: str
) -> int:
    """Adds the packed codes with their scales and zero points."""
    codes = graph.add_tensor(stored.codes.shape, TYPES[stored.bits], pack(stored.codes, stored.bits), name)
    graph.tensor(codes).quantization = quantization(scale, zero_point, axis)
    return codes


def add_table(graph: Subgraph, stored: StoredPalette, name: str) -> tuple[int, int, list[OperatorT]]:
    """Adds the table of a palette.

    Returns:
        The table; the float tensor of its values, which is the table itself if it is float; the operators that compute
        that tensor.
    """
    rows, dim = stored.table.shape
    shape = (rows,) if dim == 1 else (rows, dim)
    if stored.table_scale is None:
        table = graph.add_tensor(shape, FLOAT32, stored.table, name)
        return table, table, []
    kind = INT8 if stored.table.dtype == np.int8 else FLOAT16
    groups = stored.table_scale.size if kind == INT8 else 1
    # DEQUANTIZE has one scale per index of an axis, here one per group.
    stored_shape = shape if groups == 1 else (groups, rows // groups * dim)
    table = graph.add_tensor(stored_shape, kind, stored.table, name)
    if kind == INT8:
        graph.tensor(table).quantization = quantization(stored.table_scale)
    steps = [DecodingStep("DEQUANTIZE", stored_shape, version=TABLE_VERSIONS[kind])]
    if stored_shape != shape:
        steps.append(_reshape(shape))
    float_table = graph.add_tensor(shape, FLOAT32)
    return table, float_table, chain(graph, steps, table, float_table)


def _dequantize(stored: Stored | StoredPalette) -> DecodingStep:
    """Returns the step from codes to floats."""
    return DecodingStep("DEQUANTIZE", stored.codes.shape, version=DEQUANTIZE_VERSIONS[stored.bits])


def _reshape(shape: tuple[int, ...]) -> DecodingStep:
    """Returns the step to another shape."""
    return DecodingStep("RESHAPE", shape, options={"newShape": np.asarray(shape, np.int32)})


def _transpose(graph: Subgraph, shape: tuple[int, ...], order: np.ndarray) -> DecodingStep:
    """Returns the step to another order of the axes."""
    order = order.astype(np.int32)
    return DecodingStep("TRANSPOSE", shape, (graph.add_tensor(order.shape, INT32, order),))
