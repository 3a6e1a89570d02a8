"""Values that a file computes once: a subgraph that CALL_ONCE runs at the first call, and variables that keep them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from r2keras._util import optional_packages
from r2keras.export.tflite.schema import RESOURCE, operator
from r2keras.export.tflite.subgraph import Subgraph, outputs_of

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT

# Set on the variables that this package adds, to tell them from the model's own.
CONTAINER = "r2keras"


class Once:
    """The subgraph whose operators run once, added to the file on first use.

    `keep` ends a chain of operators in it. `read` copies the value to where it is used, the first subgraph or the body
    of a loop, so that a loop does not compute it at every step.

    Args:
        file: the schema's `ModelT`, edited in place. Its other subgraphs keep their indices.
    """

    def __init__(self, file: ModelT):
        self._file = file
        self._graph: Subgraph | None = None
        self._num_variables = 0

    @property
    def graph(self) -> Subgraph:
        """The subgraph that runs once."""
        if self._graph is None:
            index = len(self._file.subgraphs)
            empty = optional_packages.schema().SubGraphT(tensors=[], operators=[])
            empty.inputs = empty.outputs = np.zeros(0, np.int32)
            self._file.subgraphs.append(empty)
            call = operator(self._file, "CALL_ONCE", 1, [], [], "CallOnceOptions", initSubgraphIndex=index)
            first = Subgraph(self._file)
            first.operators = [call, *first.operators]
            self._graph = Subgraph(self._file, index)
        return self._graph

    def keep(self, operators: Sequence[OperatorT], value: int) -> str:
        """Runs operators once and keeps what they compute.

        Args:
            operators: operators of `graph`, not yet added to it.
            value: the tensor of `graph` that they compute.

        Returns:
            The name of the variable that keeps the value.
        """
        name = str(self._num_variables)
        self._num_variables += 1
        handle = self._handle(self.graph, name)
        inputs = [*outputs_of(handle), value]
        assign = operator(self._file, "ASSIGN_VARIABLE", 1, inputs, [], "AssignVariableOptions")
        self.graph.append([*operators, handle, assign])
        return name

    def read(self, graph: Subgraph, tensor: int, name: str) -> list[OperatorT]:
        """Returns the operators that copy the value of a variable to a tensor of a subgraph."""
        handle = self._handle(graph, name)
        inputs = outputs_of(handle)
        return [handle, operator(self._file, "READ_VARIABLE", 1, inputs, [tensor], "ReadVariableOptions")]

    def _handle(self, graph: Subgraph, name: str) -> OperatorT:
        """Returns the operator that finds a variable by its name."""
        resource = graph.add_tensor((), RESOURCE)
        options = {"container": CONTAINER, "sharedName": name}
        return operator(self._file, "VAR_HANDLE", 1, [], [resource], "VarHandleOptions", **options)
