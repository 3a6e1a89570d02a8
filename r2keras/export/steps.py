"""The operators that compute a weight from what is stored, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from r2keras.export import packages
from r2keras.export.containers import Stored
from r2keras.export.flatbuffer import FLOAT16, FLOAT32, INT8, INT32, TYPES, add_tensor, operator
from r2keras.export.pack import pack
from r2keras.export.palettes import StoredPalette

DEQUANTIZE_VERSIONS = {8: 5, 4: 6, 2: 6}
TABLE_VERSIONS = {FLOAT16: 3, INT8: 5}


class Step(NamedTuple):
    """One operator of a chain.

    Args:
        kind: the operator's name.
        shape: shape of its result.
        others: indices of its inputs beside the result of the step before.
        version: the operator's version.
        options: fields of the operator's options.
        result: type of its result.
    """

    kind: str
    shape: tuple[int, ...]
    others: tuple[int, ...] = ()
    version: int = 1
    options: Mapping[str, Any] = MappingProxyType({})
    result: int = FLOAT32

    def inputs(self, source: int) -> list[int]:
        """Returns the operator's inputs; GATHER takes the table first."""
        return [*self.others, source] if self.kind == "GATHER" else [source, *self.others]


TO_INT32 = Step("CAST", (), options={"inDataType": FLOAT32, "outDataType": INT32}, result=INT32)


def chain(model: Any, graph: Any, steps: list[Step], source: int, target: int) -> list[Any]:
    """Returns the operators of the steps, each on the result of the one before, the last one's being `target`."""
    operators = []
    for step in steps:
        result = target if step is steps[-1] else add_tensor(model, graph, step.shape, step.result)
        operators.append(operator(model, step.kind, step.version, step.inputs(source), [result], **step.options))
        source = result
    return operators


def uniform_steps(
    model: Any, graph: Any, stored: Stored, shape: tuple[int, ...], name: str
) -> tuple[list[int], list[Step]]:
    """Adds codes and constants, and the steps from them to a constant of `shape`.

    Returns:
        The named tensors, the codes first, and the steps.
    """
    codes = add_codes(model, graph, stored, stored.scale, stored.zero_point, stored.axis, name)
    steps, constants = [_dequantize(stored)], []
    for kind, values in (("ADD", stored.add), ("MUL", stored.multiply)):
        if values is not None:
            constants.append(add_tensor(model, graph, values.shape, FLOAT32, values, name))
            steps.append(Step(kind, stored.codes.shape, (constants[-1],)))
    moved = tuple(shape[axis] for axis in stored.layout.order)
    if moved != stored.codes.shape:
        steps.append(_reshape(moved))
    if stored.layout.order != tuple(range(len(shape))):
        steps.append(_transpose(model, graph, shape, np.argsort(stored.layout.order)))
    return [codes, *constants], steps


def palette_steps(
    model: Any, graph: Any, stored: StoredPalette, shape: tuple[int, ...], name: str
) -> tuple[list[int], list[Any], list[Step]]:
    """Adds indices, table and constants, and the steps from them to a constant of `shape`.

    Returns:
        The named tensors, the indices first and the table second; the operators that make the table float, none if it
        is; the steps.
    """
    codes = add_codes(model, graph, stored, np.ones(1), np.full(1, -stored.half), 0, name)
    table, floats, before = add_table(model, graph, stored, name)
    named, steps, indices = [codes, table], [_dequantize(stored)], stored.codes.shape
    if stored.offset is not None:
        named.append(add_tensor(model, graph, stored.offset.shape, FLOAT32, stored.offset, name))
        steps.append(Step("ADD", indices, (named[-1],)))
    steps.append(TO_INT32._replace(shape=indices))
    gathered = indices if stored.dim == 1 else (*indices, stored.dim)
    steps.append(Step("GATHER", gathered, (floats,)))
    if stored.dim > 1:
        steps += _vector_steps(model, graph, stored, shape)
    if stored.multiply is not None:
        named.append(add_tensor(model, graph, stored.multiply.shape, FLOAT32, stored.multiply, name))
        steps.append(Step("MUL", shape, (named[-1],)))
    return named, before, steps


def _vector_steps(model: Any, graph: Any, stored: StoredPalette, shape: tuple[int, ...]) -> list[Step]:
    """Returns the steps from `(rows, columns, dim)` to the constant's shape."""
    rows, columns = stored.codes.shape
    steps = []
    if columns > 1:
        steps.append(_transpose(model, graph, (rows, stored.dim, columns), np.asarray([0, 2, 1])))
    if stored.cut != stored.filled:
        ends = [np.zeros(3, np.int32), np.asarray(stored.cut, np.int32)]
        others = tuple(add_tensor(model, graph, (3,), INT32, end) for end in ends)
        steps += [_reshape(stored.filled), Step("SLICE", stored.cut, others)]
    return [*steps, _reshape(shape)]


def add_codes(
    model: Any, graph: Any, stored: Any, scale: np.ndarray, zero_point: np.ndarray, axis: int, name: str
) -> int:
    """Adds the packed codes with their grid."""
    codes = add_tensor(model, graph, stored.codes.shape, TYPES[stored.bits], pack(stored.codes, stored.bits), name)
    graph.tensors[codes].quantization = _grid(scale, zero_point, axis)
    return codes


def add_table(model: Any, graph: Any, stored: StoredPalette, name: str) -> tuple[int, int, list[Any]]:
    """Adds the table; returns it, the float tensor of its values (itself if it is float), and what makes that."""
    rows, dim = stored.table.shape
    shape = (rows,) if dim == 1 else (rows, dim)
    if stored.table_scale is None:
        table = add_tensor(model, graph, shape, FLOAT32, stored.table, name)
        return table, table, []
    kind = INT8 if stored.table.dtype == np.int8 else FLOAT16
    groups = stored.table_scale.size if kind == INT8 else 1
    held = shape if groups == 1 else (groups, rows // groups * dim)
    table = add_tensor(model, graph, held, kind, stored.table, name)
    if kind == INT8:
        graph.tensors[table].quantization = _grid(stored.table_scale, np.zeros(groups), 0)
    steps = [Step("DEQUANTIZE", held, version=TABLE_VERSIONS[kind])]
    steps += [_reshape(shape)] if held != shape else []
    floats = add_tensor(model, graph, shape, FLOAT32)
    return table, floats, chain(model, graph, steps, table, floats)


def _grid(scale: np.ndarray, zero_point: np.ndarray, axis: int) -> Any:
    """Returns the schema's quantization parameters."""
    made = packages.schema().QuantizationParametersT()
    made.scale = np.ascontiguousarray(scale, np.float32)
    made.zeroPoint = np.ascontiguousarray(zero_point, np.int64)
    made.quantizedDimension = axis
    return made


def _dequantize(stored: Any) -> Step:
    """Returns the step from codes to floats."""
    return Step("DEQUANTIZE", stored.codes.shape, version=DEQUANTIZE_VERSIONS[stored.bits])


def _reshape(shape: tuple[int, ...]) -> Step:
    """Returns the step to another shape."""
    return Step("RESHAPE", shape, options={"newShape": np.asarray(shape, np.int32)})


def _transpose(model: Any, graph: Any, shape: tuple[int, ...], order: np.ndarray) -> Step:
    """Returns the step to another order of the axes."""
    order = order.astype(np.int32)
    return Step("TRANSPOSE", shape, (add_tensor(model, graph, order.shape, INT32, order),))
