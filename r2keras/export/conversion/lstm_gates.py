"""LSTM kernels that the converter split by gates, rejoined so that a record can replace them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.conversion.fused_lstm import OPERATOR
from r2keras.export.tflite.cleanup import prune
from r2keras.export.tflite.constant_values import kind_of
from r2keras.export.tflite.schema import FLOAT32, INT32, add_tensor, buffer_of, operator, values_of
from r2keras.record import CompressionRecord

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT, SubGraphT

GATES = 4
# Inputs of the operator: the first gate's kernels for the input and for the state, each followed by the other three.
FIRST_GATE_INPUTS = (1, 5)


def join_gates(file: ModelT, record: CompressionRecord) -> None:
    """Replaces the four constants that hold a recorded kernel by one constant and a SPLIT operator.

    `W_i, W_f, W_g, W_o = split(W)`, each `(units, inputs)`: no arithmetic, so the operator computes the same.

    Args:
        file: a float file, edited in place.
        record: the kernels that will be stored as codes.
    """
    recorded = [tensor.values().T for tensor in record.tensors.values() if tensor.values().ndim == 2]
    graph = file.subgraphs[0]
    joined: dict[tuple[int, ...], list[int]] = {}
    for op in [op for op in graph.operators if kind_of(file, op) == OPERATOR]:
        op.inputs = np.array(op.inputs)
        for first in FIRST_GATE_INPUTS:
            parts = tuple(map(int, op.inputs[first : first + GATES]))
            if parts not in joined:
                kernel = _kernel(file, graph, parts, recorded)
                if kernel is not None:
                    joined[parts] = _split(file, graph, graph.operators.index(op), kernel)
            op.inputs[first : first + GATES] = joined.get(parts, parts)
    prune(file)


def _kernel(file: ModelT, graph: SubGraphT, parts: tuple[int, ...], recorded: list[np.ndarray]) -> np.ndarray | None:
    """Returns the recorded kernel that four constants hold together; None if they hold none."""
    tensors = [graph.tensors[part] for part in parts]
    if not all(tensor.type == FLOAT32 and buffer_of(file, tensor).size for tensor in tensors):
        return None
    kernel = np.concatenate([values_of(file, tensor) for tensor in tensors])
    return kernel if any(np.array_equal(kernel, values) for values in recorded) else None


def _split(file: ModelT, graph: SubGraphT, index: int, kernel: np.ndarray) -> list[int]:
    """Adds a kernel, and its SPLIT before the operator at `index`; returns the four parts."""
    shape = (kernel.shape[0] // GATES, kernel.shape[1])
    whole = add_tensor(file, graph, kernel.shape, FLOAT32, kernel)
    axis = add_tensor(file, graph, (), INT32, np.zeros((), np.int32))
    parts = [add_tensor(file, graph, shape, FLOAT32) for _ in range(GATES)]
    graph.operators.insert(index, operator(file, "SPLIT", 1, [axis, whole], parts, numSplits=GATES))
    return parts
