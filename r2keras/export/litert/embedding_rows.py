"""Embedding tables of which only the requested rows are decoded: EMBEDDING_LOOKUP on codes instead of GATHER."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from r2keras.export.litert.decoding_operators import TO_INT32, DecodingStep, add_codes, add_table
from r2keras.export.tflite.schema import FLOAT32, INT32, operator, shape_of
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of
from r2keras.export.weights.palette import StoredPalette
from r2keras.export.weights.uniform import Stored, along

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import OperatorT, TensorT

# The version that LiteRT's converter writes (op_version.cc) for tables with one scale per row or of 4 bits.
LOOKUP_VERSION = 4


class RowLookup(NamedTuple):
    """The tensors between which the rows of a table are looked up and decoded.

    Args:
        ids: the row numbers, a vector.
        rows: the float rows that the runtime computes for them.
    """

    ids: int
    rows: int


def is_table(graph: Subgraph, tensor: int, stored: Stored | StoredPalette) -> bool:
    """Whether a constant is only used to look up rows, and is stored in a form that EMBEDDING_LOOKUP decodes."""
    shape, consumers = graph.shape(tensor), graph.consumers(tensor)
    if len(shape) != 2 or stored.codes.shape != shape or stored.layout.order != (0, 1):
        return False
    if isinstance(stored, StoredPalette) and stored.dim > 1:
        return False
    if _missing(stored) and not _can_be_padded(stored):
        return False
    return bool(consumers) and not graph.is_output(tensor) and all(_takes_rows(graph, op, tensor) for op in consumers)


def _missing(stored: Stored | StoredPalette) -> int:
    """Returns the number of columns that a table lacks to rows of whole bytes, by which LiteRT addresses them."""
    return -stored.codes.shape[1] % (8 // stored.bits)


def _can_be_padded(stored: Stored | StoredPalette) -> bool:
    """Whether the same arithmetic applies to all columns of a table."""
    factors = [stored.multiply, stored.offset if isinstance(stored, StoredPalette) else stored.add]
    if isinstance(stored, Stored) and stored.axis != 0 and stored.scale.size > 1:
        return False
    return all(values is None or np.ndim(values) == 0 or np.shape(values)[-1] == 1 for values in factors)


def _padded(stored: Stored | StoredPalette) -> Stored | StoredPalette:
    """Returns a table with columns of zeros at the end, up to whole bytes."""
    return dataclasses.replace(stored, codes=np.pad(stored.codes, ((0, 0), (0, _missing(stored)))))


def _takes_rows(graph: Subgraph, op: OperatorT, tensor: int) -> bool:
    """Whether an operator is a GATHER of rows of a tensor whose result has at most one open size."""
    if graph.kind(op) != "GATHER" or inputs_of(op)[0] != tensor:
        return False
    options, ids = op.builtinOptions, graph.tensor(inputs_of(op)[1])
    has_defaults = options is None or (options.axis, options.batchDims) == (0, 0)
    return has_defaults and ids.type == INT32 and _signature(ids).count(-1) <= 1


def _signature(tensor: TensorT) -> list[int]:
    """Returns a tensor's shape, -1 for open sizes."""
    signature = tensor.shapeSignature
    return list(shape_of(tensor)) if signature is None else [int(size) for size in signature]


def look_up(graph: Subgraph, tensor: int, stored: Stored | StoredPalette, name: str) -> tuple[list[int], RowLookup]:
    """Makes every GATHER of a table one of its codes; nothing reads the table's tensor any longer.

    A row is `((scale * (codes - zero_point)) + add) * multiply`, or `table[codes + half + offset] * multiply`, as
    `Stored` and `StoredPalette` say. EMBEDDING_LOOKUP has no zero points: if there are any, or the scale varies along
    the columns, it returns the codes as they are, and the rest is computed on the rows.

    Args:
        graph: the subgraph of the table, edited in place.
        tensor: index of the table.
        stored: codes, scales and arithmetic; or indices, table and scales.
        name: name of the codes and of the other stored constants in the file.

    Returns:
        The indices of the tensors that carry the name, the codes first, then the table of a palette; the first look-up.
    """
    size, stored = stored.codes.shape[1], _padded(stored)
    if isinstance(stored, StoredPalette):
        named, steps, table_operators = _add_palette(graph, stored, name)
    else:
        named, steps = _add_uniform(graph, stored, name)
        table_operators = []
    gathers = graph.consumers(tensor)
    graph.insert_before(gathers[0], table_operators)
    lookups = []
    for gather in gathers:
        operators, lookup = _row_operators(graph, gather, named[0], steps, size)
        graph.replace(gather, operators)
        lookups.append(lookup)
    graph.tensor(tensor).buffer = 0
    return named, lookups[0]


