"""The values of a file's constants as a runtime computes them, in NumPy from the file alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.tflite.bit_packing import unpack
from r2keras.export.tflite.call_once import CONTAINER
from r2keras.export.tflite.constant_rules import PLAIN, is_computable
from r2keras.export.tflite.operator_rules import callees
from r2keras.export.tflite.schema import FLOAT16, WIDTHS, buffer_of, kind_of, shape_of
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of, subgraphs

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT, TensorT

# A weight is decoded by fewer operators than these, and set in a subgraph that runs once.
MOST_OPERATORS, MOST_PASSES = 200, 8
# Eight values per code of two bits at most; and values of a file that holds nothing.
VALUES_PER_BYTE, SMALL = 32, 4096


def stored_codes(file: ModelT, tensor: TensorT) -> np.ndarray:
    """Returns the integers of a tensor of codes, int8, in its shape."""
    shape = shape_of(tensor)
    return unpack(buffer_of(file, tensor), WIDTHS[tensor.type], int(np.prod(shape))).reshape(shape)


class Constants:
    """The tensors of a file that follow from its constants, in every subgraph, variables of CALL_ONCE included.

    Each operator rounds to float32 as LiteRT's does, so that the values are the runtime's, bit for bit.

    Args:
        file: the schema's `ModelT`; operators that are added or removed later are not seen.
        given: values of tensors that do not follow from constants, such as row numbers, by subgraph and index.
    """

    def __init__(self, file: ModelT, given: Mapping[tuple[int, int], np.ndarray] = MappingProxyType({})):
        self._file = file
        self._given = given
        self._graphs = subgraphs(file)
        self._producers = [graph.producers for graph in self._graphs]
        self._assigned = self._assignments()

    def knows(self, subgraph: int, tensor: int) -> bool:
        """Whether a tensor is a constant, or follows from constants by operators of `STEPS` and variables of `Once`."""
        return self._cost(subgraph, tensor, self._costs) is not None

    @functools.cached_property
    def _costs(self) -> dict[tuple[int, int], int]:
        """The number of operators that run to compute each known result.

        A result that takes too many, or that is far larger than all constants, counts as unknown: no weight is stored
        like that. Variables may be set in subgraphs that come later, so there are several passes.
        """
        costs: dict[tuple[int, int], int] = {}
        for _ in range(MOST_PASSES):
            num_known = len(costs)
            for graph in self._graphs:
                for op in graph.operators:
                    outputs = outputs_of(op)
                    if len(outputs) == 1 and (graph.index, outputs[0]) not in costs:
                        cost = self._operator_cost(graph, op, costs)
                        if cost is not None and cost <= MOST_OPERATORS:
                            costs[graph.index, outputs[0]] = cost
            if len(costs) == num_known:
                break
        return costs

    def _cost(self, subgraph: int, tensor: int, costs: dict[tuple[int, int], int]) -> int | None:
        """Returns the number of operators that compute a tensor, 0 for a constant; None if it is not known."""
        graph = self._graphs[subgraph]
        if graph.is_constant(tensor):
            stored = graph.tensor(tensor)
            return 0 if stored.sparsity is None and (stored.type in PLAIN or stored.type in WIDTHS) else None
        return costs.get((subgraph, tensor))

    def _operator_cost(self, graph: Subgraph, op: OperatorT, costs: dict[tuple[int, int], int]) -> int | None:
        """Returns the number of operators that compute the only result of an operator, or None."""
        result, kind = graph.tensor(outputs_of(op)[0]), graph.kind(op)
        if result.type not in PLAIN:
            return None
        if kind == "READ_VARIABLE":
            source = self._source(graph.index, op)
            if source is None:
                return None
            kept = self._graphs[source[0]].tensor(source[1])
            cost = (
                self._cost(*source, costs) if (kept.type, shape_of(kept)) == (result.type, shape_of(result)) else None
            )
            return None if cost is None else 1 + cost
        if kind not in STEPS or not is_computable(graph, op, kind) or math.prod(shape_of(result)) > self.most_values:
            return None
        inputs = [self._cost(graph.index, i, costs) for i in inputs_of(op)]
        known = [cost for cost in inputs if cost is not None]
        return 1 + sum(known) if len(known) == len(inputs) else None

    @functools.cached_property
    def most_values(self) -> int:
        """The most values that a weight of the file can have."""
        stored = sum(0 if buffer.data is None else len(buffer.data) for buffer in self._file.buffers)
        return SMALL + VALUES_PER_BYTE * stored

    def value(self, subgraph: int, tensor: int) -> np.ndarray:
        """Returns the values of a tensor that `knows` is true for: float32, or integers for tensors of integers."""
        if (subgraph, tensor) in self._given:
            return self._given[subgraph, tensor]
        graph = self._graphs[subgraph]
        result = graph.tensor(tensor)
        if graph.is_constant(tensor):
            if result.type in WIDTHS:
                return stored_codes(self._file, result)
            return graph.data(tensor).view(PLAIN[result.type]).reshape(shape_of(result))
        producer = self.producer(subgraph, tensor)
        kind = graph.kind(producer)
        if kind == "READ_VARIABLE":
            return self.value(*self.source(subgraph, tensor))
        inputs = inputs_of(producer)
        source = graph.tensor(inputs[-1 if kind == "EMBEDDING_LOOKUP" else 0])
        return STEPS[kind]([self.value(subgraph, i) for i in inputs], source, result)

    def source(self, subgraph: int, tensor: int) -> tuple[int, int]:
        """Returns where a known tensor is computed: the value that its variable was set to, or the tensor itself."""
        producer = self.producer(subgraph, tensor)
        if producer is None or kind_of(self._file, producer) != "READ_VARIABLE":
            return subgraph, tensor
        source = self._source(subgraph, producer)
        assert source is not None  # `knows` is true only for reads of the variables of `Once`.
        return source

    def producer(self, subgraph: int, tensor: int) -> OperatorT | None:
        """Returns the operator that computes a tensor; None for constants and inputs."""
        return self._producers[subgraph].get(tensor)

    def decoders(self) -> set[int]:
        """Returns the subgraphs that CALL_ONCE runs to set variables, if all their values are known."""
        values = self._assigned.values()
        return {g for g, _ in values} - {g for g, tensor in values if not self.knows(g, tensor)} - self._other_work()

    def _other_work(self) -> set[int]:
        """Returns the subgraphs that do more than set variables of `Once`."""
        found = set()
        for graph in self._graphs:
            for op in graph.operators:
                results = outputs_of(op)
                known = bool(results) and all(self.knows(graph.index, tensor) for tensor in results)
                sets = graph.kind(op) == "ASSIGN_VARIABLE" and self._variable(graph.index, op) is not None
                if not (known or sets or graph.kind(op) == "VAR_HANDLE"):
                    found.add(graph.index)
        return found

    def _assignments(self) -> dict[bytes, tuple[int, int]]:
        """Returns the subgraph and the tensor that each variable of `Once` is set to, by the variable's name."""
        operators = [(graph, op) for graph in self._graphs for op in graph.operators]
        runs = [(graph.kind(op), callee) for graph, op in operators for callee in callees(self._file, op)]
        once = {callee for kind, callee in runs if kind == "CALL_ONCE"} - {0}
        once -= {callee for kind, callee in runs if kind != "CALL_ONCE"}
        assigned: dict[bytes, list[tuple[int, int]]] = {}
        for graph, op in operators:
            name = self._variable(graph.index, op) if graph.kind(op) == "ASSIGN_VARIABLE" else None
            if name is not None:
                value = inputs_of(op)[1] if len(inputs_of(op)) == 2 else -1
                assigned.setdefault(name, []).append((graph.index, value))
        return {name: found[0] for name, found in assigned.items() if len(found) == 1 and found[0][0] in once}

    def _source(self, subgraph: int, read: OperatorT) -> tuple[int, int] | None:
        """Returns the tensor whose value a READ_VARIABLE returns; None for one of the model's own variables."""
        name = self._variable(subgraph, read)
        return None if name is None else self._assigned.get(name)

    def _variable(self, subgraph: int, operator: OperatorT) -> bytes | None:
        """Returns the name of the variable that an operator reads or sets; None for one of the model's own."""
        handle = self.producer(subgraph, next(iter(inputs_of(operator)), -1))
        if handle is None or kind_of(self._file, handle) != "VAR_HANDLE":
            return None
        if handle.builtinOptions is None or handle.builtinOptions.container != CONTAINER.encode():
            return None
        return handle.builtinOptions.sharedName


