"""Who feeds whom in a model, read from its configuration, and copies of a model without some of its layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterator
from typing import Any

import keras

from r2keras import _model

OUTPUT = ""


@dataclasses.dataclass(frozen=True)
class Node:
    """One layer (or operation) of a graph.

    Args:
        path: as in `_model.leaf_layers`; a nested model is one node here and has nodes of its own.
        layer: the layer; None for an operation that is no layer.
        uses: how many times the layer is called.
        inputs: paths of the nodes that feed it, one for every use of a tensor.
        consumers: paths of the nodes that it feeds, one for every use; `OUTPUT` stands for the model's output.
    """

    path: str
    layer: keras.Layer | None
    uses: int
    inputs: tuple[str, ...]
    consumers: tuple[str, ...]

    @property
    def consumer(self) -> str | None:
        """The one node that uses the layer's output; None if it is called twice or feeds several."""
        return self.consumers[0] if self.uses == 1 and len(self.consumers) == 1 else None

    @property
    def producer(self) -> str | None:
        """The one node that feeds the layer; None if it is called twice or fed by several."""
        return self.inputs[0] if self.uses == 1 and len(self.inputs) == 1 else None


def nodes(model: keras.Model) -> dict[str, Node]:
    """Returns the nodes of a model and of the models nested in it, by path, in the order of their calls.

    Args:
        model: a built Functional or Sequential model.

    Returns:
        Nodes by path. Edges stay inside one model: what enters or leaves a nested model has no node on the other side.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="a"), keras.layers.ReLU(name="b")])
    >>> nodes(model)["a"].consumer
    'b'
    """
    _model.leaf_layers(model)
    return {node.path: node for node in _nodes(model, "")}


def rebuild_without(
    model: keras.Model, replace: Callable[[str, keras.Layer], keras.Layer | None], dropped: Container[str] = ()
) -> tuple[keras.Model, dict[str, keras.Layer]]:
    """Returns a copy of a model in which some layers are replaced and some are gone; no weight is carried over.

    Args:
        model: a built Functional or Sequential model, nested ones included.
        replace: called with `(path, layer)`; returns a new, unbuilt layer, or None for a plain copy.
        dropped: paths of layers with one input and one output of the same shape, which the copy leaves out.

    Returns:
        The model, and its layers by the paths they had.
    """
    paths = {id(layer): path for path, layer in _model.leaf_layers(model)}
    made: dict[int, keras.Layer] = {}

    def clone(layer: keras.Layer) -> keras.Layer:
        if id(layer) not in made:
            made[id(layer)] = copy(layer) if isinstance(layer, keras.Model) else _cloned(paths, layer, replace, dropped)
        return made[id(layer)]

    def copy(part: keras.Model) -> keras.Model:
        if not isinstance(part, keras.Sequential):
            return keras.models.clone_model(part, clone_function=clone, call_function=_call)
        (entry,) = part.inputs
        start = keras.Input(batch_shape=entry.shape, dtype=entry.dtype, name=entry.name)
        kept = [layer for layer in part.layers if paths.get(id(layer)) not in dropped]
        return keras.Sequential([start, *map(clone, kept)], name=part.name, trainable=part.trainable)

    result = copy(model)
    return result, {paths[key]: layer for key, layer in made.items() if key in paths}


def copy_weights(model: keras.Model, copies: dict[str, keras.Layer]) -> None:
    """Carries the weights of a model over to the layers of `rebuild_without`, of which some got a bias."""
    for path, layer in _model.leaf_layers(model):
        if path not in copies or not layer.weights:
            continue
        if len(layer.weights) == len(copies[path].weights):
            _model.transfer(path, layer, copies[path])
        else:
            targets = dict(_model.kernels(copies[path]))
            for name, variable in _model.kernels(layer):
                targets[name].assign(keras.ops.convert_to_numpy(variable))


class _Gone(keras.layers.Layer):
    """Stands for a layer that the copy leaves out."""


def _call(layer: keras.Layer, *args, **kwargs):
    """Calls a layer of the copy, or passes its input on."""
    return args[0] if isinstance(layer, _Gone) else layer(*args, **kwargs)


def _cloned(paths: dict, layer: keras.Layer, replace: Callable, dropped: Container[str]) -> keras.Layer:
    """Returns a layer's stand-in in the copy."""
    path = paths.get(id(layer))
    if path in dropped:
        return _Gone()
    new = replace(path, layer) if path is not None else None
    return new or layer.__class__.from_config(layer.get_config())


def _nodes(model: keras.Model, prefix: str) -> Iterator[Node]:
    """Yields the nodes of one model, then of the models in it."""
    layers = {layer.name: layer for layer in model.layers}
    edges, outputs = _sequence(model) if isinstance(model, keras.Sequential) else _edges(model.get_config())
    consumers: dict[str, list[str]] = {name: [] for name in edges}
    for name, calls in edges.items():
        for source in (source for call in calls for source in call):
            consumers[source].append(prefix + name)
    for name in outputs:
        consumers[name].append(OUTPUT)
    for name, calls in edges.items():
        sources = tuple(prefix + source for call in calls for source in call)
        yield Node(prefix + name, layers.get(name), len(calls), sources, tuple(consumers[name]))
    for name, layer in layers.items():
        if isinstance(layer, keras.Model):
            yield from _nodes(layer, f"{prefix}{name}/")


def _sequence(model: keras.Sequential) -> tuple[dict[str, list[list[str]]], list[str]]:
    """Returns the edges and the output of a Sequential model."""
    names = [layer.name for layer in model.layers]
    before = [[], *([name] for name in names)]
    return {name: [inputs] for name, inputs in zip(names, before, strict=False)}, names[-1:]


def _edges(config: dict) -> tuple[dict[str, list[list[str]]], list[str]]:
    """Returns the sources of each call of each layer of a Functional configuration, and those of the outputs."""
    edges = {layer["name"]: [list(_sources(call)) for call in layer["inbound_nodes"]] for layer in config["layers"]}
    return edges, list(_histories(config["output_layers"]))


def _sources(value: object) -> Iterator[str]:
    """Yields the names of the layers whose tensors occur in the arguments of a call."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        yield value["config"]["keras_history"][0]
    elif isinstance(value, dict):
        for part in value.values():
            yield from _sources(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _sources(part)


def _histories(value: Any) -> Iterator[str]:
    """Yields the names in a structure of `[name, node, tensor]`."""
    if isinstance(value, dict):
        value = list(value.values())
    if len(value) == 3 and isinstance(value[0], str):
        yield value[0]
    else:
        for part in value:
            yield from _histories(part)