def _add_uniform(graph: Subgraph, stored: Stored, name: str) -> tuple[list[int], list[DecodingStep]]:
    """Adds codes and constants of a uniform grid; returns them and the steps on looked-up rows."""
    is_direct = not np.any(stored.zero_point) and (stored.axis == 0 or stored.scale.size == 1)
    scale = stored.scale if is_direct else np.ones(1, np.float32)
    codes = add_codes(graph, stored, scale, np.zeros(scale.size, np.int64), 0, name)
    arithmetic = [] if is_direct else _dequantizing(stored)
    if stored.add is not None:
        arithmetic.append(("ADD", stored.add))
    if stored.multiply is not None:
        arithmetic.append(("MUL", stored.multiply))
    constants = [graph.add_tensor(values.shape, FLOAT32, values, name) for _, values in arithmetic]
    steps = [DecodingStep(kind, (), (i,)) for (kind, _), i in zip(arithmetic, constants, strict=True)]
    return [codes, *constants], steps


def _add_palette(
    graph: Subgraph, stored: StoredPalette, name: str
) -> tuple[list[int], list[DecodingStep], list[OperatorT]]:
    """Adds indices and table; returns them, the steps on looked-up rows, and the operators that make a float table."""
    codes = add_codes(graph, stored, np.ones(1), np.zeros(1), 0, name)
    table, float_table, table_operators = add_table(graph, stored, name)
    # `half` and `offset` stay two constants: another palette of as many tables has an equal offset, stored only once.
    shifts = [np.full((1, 1), stored.half, np.float32)]
    if stored.offset is not None:
        shifts.append(stored.offset)
    named = [codes, table]
    steps = []
    for values in shifts:
        named.append(graph.add_tensor(values.shape, FLOAT32, values, name))
        steps.append(DecodingStep("ADD", (), (named[-1],)))
    steps += [TO_INT32, DecodingStep("GATHER", (), (float_table,))]
    if stored.multiply is not None:
        named.append(graph.add_tensor(stored.multiply.shape, FLOAT32, stored.multiply, name))
        steps.append(DecodingStep("MUL", (), (named[-1],)))
    return named, steps, table_operators


def _dequantizing(stored: Stored) -> list[tuple[str, np.ndarray]]:
    """Returns the operators that make floats of codes, each with its constant."""
    shift = -stored.zero_point.astype(np.float32)
    arithmetic = [("MUL", stored.scale)]
    if np.any(shift):
        arithmetic.insert(0, ("ADD", shift))
    return [(kind, along(values, stored.codes, stored.axis)) for kind, values in arithmetic]


def _row_operators(
    graph: Subgraph, gather: OperatorT, codes: int, steps: list[DecodingStep], size: int
) -> tuple[list[OperatorT], RowLookup]:
    """Returns the operators that replace one GATHER.

    They look up rows of the codes, and rows of those constants that have one per row of the table; `size` columns of
    these are returned.
    """
    file = graph.file
    source, result = inputs_of(gather)[1], outputs_of(gather)[0]
    count, stored_size = int(np.prod(graph.shape(source))), graph.shape(codes)[1]
    operators, ids = [], source
    if len(graph.shape(source)) != 1:
        ids = graph.add_tensor((count,), INT32)
        operators.append(operator(file, "RESHAPE", 1, [source], [ids], newShape=np.asarray([-1], np.int32)))
    rows = graph.add_tensor((count, stored_size), FLOAT32)
    operators.append(operator(file, "EMBEDDING_LOOKUP", LOOKUP_VERSION, [ids, codes], [rows], "NONE"))
    for step in steps:
        others = step.others
        if step.kind in ("ADD", "MUL") and graph.shape(others[0])[0] > 1:
            others = (graph.add_tensor((count, graph.shape(others[0])[1]), FLOAT32),)
            operators.append(operator(file, "GATHER", 1, [step.others[0], ids], others))
        inputs = step._replace(others=others).inputs(rows)
        rows = graph.add_tensor((count, stored_size), step.result)
        operators.append(step.as_operator(file, inputs, [rows]))
    if stored_size > size:
        inputs = [rows, *(graph.add_tensor((2,), INT32, np.asarray(ends, np.int32)) for ends in ((0, 0), (-1, size)))]
        rows = graph.add_tensor((count, size), FLOAT32)
        graph.tensor(rows).shapeSignature = np.asarray([-1, size], np.int32)
        operators.append(operator(file, "SLICE", 1, inputs, [rows], "SliceOptions"))
    shape = np.asarray([*_signature(graph.tensor(source)), size], np.int32)
    operators.append(operator(file, "RESHAPE", 1, [rows], [result], newShape=shape))
    return operators, RowLookup(ids, rows)
