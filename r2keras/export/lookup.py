"""Embedding tables of which only the looked-up rows are decoded: EMBEDDING_LOOKUP on codes in the place of GATHER."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from r2keras.export.containers import Stored, along
from r2keras.export.decode import kind_of
from r2keras.export.flatbuffer import FLOAT32, INT32, add_tensor, operator, shape_of
from r2keras.export.palettes import StoredPalette
from r2keras.export.steps import TO_INT32, Step, add_codes, add_table


class Lookup(NamedTuple):
    """A table that is decoded by rows.

    Args:
        ids: the tensor of the rows' numbers, a vector.
        rows: the float tensor that the runtime computes for them.
    """

    ids: int
    rows: int


def is_table(file: Any, graph: Any, tensor: int, stored: Any) -> bool:
    """Whether a constant is used by look-ups of its rows alone, and stored in a way that EMBEDDING_LOOKUP decodes."""
    users = [op for op in graph.operators if op.inputs is not None and tensor in op.inputs]
    shape = shape_of(graph.tensors[tensor])
    # LiteRT finds a row by whole bytes.
    fits = len(shape) == 2 and stored.codes.shape == shape and getattr(stored, "dim", 1) == 1
    fits = fits and stored.layout.order == (0, 1) and shape[1] * stored.bits % 8 == 0
    free = tensor not in graph.outputs and bool(users)
    return fits and free and all(_takes_rows(file, graph, op, tensor) for op in users)


def _takes_rows(file: Any, graph: Any, op: Any, tensor: int) -> bool:
    """Whether an operator is a GATHER of rows of a tensor whose result has one open size at most."""
    if kind_of(file, op) != "GATHER" or int(op.inputs[0]) != tensor:
        return False
    options, ids = op.builtinOptions, graph.tensors[int(op.inputs[1])]
    plain = options is None or (options.axis, options.batchDims) == (0, 0)
    return plain and ids.type == INT32 and _sizes(ids).count(-1) <= 1


def _sizes(tensor: Any) -> list[int]:
    """Returns a tensor's shape, -1 where it is open."""
    signature = tensor.shapeSignature
    return list(shape_of(tensor)) if signature is None else [int(size) for size in signature]


def look_up(model: Any, graph: Any, tensor: int, stored: Stored | StoredPalette, name: str) -> tuple[list[int], Lookup]:
    """Makes every GATHER of a table one of its codes; the table's tensor is used no more.

    A row is `((scale * (codes - zero_point)) + add) * multiply`, or `table[codes + half + offset] * multiply`, as
    `Stored` and `StoredPalette` say. EMBEDDING_LOOKUP knows no zero points: where there are any, or the scale follows
    the columns, it takes the codes as they are and the rest is computed on the rows.

    Args:
        model: the schema's `ModelT`, edited in place.
        graph: its subgraph.
        tensor: index of the table in it.
        stored: codes, scales and arithmetic; or indices, table and scales.
        name: name of the codes and of the constants beside them.

    Returns:
        The indices of the tensors that carry the name, the codes first, then the table of a palette; the first look-up.
    """
    if isinstance(stored, StoredPalette):
        named, steps, before = _palette_parts(model, graph, stored, name)
    else:
        named, steps, before = _uniform_parts(model, graph, stored, name)
    users = [op for op in graph.operators if op.inputs is not None and tensor in op.inputs]
    place = graph.operators.index(users[0])
    graph.operators[place:place] = before
    found = []
    for op in users:
        place = graph.operators.index(op)
        graph.operators[place : place + 1], lookup = _rows(model, graph, op, named[0], steps)
        found.append(lookup)
    graph.tensors[tensor].buffer = 0
    return named, found[0]


def _uniform_parts(model: Any, graph: Any, stored: Stored, name: str) -> tuple[list[int], list[Step], list[Any]]:
    """Adds codes and constants of a grid; returns them, the steps on looked-up rows, and no operators before."""
    direct = not np.any(stored.zero_point) and (stored.axis == 0 or stored.scale.size == 1)
    scale = stored.scale if direct else np.ones(1, np.float32)
    codes = add_codes(model, graph, stored, scale, np.zeros(scale.size, np.int64), 0, name)
    steps = [] if direct else _dequantizing(stored)
    steps += [(kind, values) for kind, values in (("ADD", stored.add), ("MUL", stored.multiply)) if values is not None]
    constants = [add_tensor(model, graph, values.shape, FLOAT32, values, name) for _, values in steps]
    made = [Step(kind, (), (i,)) for (kind, _), i in zip(steps, constants, strict=True)]
    return [codes, *constants], made, []


def _palette_parts(model: Any, graph: Any, stored: StoredPalette, name: str) -> tuple[list[int], list[Step], list[Any]]:
    """Adds indices and table; returns them, the steps on looked-up rows, and what makes the table float before."""
    codes = add_codes(model, graph, stored, np.ones(1), np.zeros(1), 0, name)
    table, floats, before = add_table(model, graph, stored, name)
    # Not added up beforehand: another palette of as many tables has the same offset, and the file then holds one.
    added = [np.full((1, 1), stored.half, np.float32), stored.offset]
    shifts, factors = (
        [add_tensor(model, graph, values.shape, FLOAT32, values, name) for values in given if values is not None]
        for given in (added, [stored.multiply])
    )
    steps = [*(Step("ADD", (), (i,)) for i in shifts), TO_INT32, Step("GATHER", (), (floats,))]
    return [codes, table, *shifts, *factors], [*steps, *(Step("MUL", (), (i,)) for i in factors)], before


def _dequantizing(stored: Stored) -> list[tuple[str, np.ndarray]]:
    """Returns the operators, each with its constant, that make floats of codes."""
    shift = -stored.zero_point.astype(np.float32)
    steps = [("ADD", shift), ("MUL", stored.scale)] if np.any(shift) else [("MUL", stored.scale)]
    return [(kind, along(values, stored.codes, stored.axis)) for kind, values in steps]


def _rows(model: Any, graph: Any, gather: Any, codes: int, steps: list[Step]) -> tuple[list[Any], Lookup]:
    """Returns the operators that stand for one GATHER; of constants with a row a word the rows are looked up too."""
    source, result = int(gather.inputs[1]), int(gather.outputs[0])
    ids, size = graph.tensors[source], shape_of(graph.tensors[codes])[1]
    count, made, flat = int(np.prod(shape_of(ids))), [], source
    if len(shape_of(ids)) != 1:
        flat = add_tensor(model, graph, (count,), INT32)
        made.append(operator(model, "RESHAPE", 1, [source], [flat], newShape=np.asarray([-1], np.int32)))
    value = add_tensor(model, graph, (count, size), FLOAT32)
    made.append(operator(model, "EMBEDDING_LOOKUP", 4, [flat, codes], [value], "NONE"))
    for step in steps:
        others = step.others
        if step.kind in ("ADD", "MUL") and shape_of(graph.tensors[others[0]])[0] > 1:
            others = (add_tensor(model, graph, (count, shape_of(graph.tensors[others[0]])[1]), FLOAT32),)
            made.append(operator(model, "GATHER", 1, [step.others[0], flat], list(others)))
        before, value = value, add_tensor(model, graph, (count, size), step.result)
        inputs = step._replace(others=others).inputs(before)
        made.append(operator(model, step.kind, step.version, inputs, [value], **step.options))
    shape = np.asarray([*_sizes(ids), size], np.int32)
    made.append(operator(model, "RESHAPE", 1, [value], [result], newShape=shape))
    return made, Lookup(flat, value)
