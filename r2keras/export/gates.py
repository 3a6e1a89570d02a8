"""The kernels of the fused LSTM operator, which the converter cuts up by gates, put together again for a record."""

from __future__ import annotations

from typing import Any

import numpy as np

from r2keras.export.decode import kind_of
from r2keras.export.flatbuffer import FLOAT32, INT32, add_tensor, buffer_of, operator, values_of
from r2keras.export.fused import OPERATOR
from r2keras.export.prune import prune
from r2keras.record import CompressionRecord

GATES = 4
# Inputs of the operator: the first of the four gates' weights for its input, and for its state.
KERNELS = (1, 5)


def join_gates(file: Any, record: CompressionRecord) -> None:
    """Makes one constant of the four that hold a recorded kernel, and SPLIT what the operator's inputs come from.

    `W_i, W_f, W_g, W_o = split(W)`, each `(units, inputs)`: no arithmetic, so that the operator computes the same.

    Args:
        file: the schema's `ModelT` of a float file, edited in place.
        record: tells which kernels are to be stored as codes.
    """
    recorded = [tensor.values().T for tensor in record.tensors.values() if tensor.values().ndim == 2]
    graph = file.subgraphs[0]
    joined: dict[tuple[int, ...], list[int]] = {}
    for op in [op for op in graph.operators if kind_of(file, op) == OPERATOR]:
        op.inputs = np.array(op.inputs)
        for first in KERNELS:
            parts = tuple(map(int, op.inputs[first : first + GATES]))
            if parts not in joined and (kernel := _kernel(file, graph, parts, recorded)) is not None:
                joined[parts] = _split(file, graph, graph.operators.index(op), kernel)
            op.inputs[first : first + GATES] = joined.get(parts, parts)
    prune(file)


def _kernel(file: Any, graph: Any, parts: tuple[int, ...], recorded: list[np.ndarray]) -> np.ndarray | None:
    """Returns the kernel that lies in four constants if it is a recorded one."""
    tensors = [graph.tensors[part] for part in parts]
    if not all(tensor.type == FLOAT32 and buffer_of(file, tensor).size for tensor in tensors):
        return None
    kernel = np.concatenate([values_of(file, tensor) for tensor in tensors])
    return kernel if any(np.array_equal(kernel, values) for values in recorded) else None


def _split(file: Any, graph: Any, place: int, kernel: np.ndarray) -> list[int]:
    """Adds a kernel and the SPLIT of it in front of an operator; returns the four parts."""
    shape = (kernel.shape[0] // GATES, kernel.shape[1])
    whole = add_tensor(file, graph, kernel.shape, FLOAT32, kernel)
    axis = add_tensor(file, graph, (), INT32, np.zeros((), np.int32))
    parts = [add_tensor(file, graph, shape, FLOAT32) for _ in range(GATES)]
    graph.operators.insert(place, operator(file, "SPLIT", 1, [axis, whole], parts, numSplits=GATES))
    return parts
