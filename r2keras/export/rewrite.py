"""Puts what is stored of a weight, and its arithmetic, in the place of a float constant."""

from __future__ import annotations

from typing import Any

from r2keras.export.containers import Stored
from r2keras.export.flatbuffer import shape_of
from r2keras.export.palettes import StoredPalette
from r2keras.export.steps import chain, palette_steps, uniform_steps


def rewrite(model: Any, subgraph: int, tensor: int, stored: Stored | StoredPalette, name: str) -> list[int]:
    """Makes a float constant the result of DEQUANTIZE on codes, with what else the grid or the palette takes.

    The tensor keeps its index, so that every consumer stays as it is; it only is no constant any more.

    Args:
        model: the schema's `ModelT`, edited in place.
        subgraph: index of the subgraph.
        tensor: index of the float32 constant in it.
        stored: codes, scales and arithmetic, or indices, table and scales.
        name: name of the codes (and of the constants beside them) in the file.

    Returns:
        The indices of the tensors that carry the name: the codes first, then the table of a palette.
    """
    graph = model.subgraphs[subgraph]
    target = graph.tensors[tensor]
    if isinstance(stored, StoredPalette):
        named, before, steps = palette_steps(model, graph, stored, shape_of(target), name)
    else:
        before = []
        named, steps = uniform_steps(model, graph, stored, shape_of(target), name)
    target.buffer = 0
    _insert(graph, tensor, [*before, *chain(model, graph, steps, named[0], tensor)])
    return named


def _insert(graph: Any, tensor: int, operators: list[Any]) -> None:
    """Puts operators in front of the first consumer of a tensor, where its memory is needed the shortest."""
    consumers = [i for i, op in enumerate(graph.operators) if op.inputs is not None and tensor in op.inputs]
    place = consumers[0] if consumers else len(graph.operators)
    graph.operators[place:place] = operators
