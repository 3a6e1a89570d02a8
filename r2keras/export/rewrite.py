"""Puts what is stored of a weight, and its arithmetic, in the place of a float constant."""

from __future__ import annotations

from typing import Any

from r2keras.export.containers import Stored
from r2keras.export.flatbuffer import FLOAT32, add_tensor, shape_of
from r2keras.export.once import Once
from r2keras.export.palettes import StoredPalette
from r2keras.export.steps import chain, palette_steps, uniform_steps


def rewrite(
    model: Any, subgraph: int, tensor: int, stored: Stored | StoredPalette, name: str, once: Once | None
) -> tuple[int, list[int]]:
    """Makes a float constant the result of DEQUANTIZE on codes, with what else the grid or the palette takes.

    The tensor keeps its index, so that every consumer stays as it is; it only is no constant any more.

    Args:
        model: the schema's `ModelT`, edited in place.
        subgraph: index of the subgraph.
        tensor: index of the float32 constant in it.
        stored: codes, scales and arithmetic, or indices, table and scales.
        name: name of the codes (and of the constants beside them) in the file.
        once: where palettes are decoded, once; None decodes them in their own subgraph, at every call.

    Returns:
        The subgraph that holds what is stored, and the indices of the tensors in it that carry the name: the codes
        first, then the table of a palette.
    """
    graph = model.subgraphs[subgraph]
    target = graph.tensors[tensor]
    target.buffer, shape = 0, shape_of(target)
    if not isinstance(stored, StoredPalette):
        named, steps = uniform_steps(model, graph, stored, shape, name)
        _insert(graph, tensor, chain(model, graph, steps, named[0], tensor))
        return subgraph, named
    holder = subgraph if once is None else once.index
    own = model.subgraphs[holder]
    value = tensor if once is None else add_tensor(model, own, shape, FLOAT32)
    named, operators, steps = palette_steps(model, own, stored, shape, name)
    operators += chain(model, own, steps, named[0], value)
    if once is not None:
        operators = once.read(subgraph, tensor, once.keep(operators, value))
    _insert(graph, tensor, operators)
    return holder, named


def _insert(graph: Any, tensor: int, operators: list[Any]) -> None:
    """Puts operators in front of the first consumer of a tensor, where its memory is needed the shortest."""
    consumers = [i for i, op in enumerate(graph.operators) if op.inputs is not None and tensor in op.inputs]
    place = consumers[0] if consumers else len(graph.operators)
    graph.operators[place:place] = operators
