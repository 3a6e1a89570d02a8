"""Replaces a float constant by a weight's stored form and the operators that decode it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2keras.export.litert.decoding_operators import chain, palette_steps, uniform_steps
from r2keras.export.tflite.call_once import Once
from r2keras.export.tflite.schema import FLOAT32
from r2keras.export.tflite.subgraph import Subgraph
from r2keras.export.weights.palette import StoredPalette
from r2keras.export.weights.uniform import Stored

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import OperatorT


def replace_constant(
    graph: Subgraph, tensor: int, stored: Stored | StoredPalette, name: str, once: Once | None
) -> tuple[int, list[int]]:
    """Makes a float constant the result of operators that decode a stored weight.

    The tensor keeps its index, so that its consumers stay as they are. It is no longer a constant.

    Args:
        graph: the subgraph of the constant, edited in place.
        tensor: index of the float32 constant.
        stored: codes, scales and arithmetic; or indices, table and scales.
        name: name of the codes and of the other stored constants in the file.
        once: decodes palettes once; None decodes them where they are used, at every call.

    Returns:
        The index of the subgraph that holds the stored constants, and the indices of the tensors in it that carry the
        name: the codes first, then the table of a palette.
    """
    shape = graph.shape(tensor)
    graph.tensor(tensor).buffer = 0
    if not isinstance(stored, StoredPalette):
        named, steps = uniform_steps(graph, stored, shape, name)
        operators = chain(graph, steps, named[0], tensor)
        holder = graph
    elif once is None:
        named, operators = _palette(graph, stored, shape, name, tensor)
        holder = graph
    else:
        holder = once.graph
        value = holder.add_tensor(shape, FLOAT32)
        named, decoding = _palette(holder, stored, shape, name, value)
        operators = once.read(graph, tensor, once.keep(decoding, value))
    consumers = graph.consumers(tensor)
    if consumers:
        # Directly before its first use, the decoded tensor takes memory for the shortest time.
        graph.insert_before(consumers[0], operators)
    else:
        graph.append(operators)
    return holder.index, named


def _palette(
    graph: Subgraph, stored: StoredPalette, shape: tuple[int, ...], name: str, target: int
) -> tuple[list[int], list[OperatorT]]:
    """Adds a palette's constants; returns the named ones and the operators from them to `target`."""
    named, table_operators, steps = palette_steps(graph, stored, shape, name)
    return named, [*table_operators, *chain(graph, steps, named[0], target)]
