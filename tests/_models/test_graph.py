"""The calls of a model: arguments, nested models, shared layers, and the consumers of each output."""

from __future__ import annotations

import keras
import pytest
from keras import layers

from r2keras._models.graph import TensorRef, calls_of, graph_of
from r2keras._models.neighbors import OUTPUT, nodes
from tests import nets

pytestmark = pytest.mark.backends


def attention():
    """A layer with two tensors and an option, operations, and inputs and outputs in dictionaries."""
    inputs = {"b": keras.Input((4, 2), name="b"), "a": keras.Input((4, 2), name="a")}
    x = layers.MultiHeadAttention(1, 2, name="mix")(inputs["a"], value=inputs["b"], use_causal_mask=True)
    y = keras.ops.concatenate((x, inputs["a"]), axis=-1)
    return keras.Model(inputs, {"z": layers.Dense(3, name="head")(y), "y": x})


def test_arguments_stay_in_their_structure():
    calls = {call.name: call for call in calls_of(attention()).calls}
    a, b = TensorRef("a", 0, 0, 3), TensorRef("b", 0, 0, 3)
    assert calls["mix"].args == (a,)
    assert calls["mix"].kwargs["value"] == b and calls["mix"].kwargs["use_causal_mask"] is True
    (join,) = [call for call in calls.values() if call.kind == "Concatenate"]
    assert join.layer is None
    assert join.inputs == [TensorRef("mix", 0, 0, 3), a]


class Pick(layers.Layer):
    """Takes tensors in a dictionary."""

    def call(self, inputs):
        return inputs["b"] - inputs["a"]


def test_dictionaries_stay_dictionaries():
    a, b = keras.Input((4, 2), name="a"), keras.Input((4, 2), name="b")
    model = keras.Model([a, b], Pick(name="pick")({"b": b, "a": a}))
    refs = {name: TensorRef(name, 0, 0, 3) for name in "ab"}
    pick = calls_of(model).calls[-1]
    assert pick.args == (refs,)
    assert pick.inputs == [refs["a"], refs["b"]]


def test_inputs_and_outputs_are_in_the_order_of_the_flattened_structures():
    model = attention()
    inside = calls_of(model)
    assert [ref.layer for ref in inside.inputs] == [tensor.name for tensor in model.inputs] == ["a", "b"]
    assert [ref.layer for ref in inside.outputs] == ["mix", "head"]
    assert [ref.rank for ref in inside.outputs] == [3, 3]


def test_a_nested_model_can_be_the_output():
    inner_input, inputs = keras.Input((3,)), keras.Input((3,), name="x")
    block = keras.Model(inner_input, layers.Dense(2, name="head")(inner_input), name="block")
    model = keras.Model(inputs, block(inputs))
    assert calls_of(model).outputs == (TensorRef("block", 0, 0, 2),)
    graph = graph_of(model)
    assert [graph.producer(tensor).path for tensor in graph.outputs] == ["block/head"]


class WithoutConfig(layers.Layer):
    """A layer that Keras cannot serialize."""

    def __init__(self, function):
        super().__init__(name="bare")
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


def test_the_calls_of_a_model_are_read_without_the_configs_of_its_layers():
    inputs = keras.Input((3,), name="x")
    model = keras.Model(inputs, layers.Dense(2, name="head")(WithoutConfig(lambda x: x)(inputs)))
    assert [call.name for call in calls_of(model).calls] == ["bare", "head"]


def test_every_call_runs_after_those_it_needs():
    for net in nets.KERNELS:
        inside = calls_of(net())
        known = {(ref.layer, ref.node) for ref in inside.inputs}
        order = list(inside.in_run_order())
        for call in order:
            assert {(ref.layer, ref.node) for ref in call.inputs} <= known
            known.add((call.name, call.node))
        assert set(order) == set(inside.calls)


def test_nested_models_are_opened_in_the_graph_and_single_calls_in_a_model():
    model = nets.nested()
    paths = [call.path for call in graph_of(model).calls]
    assert "block/core/dense" in paths and "block" not in paths
    assert "block" in [call.name for call in calls_of(model).calls]


def test_producers_and_consumers_are_each_others_inverse():
    graph = graph_of(nets.branched())
    for call in graph.calls:
        for tensor in call.inputs:
            assert call in graph.consumers(tensor)
            assert graph.producer(tensor).output[0] == tensor[0]
    first = graph.calls[0]
    assert graph.only_consumer(first) in (None, *graph.consumers(first.output))
    assert all(graph.only_consumer(graph.producer(tensor)) is None for tensor in graph.outputs)


def test_uses_are_the_calls_of_a_layer():
    graph = graph_of(nets.branched())
    assert [graph.uses(call) for call in graph.calls if call.path in ("shared", "left")] == [2, 2, 1]


def test_neighbors_count_every_use():
    found = nodes(nets.branched())
    assert found["shared"].uses == 2 and found["shared"].consumer is None
    ends = [node.path for node in found.values() if OUTPUT in node.consumers]
    assert ends == [ref.layer for ref in calls_of(nets.branched()).outputs]
