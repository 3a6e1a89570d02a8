"""The calls of a Functional model, of Keras 3 or tf_keras, in one form and in an order in which they can run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import keras
import tensorflow as tf
import tf_keras

_MERGES = {
    **{name: name for name in ("Add", "Subtract", "Multiply", "Maximum", "Minimum")},
    **{f"math.{name.lower()}": name for name in ("Add", "Subtract", "Multiply", "Maximum", "Minimum")},
    "__operators__.add": "Add",
}
# The layers that tf_keras makes for `x + y`, `x[:, 0]` and `tf.abs(x)`; it exports none of them.
_OPERATORS = ("TFOpLambda", "SlicingOpLambda")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One output of one call.

    Args:
        producer: the call that makes it, or the input of the model.
        place: which of the outputs it is.
        rank: its number of axes.
    """

    producer: Hashable
    place: int
    rank: int


@dataclasses.dataclass(frozen=True)
class Operator:
    """A call that is no layer: `x + y`, `keras.ops.reshape(x, ...)`.

    Args:
        name: its name in the model.
        kind: the operation's name in its Keras.
        merge: the layer class that does the same, None if there is none.
    """

    name: str
    kind: str
    merge: str | None


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One call.

    Args:
        producer: the call's own key, that of `Tensor`.
        layer: the layer, or the operator.
        args: positional arguments, a `Tensor` in place of each tensor.
        kwargs: the other arguments, likewise.
    """

    producer: Hashable
    layer: Any
    args: tuple
    kwargs: dict


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """The calls that lead from a model's inputs to its outputs.

    Args:
        inputs: keys of the inputs, in the order of the flattened `model.input`.
        steps: the calls, in an order in which they can run.
        outputs: the tensors of the flattened `model.output`.
    """

    inputs: list[Hashable]
    steps: list[Step]
    outputs: list[Tensor]


def graph_of(model) -> Graph:
    """Returns the calls of a Functional model of either Keras."""
    inputs, steps, outputs = (_tf_keras_calls if isinstance(model, tf_keras.Model) else _keras3_calls)(model)
    return Graph(inputs, _ordered(steps, inputs, outputs), outputs)


def replaced(value, swap: Callable[[Tensor], Any]):
    """Returns an argument with each `Tensor` in it swapped, lists, tuples and dictionaries opened up."""
    if isinstance(value, Tensor):
        return swap(value)
    if isinstance(value, dict):
        return {key: replaced(part, swap) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([replaced(part, swap) for part in value])
    return value


def _tensors(value) -> list[Tensor]:
    """Returns every `Tensor` in an argument."""
    found: list[Tensor] = []
    replaced(value, found.append)
    return found


def _ordered(steps: list[Step], inputs: list[Hashable], outputs: list[Tensor]) -> list[Step]:
    """Returns the steps that the outputs need, each after those it needs itself."""
    producers = {step.producer: step for step in steps if step.producer not in inputs}
    order: dict[Hashable, Step] = {}
    waiting = [tensor.producer for tensor in reversed(outputs)]
    while waiting:
        step = producers.get(waiting[-1])
        needed = [tensor.producer for tensor in _tensors((step.args, step.kwargs))] if step else []
        missing = [key for key in needed if key in producers and key not in order]
        waiting.extend(missing)
        if not missing:
            waiting.pop()
            order.update({step.producer: step} if step else {})
    return list(order.values())


def _merging(name: str, kind: str, args: tuple, kwargs: dict) -> tuple[Operator, tuple]:
    """Returns the operator of a call that is no layer, and the arguments of the layer in its place."""
    values = [*args, *(value for key, value in kwargs.items() if key != "name" and value is not None)]
    alike = len(values) == 2 and all(isinstance(value, Tensor) for value in values)
    # Merging layers line up the axes of unlike ranks from the left, operators from the right.
    merges = alike and values[0].rank == values[1].rank
    return Operator(name, kind, _MERGES.get(kind) if merges else None), (values,)


def _keras3_calls(model: keras.Model) -> tuple[list[Hashable], list[Step], list[Tensor]]:
    """Reads a Keras 3 model's config, where tensors are `[layer, node, place]`."""
    config = model.get_config()
    layers = {layer.name: layer for layer in model.layers}
    steps = [step for entry in config["layers"] for step in _keras3_steps(entry, layers)]
    ranks = [len(tensor.shape) for tensor in keras.tree.flatten(model.output)]
    keys = _triples(config["output_layers"])
    outputs = [Tensor((name, node), place, rank) for (name, node, place), rank in zip(keys, ranks, strict=True)]
    return [(name, node) for name, node, _ in _triples(config["input_layers"])], steps, outputs


