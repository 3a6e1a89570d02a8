"""Removes tensors and operator codes that no operator uses from a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.subgraph import Subgraph, inputs_of, outputs_of

if TYPE_CHECKING:
    from r2keras.export.flatbuffer import ModelT


def prune(file: ModelT, subgraph: int = 0) -> dict[int, int]:
    """Drops unused tensors of a subgraph and unused operator codes of the file.

    Args:
        file: the schema's `ModelT`, edited in place.
        subgraph: index of the subgraph.

    Returns:
        The new index of each remaining tensor, by its old one.
    """
    graph = Subgraph(file, subgraph)
    used = {*graph.inputs, *graph.outputs}
    for op in graph.operators:
        used.update(i for i in (*inputs_of(op), *outputs_of(op)) if i >= 0)
    kept = sorted(used)
    new_indices = {old: new for new, old in enumerate(kept)}
    graph.schema.tensors = [graph.tensor(i) for i in kept]
    graph.schema.inputs = _renumbered(graph.inputs, new_indices)
    graph.schema.outputs = _renumbered(graph.outputs, new_indices)
    for op in graph.operators:
        op.inputs = _renumbered(inputs_of(op), new_indices)
        op.outputs = _renumbered(outputs_of(op), new_indices)
    # A new list of operators tells other objects on the subgraph that these have changed.
    graph.operators = graph.operators
    for signature in file.signatureDefs or []:
        for end in (*signature.inputs, *signature.outputs):
            if signature.subgraphIndex == subgraph:
                end.tensorIndex = new_indices[end.tensorIndex]
    _prune_codes(file)
    return new_indices


def _renumbered(tensors: Iterable[int], new_indices: Mapping[int, int]) -> np.ndarray:
    """Returns tensors under their new indices; -1 stands for an input that is left out."""
    return np.asarray([new_indices[i] if i >= 0 else -1 for i in tensors], np.int32)


def _prune_codes(file: ModelT) -> None:
    """Drops operator codes that no operator has."""
    operators = [op for graph in file.subgraphs for op in graph.operators]
    kept = sorted({op.opcodeIndex for op in operators})
    file.operatorCodes = [file.operatorCodes[i] for i in kept]
    new_indices = {old: new for new, old in enumerate(kept)}
    for op in operators:
        op.opcodeIndex = new_indices[op.opcodeIndex]
