"""Calls of a Functional model of Keras 3 or tf_keras, in one form and in an order in which they can run."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

import keras
import tensorflow as tf
import tf_keras

from r2keras._models.graph import LayerCall, TensorRef, calls_of, replaced

_MERGES = {
    **{name: name for name in ("Add", "Subtract", "Multiply", "Maximum", "Minimum")},
    **{f"math.{name.lower()}": name for name in ("Add", "Subtract", "Multiply", "Maximum", "Minimum")},
    "__operators__.add": "Add",
}
# The layers that tf_keras creates for `x + y`, `x[:, 0]` and `tf.abs(x)`; it exports none of them.
_OPERATORS = ("TFOpLambda", "SlicingOpLambda")


@dataclasses.dataclass(frozen=True)
class GraphTensor:
    """One output of one call.

    Args:
        producer: the key of the call that computes it, or of an input of the model.
        index: its index among the outputs.
        rank: its number of axes; None inside a Sequential model.
    """

    producer: Hashable
    index: int
    rank: int | None


@dataclasses.dataclass(frozen=True)
class Operator:
    """A call that is not a layer: `x + y`, `keras.ops.reshape(x, ...)`.

    Args:
        name: its name in the model.
        kind: the operation's name in its Keras.
        merge: the name of the layer class that computes the same; None if there is none.
    """

    name: str
    kind: str
    merge: str | None


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One call.

    Args:
        producer: the call's own key, that of `GraphTensor`.
        layer: the layer, or the operator.
        args: positional arguments, with a `GraphTensor` for each tensor.
        kwargs: the other arguments, likewise.
    """

    producer: Hashable
    layer: Any
    args: tuple
    kwargs: dict

    @property
    def tensors(self) -> list[GraphTensor]:
        """Every tensor in the arguments, in their order."""
        tensors: list[GraphTensor] = []
        replaced((self.args, self.kwargs), GraphTensor, tensors.append)
        return tensors


@dataclasses.dataclass(frozen=True, eq=False)
class StepGraph:
    """The calls between a model's inputs and its outputs.

    Args:
        inputs: keys of the inputs, in the order of the flattened `model.input`.
        steps: the calls, in an order in which they can run.
        outputs: the tensors of the flattened `model.output`.
    """

    inputs: list[Hashable]
    steps: list[Step]
    outputs: list[GraphTensor]


def step_graph_of(model) -> StepGraph:
    """Returns the calls of a Functional model of either Keras."""
    if isinstance(model, tf_keras.Model):
        graph = tf_keras_calls(model)
        return dataclasses.replace(graph, steps=list(map(_with_operators, graph.steps)))
    inputs, steps, outputs = _keras3_calls(model)
    return StepGraph(inputs, _ordered(steps, inputs, outputs), outputs)


def _ordered(steps: list[Step], inputs: list[Hashable], outputs: list[GraphTensor]) -> list[Step]:
    """Returns the steps that the outputs need, each after those that it needs."""
    producers = {step.producer: step for step in steps if step.producer not in inputs}
    order: dict[Hashable, Step] = {}
    waiting = [tensor.producer for tensor in reversed(outputs)]
    while waiting:
        step = producers.get(waiting[-1])
        needed = [tensor.producer for tensor in step.tensors] if step else []
        missing = [key for key in needed if key in producers and key not in order]
        waiting.extend(missing)
        if not missing:
            waiting.pop()
            if step:
                order[step.producer] = step
    return list(order.values())


def _merging(name: str, kind: str, args: tuple, kwargs: dict) -> tuple[Operator, tuple]:
    """Returns the operator of a call that is not a layer, and the arguments of the layer that replaces it."""
    values = [*args, *(value for key, value in kwargs.items() if key != "name" and value is not None)]
    are_two_tensors = len(values) == 2 and all(isinstance(value, GraphTensor) for value in values)
    # Merging layers align the axes of unequal ranks from the left, operators from the right.
    merges = are_two_tensors and values[0].rank == values[1].rank
    return Operator(name, kind, _MERGES.get(kind) if merges else None), (values,)