def _dequantize(inputs: list[np.ndarray], source: TensorT, result: TensorT) -> np.ndarray:
    """Returns `scale * (code - zero_point)`; half-precision floats as they are."""
    if source.type == FLOAT16:
        return inputs[0].astype(np.float32)
    quantization = source.quantization
    along = [1] * len(shape_of(source))
    along[quantization.quantizedDimension] = len(quantization.scale)
    zero_point = np.asarray(quantization.zeroPoint, np.float32).reshape(along)
    scale = np.asarray(quantization.scale, np.float32).reshape(along)
    return scale * (inputs[0].astype(np.float32) - zero_point)


def _slice(inputs: list[np.ndarray], source: TensorT, result: TensorT) -> np.ndarray:
    """Returns the values from the second input on, as many along each axis as the third says; -1 is the rest."""
    starts, full = inputs[1].tolist(), inputs[0].shape
    sizes = inputs[2].tolist() if len(inputs) > 2 else list(shape_of(result))
    if not len(starts) == len(sizes) == len(full):
        raise ValueError(f"a slice of {len(starts)} and {len(sizes)} numbers of a tensor of {len(full)} axes")
    ends = [
        (begin, whole - begin if taken == -1 else taken)
        for begin, taken, whole in zip(starts, sizes, full, strict=True)
    ]
    if any(taken < 0 or not 0 <= begin <= size - taken for (begin, taken), size in zip(ends, full, strict=True)):
        raise ValueError(f"a slice from {inputs[1].tolist()} of a tensor of shape {inputs[0].shape} ends outside of it")
    return inputs[0][tuple(slice(begin, begin + size) for begin, size in ends)]


