"""The calls of a Keras model in the order they run, nested models opened up: read from the model's config."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import keras

Tensor = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer.

    Args:
        path: the layer's path, `"block/conv"`.
        kind: the name of the layer's class, or of the operation's (`"Add"` for `x + y`).
        layer: the layer; None for an operation that is no layer.
        inputs: the tensors it takes.
        number: the call's own number: its outputs are `(number, 0)`, `(number, 1)`...
    """

    path: str
    kind: str
    layer: keras.Layer | None
    inputs: tuple[Tensor, ...]
    number: int


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """The calls of a model, inputs first.

    Args:
        calls: in an order in which they can run.
        outputs: the model's output tensors.
    """

    calls: tuple[Call, ...]
    outputs: tuple[Tensor, ...]

    def consumers(self) -> dict[Tensor, list[Call]]:
        """Returns the calls that take each tensor."""
        found: dict[Tensor, list[Call]] = {}
        for call in self.calls:
            for tensor in dict.fromkeys(call.inputs):
                found.setdefault(tensor, []).append(call)
        return found


def graph_of(model: keras.Model) -> Graph:
    """Returns the calls of a Functional or Sequential model.

    Args:
        model: a built model.

    Example:

    >>> model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2, name="head")])
    >>> [call.path for call in graph_of(model).calls]
    ['x', 'head']
    """
    calls: list[Call] = []
    numbers = itertools.count()
    feeds = []
    for tensor in model.inputs:
        calls.append(Call(tensor.name, "InputLayer", None, (), next(numbers)))
        feeds.append((calls[-1].number, 0))
    outputs = _open(model, "", feeds, calls, numbers)
    return Graph(tuple(calls), tuple(outputs))


def _open(model: keras.Model, prefix: str, feeds: list[Tensor], calls: list[Call], numbers) -> list[Tensor]:
    """Appends the calls inside a model that is called on `feeds`; returns its outputs."""
    if isinstance(model, keras.Sequential):
        tensors = feeds
        for layer in model.layers:
            tensors = _add(layer, prefix + layer.name, type(layer).__name__, tensors, calls, numbers)
        return tensors
    return _open_functional(model, prefix, feeds, calls, numbers)


def _open_functional(model: keras.Model, prefix: str, feeds: list[Tensor], calls: list[Call], numbers) -> list[Tensor]:
    """Runs through the nodes of a Functional model's config as soon as their inputs are there."""
    config = model.get_config()
    layers = {layer.name: layer for layer in model.layers}
    known = {(name, node): [feed] for (name, node, _), feed in zip(_keys(config["input_layers"]), feeds, strict=True)}
    waiting = [
        ((entry["name"], place), entry["class_name"], [(h[0], h[1], h[2]) for h in _histories(node)])
        for entry in config["layers"]
        for place, node in enumerate(entry["inbound_nodes"])
    ]
    while waiting:
        ready = [item for item in waiting if all(key[:2] in known for key in item[2])]
        for (name, node), kind, keys in ready:
            inputs = [_output(known[key[:2]], key[2]) for key in keys]
            known[name, node] = _add(layers.get(name), prefix + name, kind, inputs, calls, numbers)
        waiting = [item for item in waiting if item not in ready]
    return [_output(known[name, node], place) for name, node, place in _keys(config["output_layers"])]


def _add(layer, path: str, kind: str, inputs: list[Tensor], calls: list[Call], numbers) -> list[Tensor]:
    """Appends one call, or the calls inside a nested model; returns the outputs."""
    if isinstance(layer, keras.Model):
        return _open(layer, path + "/", inputs, calls, numbers)
    calls.append(Call(path, kind, layer, tuple(inputs), next(numbers)))
    return [(calls[-1].number, 0)]


def _output(tensors: list[Tensor], place: int) -> Tensor:
    """Returns an output of a call; a layer's further outputs have the number of its first."""
    return tensors[place] if place < len(tensors) else (tensors[0][0], place)


def _histories(value: Any) -> Iterator[tuple[str, int, int]]:
    """Yields where the tensors in a node's arguments come from."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            yield tuple(value["config"]["keras_history"])
            return
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _histories(part)


def _keys(value: Any) -> list[tuple[str, int, int]]:
    """Returns the (layer, node, tensor) entries of `input_layers` or `output_layers`, flat."""
    if isinstance(value, dict):
        return [key for name in sorted(value) for key in _keys(value[name])]
    if len(value) == 3 and isinstance(value[0], str) and isinstance(value[1], int):
        return [tuple(value)]
    return [key for part in value for key in _keys(part)]
