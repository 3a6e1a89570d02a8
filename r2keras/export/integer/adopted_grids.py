"""Grids that tensors take over from what is made of them: a rounding after a reshape is a rounding before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2keras.export.tflite.activation_grid import ActivationGrid, grid_of
from r2keras.export.tflite.integer_operators import RULES
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import OperatorT


def quantize_outputs(graph: Subgraph) -> dict[int, int]:
    """Returns the output of QUANTIZE for each tensor that is quantized and not used as float."""
    outputs = {}
    for op in graph.operators:
        for tensor in outputs_of(op):
            consumers = graph.consumers(tensor)
            is_quantized = consumers and all(graph.kind(consumer) == "QUANTIZE" for consumer in consumers)
            if is_quantized and not graph.is_output(tensor):
                outputs[tensor] = outputs_of(consumers[0])[0]
    return outputs


def adopted_grids(graph: Subgraph) -> dict[int, ActivationGrid]:
    """Returns a grid for each tensor that is not quantized itself, but everything that is made of it is.

    Operators in between only move values, or keep their order, as reshaping, padding, concatenation and maxima do. The
    tensor can be rounded in place of the result, to the same grid and with the same outcome.

    Args:
        graph: a subgraph with QUANTIZE at the grids of the record.
    """
    grids = {tensor: grid_of(graph.tensor(output)) for tensor, output in quantize_outputs(graph).items()}
    adopted = {}
    for op in reversed(graph.operators):
        for tensor in outputs_of(op):
            if tensor in grids or graph.is_output(tensor):
                continue
            readers = [reader for reader in graph.consumers(tensor) if graph.kind(reader) != "SHAPE"]
            needed = {_grid_behind(graph, reader, tensor, grids) for reader in readers}
            grid = needed.pop() if len(needed) == 1 else None
            if grid is not None:
                grids[tensor] = adopted[tensor] = grid
    return adopted


def _grid_behind(
    graph: Subgraph, op: OperatorT, tensor: int, grids: dict[int, ActivationGrid]
) -> ActivationGrid | None:
    """Returns the grid of an operator's output if its input can be rounded to it instead; else None."""
    rule = RULES.get(graph.kind(op))
    if rule is None or not rule.keeps_order:
        return None
    data = inputs_of(op) if rule.all_inputs else inputs_of(op)[:1]
    return grids.get(outputs_of(op)[0]) if tensor in data else None
