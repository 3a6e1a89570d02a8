"""Calls of a Keras model: of one model with their arguments, or of all nested models in one graph."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras

# The number of a call in its graph, and the index of the tensor among the call's outputs.
TensorKey = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class TensorRef:
    """A tensor of one model, named by the call that produces it.

    Args:
        layer: the name of the layer, operation or input.
        node: the index of the call among the layer's calls.
        index: the index of the tensor among the call's outputs.
        rank: its number of axes; None inside a Sequential model.
    """

    layer: str
    node: int
    index: int
    rank: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of a layer, an operation or a nested model inside one model.

    Args:
        name: the name of the layer or operation.
        node: the index of the call among the layer's calls.
        kind: the name of the layer's class, or of the operation's (`"Add"` for `x + y`).
        layer: the layer; None for an operation that is not a layer.
        args: positional arguments with a `TensorRef` for each tensor; objects stay as Keras serializes them.
        kwargs: the other arguments, likewise.
    """

    name: str
    node: int
    kind: str
    layer: keras.Layer | None
    args: tuple
    kwargs: dict[str, Any]

    @property
    def inputs(self) -> list[TensorRef]:
        """Every tensor in the arguments, in their order."""
        return list(_refs((self.args, list(self.kwargs.values()))))


@dataclasses.dataclass(frozen=True, eq=False)
class ModelCalls:
    """The calls inside one model; a nested model is one call.

    Args:
        calls: in the order of the model's layers, all calls of a layer together.
        inputs: the tensors of the flattened `model.input`.
        outputs: the tensors of the flattened `model.output`.
    """

    calls: tuple[LayerCall, ...]
    inputs: tuple[TensorRef, ...]
    outputs: tuple[TensorRef, ...]

    def in_run_order(self) -> Iterator[LayerCall]:
        """Yields the calls in an order in which they can run."""
        available = {(ref.layer, ref.node) for ref in self.inputs}
        sources = {call: {(ref.layer, ref.node) for ref in call.inputs} for call in self.calls}
        while sources:
            ready = [call for call, needed in sources.items() if needed <= available]
            for call in ready:
                del sources[call]
            available.update((call.name, call.node) for call in ready)
            yield from ready


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer in a graph.

    Args:
        path: the layer's path, `"block/conv"`.
        kind: the name of the layer's class, or of the operation's (`"Add"` for `x + y`).
        layer: the layer; None for an operation that is not a layer.
        inputs: its input tensors.
        number: the number of the call; its outputs are `(number, 0)`, `(number, 1)`...
        prefix: the start of the path inside a nested model, `"block/"`.
    """

    path: str
    kind: str
    layer: keras.Layer | None
    inputs: tuple[TensorKey, ...]
    number: int
    prefix: str = ""

    @property
    def output(self) -> TensorKey:
        """The call's first output."""
        return self.number, 0


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """The calls of a model, inputs first.

    Args:
        calls: in an order in which they can run.
        outputs: the model's output tensors.
    """

    calls: tuple[Call, ...]
    outputs: tuple[TensorKey, ...]

    def producer(self, tensor: TensorKey) -> Call:
        """Returns the call that a tensor is an output of."""
        return self._calls_by_number[tensor[0]]

    def consumers(self, tensor: TensorKey) -> list[Call]:
        """Returns the calls that take a tensor, each once; not the model's outputs."""
        return self._consumers.get(tensor, [])

    def only_consumer(self, call: Call) -> Call | None:
        """Returns the one call that takes a call's output; None if there are several or the model returns it."""
        consumers = self.consumers(call.output)
        return consumers[0] if len(consumers) == 1 and call.output not in self.outputs else None

    @functools.cached_property
    def _calls_by_number(self) -> dict[int, Call]:
        return {call.number: call for call in self.calls}

    @functools.cached_property
    def _consumers(self) -> dict[TensorKey, list[Call]]:
        consumers: dict[TensorKey, list[Call]] = {}
        for call in self.calls:
            for tensor in dict.fromkeys(call.inputs):
                consumers.setdefault(tensor, []).append(call)
        return consumers


def graph_of(model: keras.Model) -> Graph:
    """Returns the calls of a Functional or Sequential model, nested models opened up.

    Args:
        model: a built model.

    Example:

    >>> model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2, name="head")])
    >>> [call.path for call in graph_of(model).calls]
    ['x', 'head']
    """
    calls = [Call(tensor.name, "InputLayer", None, (), number) for number, tensor in enumerate(model.inputs)]
    outputs = _append_calls(model, "", [call.output for call in calls], calls)
    return Graph(tuple(calls), tuple(outputs))


