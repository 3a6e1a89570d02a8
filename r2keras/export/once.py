"""Values that a file computes once: a subgraph that CALL_ONCE runs at the first call, and variables that keep them."""

from __future__ import annotations

from typing import Any

import numpy as np

from r2keras.export import packages
from r2keras.export.flatbuffer import RESOURCE, add_tensor, operator

CONTAINER = "r2keras"


class Once:
    """The subgraph whose operators run once, made when the first value goes into it.

    `keep` ends a chain of operators in it; `read` puts the value where it is used: in the first subgraph, or in the
    body of a loop, which then does not compute it at every step. A variable is read by copying it.

    Args:
        model: the schema's `ModelT`, edited in place. Subgraphs that are there keep their indices.
    """

    def __init__(self, model: Any):
        self._model = model
        self._index: int | None = None
        self._count = 0

    @property
    def index(self) -> int:
        """Index of the subgraph in the file."""
        if self._index is None:
            self._index = len(self._model.subgraphs)
            graph = packages.schema().SubGraphT(tensors=[], operators=[])
            graph.inputs = graph.outputs = np.zeros(0, np.int32)
            self._model.subgraphs.append(graph)
            call = operator(self._model, "CALL_ONCE", 1, [], [], "CallOnceOptions", initSubgraphIndex=self._index)
            self._model.subgraphs[0].operators.insert(0, call)
        return self._index

    def keep(self, operators: list[Any], value: int) -> str:
        """Runs operators once and keeps what they compute.

        Args:
            operators: of the subgraph `index`.
            value: the tensor that they compute in it.

        Returns:
            The name of the variable.
        """
        graph, name = self._model.subgraphs[self.index], str(self._count)
        self._count += 1
        opened = self._handle(graph, name)
        inputs = [int(opened.outputs[0]), value]
        assigned = operator(self._model, "ASSIGN_VARIABLE", 1, inputs, [], "AssignVariableOptions")
        graph.operators += [*operators, opened, assigned]
        return name

    def read(self, subgraph: int, tensor: int, name: str) -> list[Any]:
        """Returns the operators that make a tensor of a subgraph the value of a variable."""
        opened = self._handle(self._model.subgraphs[subgraph], name)
        inputs = [int(opened.outputs[0])]
        return [opened, operator(self._model, "READ_VARIABLE", 1, inputs, [tensor], "ReadVariableOptions")]

    def _handle(self, graph: Any, name: str) -> Any:
        """Returns the operator that finds a variable by its name."""
        handle = add_tensor(self._model, graph, (), RESOURCE)
        options = {"container": CONTAINER, "sharedName": name}
        return operator(self._model, "VAR_HANDLE", 1, [], [handle], "VarHandleOptions", **options)
