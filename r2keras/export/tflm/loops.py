"""Loops for microcontrollers: replacement of tensors whose size changes at run time, and refusal of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from r2keras._util.errors import invalid_part
from r2keras.export.tflite.cleanup import prune
from r2keras.export.tflite.schema import INT32, operator
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of, subgraphs

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT, TensorT

# Kinds of the operators that compute the two slices. They are dropped if nothing else uses their results.
SLICING = ("SLICE", "CONCATENATION", "RESHAPE")


def spell_out_updates(file: ModelT) -> None:
    """Replaces `concat(list[:i], item, list[i + 1:])` by DYNAMIC_UPDATE_SLICE, which writes an item into a list.

    The converter stores each step of a recurrent layer that returns sequences with such a concatenation. The size of
    the slices changes from step to step. Microcontrollers have no memory for that, and would compute with the sizes of
    the first step.
    """
    for graph in subgraphs(file):
        has_changed = False
        for op in graph.operators:
            index = _index_of_update(graph, op)
            if index is not None:
                graph.replace(op, _update(graph, index, op))
                has_changed = True
        if has_changed:
            _drop_unused(graph)
            prune(file, graph.index)


def check_sizes(file: ModelT, name: str) -> None:
    """Raises ValueError if the size of a result changes at run time; `name` is the name of the model."""
    for graph in subgraphs(file):
        for op in graph.operators:
            if any(_is_open(graph.tensor(tensor)) for tensor in outputs_of(op)):
                expected = "tensors of fixed sizes, because microcontrollers allocate all of them before a run"
                received = f"the model {name!r} with an operator whose result has no fixed size ({graph.kind(op)})"
                fix = "Give every Input its full shape, or replace the layer"
                raise ValueError(invalid_part("model", expected, received, fix))


def _index_of_update(graph: Subgraph, op: OperatorT) -> int | None:
    """Returns the tensor of `i`, with shape `(1,)`, if an operator is such a concatenation."""
    if graph.kind(op) != "CONCATENATION" or len(inputs_of(op)) != 3 or op.builtinOptions.axis != 0:
        return None
    first, item, last = inputs_of(op)
    slices = [graph.producer(tensor) for tensor in (first, last)]
    if any(part is None or graph.kind(part) != "SLICE" for part in slices):
        return None
    source, begin, size = inputs_of(slices[0])
    shape, target = graph.shape(source), outputs_of(op)[0]
    if inputs_of(slices[1])[0] != source or not _is_constant_of(graph, begin, [0] * len(shape)):
        return None
    if graph.shape(target) != shape or _is_open(graph.tensor(target)) or graph.shape(item) != (1, *shape[1:]):
        return None
    length = graph.producer(size)
    if length is None or graph.kind(length) != "CONCATENATION" or len(inputs_of(length)) != 2:
        return None
    index, other_sizes = inputs_of(length)
    return index if _is_constant_of(graph, other_sizes, [-1] * (len(shape) - 1)) else None


def _update(graph: Subgraph, index: int, op: OperatorT) -> list[OperatorT]:
    """Returns the operators that write the item of a concatenation into the list at `index`."""
    first, item, _ = inputs_of(op)
    source = inputs_of(graph.producer(first))[0]
    rank = len(graph.shape(source))
    zeros = graph.add_tensor((rank - 1,), INT32, np.zeros(rank - 1, np.int32))
    start = graph.add_tensor((rank,), INT32)
    return [
        operator(graph.file, "CONCATENATION", 1, [index, zeros], [start], axis=0),
        operator(
            graph.file,
            "DYNAMIC_UPDATE_SLICE",
            1,
            [source, item, start],
            outputs_of(op),
            options_name="DynamicUpdateSliceOptions",
        ),
    ]


def _drop_unused(graph: Subgraph) -> None:
    """Drops the operators of the slices, and those that only these used."""
    while True:
        used = [op for op in graph.operators if graph.kind(op) not in SLICING or _is_used(graph, op)]
        if len(used) == len(graph.operators):
            return
        graph.operators = used


def _is_used(graph: Subgraph, op: OperatorT) -> bool:
    """Whether the subgraph or an operator uses a result of an operator."""
    return any(graph.is_output(tensor) or graph.consumers(tensor) for tensor in outputs_of(op))


def _is_open(tensor: TensorT) -> bool:
    """Whether the size of a tensor is open."""
    return tensor.shapeSignature is not None and any(size < 0 for size in tensor.shapeSignature)


def _is_constant_of(graph: Subgraph, tensor: int, values: list[int]) -> bool:
    """Whether a tensor is an int32 constant of these values."""
    return graph.tensor(tensor).type == INT32 and graph.data(tensor).view("<i4").tolist() == values
