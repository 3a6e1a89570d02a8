"""The values of a file's constants as a runtime computes them, in NumPy from the file alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.tflite.bit_packing import unpack
from r2keras.export.tflite.call_once import CONTAINER
from r2keras.export.tflite.schema import FLOAT16, FLOAT32, INT32, WIDTHS, buffer_of, kind_of, shape_of
from r2keras.export.tflite.subgraph import inputs_of, subgraphs

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT, TensorT

PLAIN = {FLOAT32: "<f4", FLOAT16: "<f2", INT32: "<i4"}


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
        graph = self._graphs[subgraph]
        element_type = graph.tensor(tensor).type
        if graph.is_constant(tensor):
            return element_type in PLAIN or element_type in WIDTHS
        producer = self.producer(subgraph, tensor)
        if producer is None or element_type not in PLAIN:
            return False
        kind = graph.kind(producer)
        if kind == "READ_VARIABLE":
            source = self._source(subgraph, producer)
            return source is not None and self.knows(*source)
        if kind not in STEPS or not _is_plain(producer, kind):
            return False
        return all(i >= 0 and self.knows(subgraph, i) for i in inputs_of(producer))

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
        return {g for g, _ in values} - {g for g, tensor in values if not self.knows(g, tensor)}

    def _assignments(self) -> dict[bytes, tuple[int, int]]:
        """Returns the subgraph and the tensor that each variable of `Once` is set to, by the variable's name."""
        assigned = {}
        for graph in self._graphs:
            for op in graph.operators:
                name = self._variable(graph.index, op) if graph.kind(op) == "ASSIGN_VARIABLE" else None
                if name is not None:
                    assigned[name] = (graph.index, inputs_of(op)[1])
        return assigned

    def _source(self, subgraph: int, read: OperatorT) -> tuple[int, int] | None:
        """Returns the tensor whose value a READ_VARIABLE returns; None for one of the model's own variables."""
        name = self._variable(subgraph, read)
        return None if name is None else self._assigned.get(name)

    def _variable(self, subgraph: int, operator: OperatorT) -> bytes | None:
        """Returns the name of the variable that an operator reads or sets; None for one of the model's own."""
        handle = self.producer(subgraph, inputs_of(operator)[0])
        if handle is None or handle.builtinOptions.container != CONTAINER.encode():
            return None
        return handle.builtinOptions.sharedName


def _is_plain(operator: OperatorT, kind: str) -> bool:
    """Whether an operator's options are those that `STEPS` computes."""
    options = operator.builtinOptions
    if kind in ("ADD", "MUL"):
        return options is None or options.fusedActivationFunction == 0
    return kind != "GATHER" or options is None or (options.axis, options.batchDims) == (0, 0)


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
    """Returns the values from the second input on, as many along each axis as the result has."""
    ends = zip(inputs[1].tolist(), shape_of(result), strict=True)
    return inputs[0][tuple(slice(begin, begin + size) for begin, size in ends)]


# By operator: the function of its inputs' values, of its first input's tensor (the table of a look-up), and of its
# result's tensor.
STEPS: dict[str, Callable[[list[np.ndarray], TensorT, TensorT], np.ndarray]] = {
    "DEQUANTIZE": _dequantize,
    "ADD": lambda inputs, source, result: inputs[0] + inputs[1],
    "MUL": lambda inputs, source, result: inputs[0] * inputs[1],
    "CAST": lambda inputs, source, result: inputs[0].astype(PLAIN[result.type]),
    "EMBEDDING_LOOKUP": lambda inputs, source, result: _dequantize(inputs[1:], source, result)[inputs[0]],
    "GATHER": lambda inputs, source, result: inputs[0][inputs[1]],
    "SLICE": _slice,
    "RESHAPE": lambda inputs, source, result: inputs[0].reshape(shape_of(result)),
    "TRANSPOSE": lambda inputs, source, result: inputs[0].transpose(inputs[1]),
}
