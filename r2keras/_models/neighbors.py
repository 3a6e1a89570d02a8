"""Producers and consumers of each layer of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import keras

from r2keras._models.graph import LayerCall, calls_of
from r2keras._models.walk import ModelView, view_of

OUTPUT = ""


@dataclasses.dataclass(frozen=True)
class Node:
    """One layer (or operation) of a graph.

    Args:
        path: as in `walk.leaf_layers`; a nested model is one node, and its layers have their own nodes.
        layer: the layer; None for an operation that is not a layer.
        uses: the number of calls of the layer.
        inputs: paths of its producers, one for every use of a tensor; an input of the model has a path and no node.
        consumers: paths of its consumers, one for every use; `OUTPUT` for the model's output.
    """

    path: str
    layer: keras.Layer | None
    uses: int
    inputs: tuple[str, ...]
    consumers: tuple[str, ...]

    @property
    def consumer(self) -> str | None:
        """The only consumer of the layer's output; None if the layer is called twice or has several consumers."""
        return self.consumers[0] if self.uses == 1 and len(self.consumers) == 1 else None

    @property
    def producer(self) -> str | None:
        """The only producer of the layer's input; None if the layer is called twice or has several producers."""
        return self.inputs[0] if self.uses == 1 and len(self.inputs) == 1 else None


def nodes(model: keras.Model | ModelView) -> dict[str, Node]:
    """Returns the nodes of a model and of the models nested in it, by path, in the order of the models' layers.

    Args:
        model: a built Functional or Sequential model, or its view.

    Returns:
        Nodes by path. Edges stay inside one model: nodes of a nested model are not connected to nodes outside of it.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="a"), keras.layers.ReLU(name="b")])
    >>> nodes(model)["a"].consumer
    'b'
    """
    return {node.path: node for node in _nodes(view_of(model).model, "")}


def _nodes(model: keras.Model, prefix: str) -> Iterator[Node]:
    """Yields the nodes of one model, then of the models in it."""
    own_calls = calls_of(model)
    calls: dict[str, list[LayerCall]] = {}
    consumers: dict[str, list[str]] = {}
    for call in own_calls.calls:
        calls.setdefault(call.name, []).append(call)
        for ref in call.inputs:
            consumers.setdefault(ref.layer, []).append(prefix + call.name)
    for ref in own_calls.outputs:
        consumers.setdefault(ref.layer, []).append(OUTPUT)
    for name, uses in calls.items():
        producers = tuple(prefix + ref.layer for call in uses for ref in call.inputs)
        yield Node(prefix + name, uses[0].layer, len(uses), producers, tuple(consumers.get(name, ())))
    nested = {call.name: call.layer for call in own_calls.calls if isinstance(call.layer, keras.Model)}
    for name, layer in nested.items():
        yield from _nodes(layer, f"{prefix}{name}/")