def calls_of(model: keras.Model) -> ModelCalls:
    """Returns the calls inside one Functional or Sequential model, with their arguments.

    Args:
        model: a built model.

    Example:

    >>> model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2, name="head")])
    >>> [(call.name, [ref.layer for ref in call.inputs]) for call in calls_of(model).calls]
    [('head', ['x'])]
    """
    if isinstance(model, keras.Sequential):
        return _sequential_calls(model)
    config = model.get_config()
    layers = {layer.name: layer for layer in model.layers}
    calls = [
        LayerCall(
            entry["name"],
            node,
            entry["class_name"],
            layers.get(entry["name"]),
            tuple(map(_argument, call["args"])),
            {name: _argument(value) for name, value in call["kwargs"].items()},
        )
        for entry in config["layers"]
        for node, call in enumerate(entry["inbound_nodes"])
    ]
    inputs = _ends(config["input_layers"], model.inputs)
    outputs = _ends(config["output_layers"], model.outputs)
    return ModelCalls(tuple(calls), inputs, outputs)


def replaced(value: Any, kind: type, swap: Callable[[Any], Any]) -> Any:
    """Returns an argument in which `swap` has replaced the objects of a class, also in nested structures."""
    if isinstance(value, kind):
        return swap(value)
    if isinstance(value, dict):
        return {name: replaced(part, kind, swap) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([replaced(part, kind, swap) for part in value])
    return value


def _sequential_calls(model: keras.Sequential) -> ModelCalls:
    """Returns the calls of a Sequential model, each on the output of the one before."""
    start = TensorRef(model.inputs[0].name, 0, 0, len(model.inputs[0].shape))
    refs = [start, *(TensorRef(layer.name, 0, 0) for layer in model.layers)]
    calls = [
        LayerCall(layer.name, 0, type(layer).__name__, layer, (ref,), {})
        for layer, ref in zip(model.layers, itertools.islice(refs, len(model.layers)), strict=True)
    ]
    return ModelCalls(tuple(calls), (start,), (refs[-1],))


def _ends(triples: Any, tensors: list) -> tuple[TensorRef, ...]:
    """Returns the tensors of `input_layers` or `output_layers`, a structure of `[layer, node, index]`."""
    flat = keras.tree.flatten(triples)
    triples = [flat[start : start + 3] for start in range(0, len(flat), 3)]
    return tuple(
        TensorRef(name, node, index, len(tensor.shape))
        for (name, node, index), tensor in zip(triples, tensors, strict=True)
    )


def _argument(value: Any) -> Any:
    """Returns a serialized argument with a `TensorRef` for each tensor, and tuples as tuples."""
    if isinstance(value, (list, tuple)):
        return type(value)([_argument(part) for part in value])
    if not isinstance(value, dict):
        return value
    kind = value.get("class_name")
    if kind == "__keras_tensor__":
        name, node, index = value["config"]["keras_history"]
        return TensorRef(name, node, index, len(value["config"]["shape"]))
    if kind == "__tuple__":
        return tuple(map(_argument, value["config"]["value"]))
    return value if kind is not None else {name: _argument(part) for name, part in value.items()}


def _refs(value: Any) -> Iterator[TensorRef]:
    """Yields every tensor in an argument; those of a dictionary by its sorted keys, as `keras.tree.flatten` does."""
    if isinstance(value, TensorRef):
        yield value
    elif isinstance(value, dict):
        for name in sorted(value):
            yield from _refs(value[name])
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _refs(part)


def _append_calls(model: keras.Model, prefix: str, feeds: list[TensorKey], calls: list[Call]) -> list[TensorKey]:
    """Appends the calls inside a model that is called on `feeds`; returns its outputs."""
    own_calls = calls_of(model)
    outputs = {(ref.layer, ref.node): [feed] for ref, feed in zip(own_calls.inputs, feeds, strict=True)}

    def key(ref: TensorRef) -> TensorKey:
        tensors = outputs[ref.layer, ref.node]
        # Only a nested model's outputs are listed one by one.
        return tensors[ref.index] if ref.index < len(tensors) else (tensors[0][0], ref.index)

    for call in own_calls.in_run_order():
        path = prefix + call.name
        inputs = [key(ref) for ref in call.inputs]
        if isinstance(call.layer, keras.Model):
            outputs[call.name, call.node] = _append_calls(call.layer, path + "/", inputs, calls)
        else:
            calls.append(Call(path, call.kind, call.layer, tuple(inputs), len(calls), prefix))
            outputs[call.name, call.node] = [calls[-1].output]
    return [key(ref) for ref in own_calls.outputs]
