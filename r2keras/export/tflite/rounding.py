"""Whether a file rounds values at run time, so that another processor may round one the other way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2keras.export.tflite.schema import FLOAT32, WIDTHS
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, subgraphs

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT

ROUNDING = {"QUANTIZE", "ROUND", "FLOOR", "CEIL", "SIGN", "FLOOR_DIV", "FLOOR_MOD"}
PRODUCTS = {"FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "BATCH_MATMUL"}


def rounds(file: ModelT) -> bool:
    """Returns whether an operator of a file rounds: to integers, or the rows of a product with low-bit weights."""
    return any(_rounds(graph, op) for graph in subgraphs(file) for op in graph.operators)


def takes_rounded_rows(graph: Subgraph, operator: OperatorT) -> bool:
    """Returns whether an operator multiplies floats, which the runtime rounds to 8 bits, by low-bit weights."""
    tensors = [graph.tensor(index) for index in inputs_of(operator)[:2] if index >= 0]
    if graph.kind(operator) not in PRODUCTS or len(tensors) < 2:
        return False
    return tensors[0].type == FLOAT32 and tensors[1].type in WIDTHS


def _rounds(graph: Subgraph, operator: OperatorT) -> bool:
    """Returns whether one operator rounds."""
    kind = graph.kind(operator)
    if kind in ROUNDING or takes_rounded_rows(graph, operator):
        return True
    # Codes that are only looked up or decoded are exact.
    computed = [index for index in inputs_of(operator) if index >= 0 and not graph.is_constant(index)]
    is_integer = any(graph.tensor(index).type in WIDTHS for index in computed)
    return is_integer and kind in PRODUCTS