def _keras3_calls(model: keras.Model) -> tuple[list[Hashable], list[Step], list[GraphTensor]]:
    """Returns the inputs, calls and outputs of a Keras 3 model."""
    own_calls = calls_of(model)
    inputs: list[Hashable] = [(ref.layer, ref.node) for ref in own_calls.inputs]
    return inputs, list(map(_keras3_step, own_calls.calls)), list(map(_keras3_tensor, own_calls.outputs))


def _keras3_step(call: LayerCall) -> Step:
    """Returns one call of a layer or operation."""
    args = tuple(map(_keras3_argument, call.args))
    kwargs = {name: _keras3_argument(value) for name, value in call.kwargs.items() if value is not None}
    if call.layer is not None:
        return Step((call.name, call.node), call.layer, args, kwargs)
    operator, args = _merging(call.name, call.kind, args, kwargs)
    return Step((call.name, call.node), operator, args, {})


def _keras3_argument(value: Any) -> Any:
    """Returns an argument with a `GraphTensor` for each tensor, and objects instead of their configs."""
    if isinstance(value, TensorRef):
        return _keras3_tensor(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map(_keras3_argument, value))
    if not isinstance(value, dict):
        return value
    if "class_name" in value:
        return keras.saving.deserialize_keras_object(value)
    return {name: _keras3_argument(part) for name, part in value.items()}


def _keras3_tensor(ref: TensorRef) -> GraphTensor:
    """Returns the tensor that a reference names."""
    return GraphTensor((ref.layer, ref.node), ref.index, ref.rank)


def tf_keras_calls(model: tf_keras.Model) -> StepGraph:
    """Returns the calls of a tf_keras model, in which operators are layers.

    Args:
        model: a built Functional or Sequential model.
    """
    inputs, steps, outputs = _tf_keras_nodes(model)
    return StepGraph(inputs, _ordered(steps, inputs, outputs), outputs)


def _tf_keras_nodes(model: tf_keras.Model) -> tuple[list[Hashable], list[Step], list[GraphTensor]]:
    """Reads the nodes of a tf_keras model, where tensors are identified by `id`."""
    nodes = [(layer, node) for layer in model.layers for node in layer.inbound_nodes if not node.is_input]
    tensors = {id(x): GraphTensor(id(x), 0, len(x.shape)) for x in tf.nest.flatten(model.input)}
    inputs = list(dict.fromkeys(tensor.producer for tensor in tensors.values()))
    for _, node in nodes:
        for index, x in enumerate(tf.nest.flatten(node.outputs)):
            tensors.setdefault(id(x), GraphTensor(id(node), index, len(x.shape)))
    steps = [_tf_keras_node(layer, node, tensors) for layer, node in nodes]
    return inputs, steps, [tensors[id(x)] for x in tf.nest.flatten(model.output)]


def _tf_keras_node(layer: tf_keras.layers.Layer, node, tensors: dict[int, GraphTensor]) -> Step:
    """Returns one call of a layer."""
    args, kwargs = tf.nest.map_structure(lambda x: tensors.get(id(x), x), (tuple(node.call_args), node.call_kwargs))
    return Step(id(node), layer, args, kwargs)


def _with_operators(step: Step) -> Step:
    """Returns a call of a tf_keras model with an `Operator` for a layer that only calls a function."""
    layer, args = step.layer, step.args
    kwargs = {key: value for key, value in step.kwargs.items() if value is not None}
    if type(layer).__name__ in _OPERATORS:
        operator, args = _merging(layer.name, str(layer.get_config()["function"]), args, kwargs)
        return Step(step.producer, operator, args, {})
    recurrent = isinstance(layer, (tf_keras.layers.RNN, tf_keras.layers.Bidirectional))
    if recurrent and isinstance(args[0], list):
        # tf_keras records the initial states after the inputs, in one list.
        return Step(step.producer, layer, (args[0][0],), {**kwargs, "initial_state": args[0][1:]})
    return Step(step.producer, layer, args, kwargs)