def _rows(table: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Returns rows of a table."""
    if indices.size and not (indices.min() >= 0 and indices.max() < len(table)):
        found = f"{indices.min()} to {indices.max()}"
        raise ValueError(f"a look-up reads rows {found} of a table of {len(table)}")
    return table[indices]


def _transpose(inputs: list[np.ndarray], source: TensorT, result: TensorT) -> np.ndarray:
    """Returns a tensor with its axes in another order."""
    order = inputs[1].tolist()
    if sorted(order) != list(range(len(order))):
        raise ValueError(f"a transposition has the order {order}")
    return inputs[0].transpose(order)


# By operator: the function of its inputs' values, of its first input's tensor (the table of a look-up), and of its
# result's tensor.
STEPS: dict[str, Callable[[list[np.ndarray], TensorT, TensorT], np.ndarray]] = {
    "DEQUANTIZE": _dequantize,
    "ADD": lambda inputs, source, result: inputs[0] + inputs[1],
    "MUL": lambda inputs, source, result: inputs[0] * inputs[1],
    "CAST": lambda inputs, source, result: inputs[0].astype(PLAIN[result.type]),
    "EMBEDDING_LOOKUP": lambda inputs, source, result: _rows(_dequantize(inputs[1:], source, result), inputs[0]),
    "GATHER": lambda inputs, source, result: _rows(inputs[0], inputs[1]),
    "SLICE": _slice,
    "RESHAPE": lambda inputs, source, result: inputs[0].reshape(shape_of(result)),
    "TRANSPOSE": _transpose,
}
