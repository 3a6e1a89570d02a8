"""Loops for microcontrollers: tensors whose size changes as the model runs are spelled out, or refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from r2keras.export.decode import kind_of
from r2keras.export.flatbuffer import INT32, add_tensor, buffer_of, operator, shape_of
from r2keras.export.prune import prune

# What computes the two slices, and has no other use afterwards.
BESIDE = ("SLICE", "CONCATENATION", "RESHAPE")


def spell_out_updates(file: Any) -> None:
    """Replaces `concat(list[:i], item, list[i + 1:])` by the one operator that writes an item into a list.

    So the converter stores each step of a recurrent layer that returns sequences. The slices change their size from
    step to step, for which microcontrollers have no memory: they would compute with the size of the first.
    """
    for number, graph in enumerate(file.subgraphs):
        makers = {int(i): op for op in graph.operators for i in op.outputs}
        before = len(graph.operators)
        for op in list(graph.operators):
            index = _index_of_update(file, graph, makers, op)
            if index is not None:
                place = next(i for i, other in enumerate(graph.operators) if other is op)
                source = int(makers[int(op.inputs[0])].inputs[0])
                graph.operators[place : place + 1] = _update(file, graph, source, index, op)
        if len(graph.operators) != before:
            _drop_unused(file, graph)
            prune(file, number)


def check_sizes(file: Any, name: str) -> None:
    """Raises ValueError if an operator's result changes its size as the model runs; `name` is the model's."""
    for graph in file.subgraphs:
        for op in graph.operators:
            for tensor in (graph.tensors[i] for i in op.outputs):
                if _is_open(tensor):
                    raise ValueError(
                        f"The model {name!r} has an operator whose result has no fixed size: {kind_of(file, op)}. "
                        "Expected fixed sizes, since microcontrollers give each tensor its memory beforehand. Give "
                        "every Input its full shape, or replace the layer."
                    )


def _index_of_update(file: Any, graph: Any, makers: dict[int, Any], op: Any) -> int | None:
    """Returns the tensor that holds `i`, of shape `(1,)`, if an operator is such a concatenation."""
    if kind_of(file, op) != "CONCATENATION" or len(op.inputs) != 3 or op.builtinOptions.axis != 0:
        return None
    first, item, last = map(int, op.inputs)
    slices = [makers.get(tensor) for tensor in (first, last)]
    if any(part is None or kind_of(file, part) != "SLICE" for part in slices):
        return None
    source, begin, size = map(int, slices[0].inputs)
    shape, target = shape_of(graph.tensors[source]), graph.tensors[int(op.outputs[0])]
    whole = shape_of(target) == shape and not _is_open(target) and shape_of(graph.tensors[item]) == (1, *shape[1:])
    if int(slices[1].inputs[0]) != source or not whole or not _holds(file, graph, begin, [0] * len(shape)):
        return None
    length = makers.get(size)
    if length is None or kind_of(file, length) != "CONCATENATION" or len(length.inputs) != 2:
        return None
    index, rest = map(int, length.inputs)
    return index if _holds(file, graph, rest, [-1] * (len(shape) - 1)) else None


def _update(file: Any, graph: Any, source: int, index: int, op: Any) -> list[Any]:
    """Returns the operators that write the item of a concatenation into the list at `index`."""
    rank = len(shape_of(graph.tensors[source]))
    zeros = add_tensor(file, graph, (rank - 1,), INT32, np.zeros(rank - 1, np.int32))
    start = add_tensor(file, graph, (rank,), INT32)
    return [
        operator(file, "CONCATENATION", 1, [index, zeros], [start], axis=0),
        operator(
            file,
            "DYNAMIC_UPDATE_SLICE",
            1,
            [source, int(op.inputs[1]), start],
            [int(op.outputs[0])],
            options_name="DynamicUpdateSliceOptions",
        ),
    ]


def _drop_unused(file: Any, graph: Any) -> None:
    """Takes out the operators of the slices, those that fed them included."""
    while True:
        read = {*map(int, graph.outputs), *(int(i) for op in graph.operators for i in op.inputs)}
        kept = [op for op in graph.operators if kind_of(file, op) not in BESIDE or _is_read(op.outputs, read)]
        if len(kept) == len(graph.operators):
            return
        graph.operators = kept


def _is_read(outputs: Iterable[int], read: set[int]) -> bool:
    return any(int(i) in read for i in outputs)


def _is_open(tensor: Any) -> bool:
    """Whether a tensor's size is open."""
    return tensor.shapeSignature is not None and any(size < 0 for size in tensor.shapeSignature)


def _holds(file: Any, graph: Any, tensor: int, values: list[int]) -> bool:
    """Whether a tensor is a constant of these integers."""
    made = graph.tensors[tensor]
    return made.type == INT32 and buffer_of(file, made).view("<i4").tolist() == values
