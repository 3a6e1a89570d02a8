"""Takes tensors and operator codes out of a file that no operator uses any more."""

from __future__ import annotations

from typing import Any

import numpy as np


def prune(file: Any, subgraph: int = 0) -> dict[int, int]:
    """Drops unused tensors of a subgraph and unused operator codes of the file.

    Args:
        file: the schema's `ModelT`, edited in place.
        subgraph: index of the subgraph.

    Returns:
        The new index of each tensor that is left, by its old one.
    """
    graph = file.subgraphs[subgraph]
    used = {int(i) for i in (*graph.inputs, *graph.outputs)}
    for op in graph.operators:
        used.update(int(i) for i in (*op.inputs, *op.outputs) if i >= 0)
    kept = sorted(used)
    places = {old: new for new, old in enumerate(kept)}
    graph.tensors = [graph.tensors[i] for i in kept]
    graph.inputs, graph.outputs = _moved(graph.inputs, places), _moved(graph.outputs, places)
    for op in graph.operators:
        op.inputs, op.outputs = _moved(op.inputs, places), _moved(op.outputs, places)
    for signature in file.signatureDefs or []:
        for end in (*signature.inputs, *signature.outputs):
            if signature.subgraphIndex == subgraph:
                end.tensorIndex = places[int(end.tensorIndex)]
    _prune_codes(file)
    return places


def _moved(indices: Any, places: dict[int, int]) -> np.ndarray:
    """Returns tensor indices after the change; -1 stands for an input left out."""
    return np.asarray([places[int(i)] if i >= 0 else -1 for i in indices], np.int32)


def _prune_codes(file: Any) -> None:
    """Drops operator codes that no operator has."""
    operators = [op for graph in file.subgraphs for op in graph.operators]
    kept = sorted({op.opcodeIndex for op in operators})
    file.operatorCodes = [file.operatorCodes[i] for i in kept]
    for op in operators:
        op.opcodeIndex = kept.index(op.opcodeIndex)
