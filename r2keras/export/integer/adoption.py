"""Grids that tensors take over from what is made of them: a rounding after a reshape is a rounding before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.tflite.activation_grid import ActivationGrid, grid_of
from r2keras.export.tflite.integer_operators import RULES
from r2keras.export.tflite.schema import FLOAT32, values_of
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
    kind, grid = graph.kind(op), grids.get(outputs_of(op)[0])
    rule = RULES.get(kind)
    if rule is None or grid is None:
        return None
    if kind == "MUL":
        factor = _positive_scalar(graph, op)
        return None if factor is None else ActivationGrid(grid.scale / factor, grid.zero_point)
    data = inputs_of(op) if rule.all_inputs else inputs_of(op)[:1]
    return grid if rule.keeps_order and tensor in data else None


def _positive_scalar(graph: Subgraph, op: OperatorT) -> float | None:
    """Returns the positive number that a MUL multiplies by; None for others. It only scales the grid."""
    constants = [tensor for tensor in inputs_of(op) if graph.is_constant(tensor)]
    if len(constants) != 1 or graph.tensor(constants[0]).type != FLOAT32 or op.builtinOptions.fusedActivationFunction:
        return None
    values = values_of(graph.file, graph.tensor(constants[0]))
    return float(values.flat[0]) if values.size == 1 and 0 < values.flat[0] < np.inf else None
