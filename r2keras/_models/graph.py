"""Calls of a Keras model: of one model with their arguments, or of all nested models in one graph."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras

from r2keras._models.keras_internals import history, own_nodes

# The number of a call in its graph, and the index of the tensor among the call's outputs.
TensorKey = tuple[int, int]
# Types of arguments that Keras serializes as they are.
_PLAIN = (type(None), bool, int, float, str)


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
        missing: dict[LayerCall, int] = {}
        consumers: dict[tuple[str, int], list[LayerCall]] = {}
        for call in self.calls:
            needed = {(ref.layer, ref.node) for ref in call.inputs} - available
            missing[call] = len(needed)
            for source in needed:
                consumers.setdefault(source, []).append(call)
        places = {call: place for place, call in enumerate(self.calls)}
        ready = [call for call in self.calls if not missing[call]]
        while ready:
            yield from ready
            freed: list[LayerCall] = []
            for call in ready:
                for consumer in consumers.get((call.name, call.node), ()):
                    missing[consumer] -= 1
                    if not missing[consumer]:
                        freed.append(consumer)
            ready = sorted(freed, key=places.__getitem__)


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

    def uses(self, call: Call) -> int:
        """Returns the number of calls of a call's layer."""
        return self._uses_by_layer[id(call.layer)]

    @functools.cached_property
    def _uses_by_layer(self) -> dict[int, int]:
        return collections.Counter(id(call.layer) for call in self.calls)

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
    # Another model may call the same layer, so the calls of this one have numbers of their own.
    nodes = own_nodes(model)
    counts: dict[str, int] = {}
    numbers: dict[int, int] = {}
    for operation, node in nodes:
        numbers[id(node)] = counts.get(operation.name, 0)
        counts[operation.name] = numbers[id(node)] + 1

    def ref(tensor: keras.KerasTensor) -> TensorRef:
        operation, node, index = history(tensor)
        return TensorRef(operation.name, numbers[id(node)], index, len(tensor.shape))

    calls = [
        LayerCall(
            operation.name,
            numbers[id(node)],
            type(operation).__name__,
            operation if isinstance(operation, keras.Layer) else None,
            _argument(tuple(node.arguments.args), ref),
            _argument(dict(node.arguments.kwargs), ref),
        )
        for operation, node in nodes
        if not node.is_input
    ]
    return ModelCalls(tuple(calls), tuple(map(ref, model.inputs)), tuple(map(ref, model.outputs)))


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


def _argument(value: Any, ref: Callable[[keras.KerasTensor], TensorRef]) -> Any:
    """Returns an argument with a `TensorRef` for each tensor; objects as Keras serializes them."""
    if isinstance(value, keras.KerasTensor):
        return ref(value)
    if isinstance(value, tuple):
        return tuple(_argument(part, ref) for part in value)
    if isinstance(value, list):
        return [_argument(part, ref) for part in value]
    if isinstance(value, dict):
        return {name: _argument(part, ref) for name, part in value.items()}
    return value if isinstance(value, _PLAIN) else keras.saving.serialize_keras_object(value)


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
