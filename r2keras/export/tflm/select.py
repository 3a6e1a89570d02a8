"""Replacement of SELECT_V2 by operators that LiteRT for Microcontrollers has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2keras.export.tflite.schema import INT32, operator
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of, subgraphs
from r2keras.export.tflm.replace_constant import BOOL

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT


def spell_out_select(file: ModelT) -> None:
    """Replaces SELECT on integers, which microcontrollers lack, by the equal `b + int(condition) * (a - b)`.

    Keras' Embedding uses such an operator to look up negative indices from the end of its table.
    """
    for graph in subgraphs(file):
        for op in graph.operators:
            if graph.kind(op) != "SELECT":
                continue
            condition, chosen, other = inputs_of(op)
            (target,) = outputs_of(op)
            same_shape = len({graph.shape(tensor) for tensor in (chosen, other, target)}) == 1
            if same_shape and all(graph.tensor(tensor).type == INT32 for tensor in (chosen, other, target)):
                graph.replace(op, _selection(graph, condition, chosen, other, target))


def _selection(graph: Subgraph, condition: int, chosen: int, other: int, target: int) -> list[OperatorT]:
    """Returns the operators that compute `chosen` where the condition holds, `other` elsewhere."""
    one, difference, product = (graph.add_tensor_like(target) for _ in range(3))
    return [
        operator(graph.file, "CAST", 1, [condition], [one], inDataType=BOOL, outDataType=INT32),
        operator(graph.file, "SUB", 1, [chosen, other], [difference]),
        operator(graph.file, "MUL", 1, [one, difference], [product]),
        operator(graph.file, "ADD", 1, [other, product], [target]),
    ]
