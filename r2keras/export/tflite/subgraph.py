"""Subgraphs of a `.tflite` file: producers and consumers of each tensor, and edits of the operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from r2keras._util import optional_packages
from r2keras.export.tflite import schema

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT, SubGraphT, TensorT


def inputs_of(operator: OperatorT) -> list[int]:
    """Returns the tensors that an operator reads, in order; -1 for an omitted optional input."""
    return _as_ints(operator.inputs)


def outputs_of(operator: OperatorT) -> list[int]:
    """Returns the tensors that an operator computes, in order."""
    return _as_ints(operator.outputs)


class Subgraph:
    """The tensors and operators of one subgraph.

    Tensor indices are plain integers everywhere. Producers and consumers are collected in one pass over the operators,
    at the first query after an edit. Every edit creates a new list of operators, by which all objects on one subgraph
    detect it. Do not change that list, or an operator's inputs and outputs, in place: queries would be outdated.

    Args:
        file: the schema's `ModelT`.
        index: index of the subgraph in it.

    Attributes:
        file: see above.
        index: see above.
        schema: the schema's `SubGraphT`.
    """

    def __init__(self, file: ModelT, index: int = 0):
        self.file = file
        self.index = index
        self.schema: SubGraphT = file.subgraphs[index]
        self._mapped: list[OperatorT] | None = None
        self._producers: dict[int, OperatorT] | None = None
        self._consumers: dict[int, list[OperatorT]] | None = None

    @property
    def operators(self) -> Sequence[OperatorT]:
        """The operators in the order in which they run. An edit leaves this list as it is."""
        return self.schema.operators or []

    @operators.setter
    def operators(self, operators: Sequence[OperatorT]) -> None:
        self.schema.operators = list(operators)

    @property
    def inputs(self) -> list[int]:
        """The tensors that the subgraph takes."""
        return _as_ints(self.schema.inputs)

    @property
    def outputs(self) -> list[int]:
        """The tensors that the subgraph returns."""
        return _as_ints(self.schema.outputs)

    def is_output(self, tensor: int) -> bool:
        """Whether the subgraph returns a tensor."""
        return tensor in self.outputs

    def tensor(self, index: int) -> TensorT:
        """Returns the schema's `TensorT`."""
        return self.schema.tensors[index]

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Returns a tensor's shape."""
        return schema.shape_of(self.tensor(tensor))

    def data(self, tensor: int) -> np.ndarray:
        """Returns a constant's bytes; an empty vector for any other tensor."""
        return schema.buffer_of(self.file, self.tensor(tensor))

    def is_constant(self, tensor: int) -> bool:
        """Whether the file holds a tensor's values; False for -1, an input that is left out."""
        return tensor >= 0 and self.data(tensor).size > 0

    @property
    def producers(self) -> Mapping[int, OperatorT]:
        """The operator that computes each tensor, by tensor index. An edit leaves this mapping as it is."""
        self._drop_outdated()
        if self._producers is None:
            self._producers = {tensor: op for op in self.operators for tensor in outputs_of(op)}
        return self._producers

    def producer(self, tensor: int) -> OperatorT | None:
        """Returns the operator that computes a tensor; None for constants and inputs."""
        return self.producers.get(tensor)

    def consumers(self, tensor: int) -> Sequence[OperatorT]:
        """Returns the operators that read a tensor, in the order in which they run."""
        self._drop_outdated()
        if self._consumers is None:
            self._consumers = {}
            for op in self.operators:
                for read in dict.fromkeys(inputs_of(op)):
                    self._consumers.setdefault(read, []).append(op)
        return self._consumers.get(tensor, ())

    def position(self, operator: OperatorT) -> int:
        """Returns the position of an operator in the list of operators."""
        return next(i for i, op in enumerate(self.operators) if op is operator)

    def append(self, operators: Sequence[OperatorT]) -> None:
        """Adds operators that run last."""
        self.operators = [*self.operators, *operators]

    def insert_before(self, operator: OperatorT, operators: Sequence[OperatorT]) -> None:
        """Adds operators that run directly before another one."""
        self._splice(self.position(operator), 0, operators)

    def insert_after(self, operator: OperatorT, operators: Sequence[OperatorT]) -> None:
        """Adds operators that run directly after another one."""
        self._splice(self.position(operator) + 1, 0, operators)

    def replace(self, operator: OperatorT, operators: Sequence[OperatorT]) -> None:
        """Replaces an operator by others."""
        self._splice(self.position(operator), 1, operators)

    def set_inputs(self, operator: OperatorT, tensors: Sequence[int]) -> None:
        """Sets the tensors that an operator reads."""
        operator.inputs = np.asarray(tensors, np.int32)
        self.operators = self.operators

    def set_outputs(self, operator: OperatorT, tensors: Sequence[int]) -> None:
        """Sets the tensors that an operator computes."""
        operator.outputs = np.asarray(tensors, np.int32)
        self.operators = self.operators

    def replace_input(self, operator: OperatorT, old: int, new: int) -> None:
        """Makes an operator read one tensor wherever it reads another."""
        self.set_inputs(operator, [new if tensor == old else tensor for tensor in inputs_of(operator)])

    def kind(self, operator: OperatorT) -> str:
        """Returns the name of an operator in the schema, `"DEQUANTIZE"`."""
        return schema.kind_of(self.file, operator)

    def add_tensor(
        self, shape: Sequence[int], kind: int, data: np.ndarray | None = None, name: str | None = None
    ) -> int:
        """Adds a tensor, a constant if `data` is given, and returns its index."""
        return schema.add_tensor(self.file, self.schema, tuple(shape), kind, data, name)

    def add_tensor_like(self, tensor: int) -> int:
        """Adds a tensor of another one's shape, type and quantization, without values; returns its index."""
        like = self.tensor(tensor)
        self.schema.tensors.append(
            optional_packages.schema().TensorT(shape=like.shape, type=like.type, quantization=like.quantization)
        )
        return len(self.schema.tensors) - 1

    def _drop_outdated(self) -> None:
        """Discards producers and consumers if the operators have changed since the last query."""
        if self._mapped is not self.schema.operators:
            self._mapped = self.schema.operators
            self._producers = self._consumers = None

    def _splice(self, position: int, removed: int, operators: Sequence[OperatorT]) -> None:
        """Replaces `removed` operators from `position` on by others."""
        spliced = list(self.operators)
        spliced[position : position + removed] = operators
        self.operators = spliced


def subgraphs(file: ModelT) -> list[Subgraph]:
    """Returns the subgraphs of a file."""
    return [Subgraph(file, index) for index in range(len(file.subgraphs))]


def _as_ints(indices: np.ndarray | Sequence[int] | None) -> list[int]:
    """Returns the indices of a vector of the schema: None, a list or, once read from a file, an array."""
    return [] if indices is None else np.asarray(indices, np.int64).tolist()