def _keras3_steps(entry: dict, layers: dict[str, keras.Layer]) -> Iterator[Step]:
    """Yields the calls of one layer or operation."""
    name = entry["name"]
    for node, call in enumerate(entry["inbound_nodes"]):
        args = tuple(_keras3_argument(value) for value in call["args"])
        kwargs = {key: _keras3_argument(value) for key, value in call["kwargs"].items() if value is not None}
        if name in layers:
            yield Step((name, node), layers[name], args, kwargs)
        else:
            operator, args = _merging(name, entry["class_name"], args, kwargs)
            yield Step((name, node), operator, args, {})


def _keras3_argument(value):
    """Returns a serialized argument with a `Tensor` for each tensor."""
    if isinstance(value, list):
        return [_keras3_argument(part) for part in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("class_name")
    if kind == "__keras_tensor__":
        name, node, place = value["config"]["keras_history"]
        return Tensor((name, node), place, len(value["config"]["shape"]))
    if kind == "__tuple__":
        return tuple(_keras3_argument(part) for part in value["config"]["value"])
    if kind is not None:
        return keras.saving.deserialize_keras_object(value)
    return {key: _keras3_argument(part) for key, part in value.items()}


def _triples(value) -> list[tuple[str, int, int]]:
    """Returns the entries of `input_layers` or `output_layers`, flat."""
    flat = keras.tree.flatten(value)
    return [tuple(flat[start : start + 3]) for start in range(0, len(flat), 3)]


def _tf_keras_calls(model: tf_keras.Model) -> tuple[list[Hashable], list[Step], list[Tensor]]:
    """Reads the nodes of a tf_keras model, where tensors are told apart by identity."""
    nodes = [(layer, node) for layer in model.layers for node in layer.inbound_nodes if not node.is_input]
    tensors = {id(x): Tensor(id(x), 0, len(x.shape)) for x in tf.nest.flatten(model.input)}
    inputs = list(dict.fromkeys(tensor.producer for tensor in tensors.values()))
    for _, node in nodes:
        for place, x in enumerate(tf.nest.flatten(node.outputs)):
            tensors.setdefault(id(x), Tensor(id(node), place, len(x.shape)))
    steps = [_tf_keras_step(layer, node, tensors) for layer, node in nodes]
    return inputs, steps, [tensors[id(x)] for x in tf.nest.flatten(model.output)]


def _tf_keras_step(layer: tf_keras.layers.Layer, node, tensors: dict[int, Tensor]) -> Step:
    """Returns one call of a layer or operation."""
    args, kwargs = tf.nest.map_structure(lambda x: tensors.get(id(x), x), (tuple(node.call_args), node.call_kwargs))
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    if type(layer).__name__ in _OPERATORS:
        operator, args = _merging(layer.name, str(layer.get_config()["function"]), args, kwargs)
        return Step(id(node), operator, args, {})
    recurrent = isinstance(layer, (tf_keras.layers.RNN, tf_keras.layers.Bidirectional))
    if recurrent and isinstance(args[0], list):
        # tf_keras records the start states behind the inputs, in one list.
        return Step(id(node), layer, (args[0][0],), {**kwargs, "initial_state": args[0][1:]})
    return Step(id(node), layer, args, kwargs)
