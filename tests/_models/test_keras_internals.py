"""The private attributes of Keras that r2keras depends on: each test names the one that a new Keras release broke."""

import re
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras._models import keras_internals

pytestmark = pytest.mark.backends


def test_parts_of_lists_a_layer_and_the_layers_inside_it():
    layer = layers.Bidirectional(layers.LSTM(2))
    layer.build((None, 3, 4))
    parts = keras_internals.parts_of(layer)
    assert parts[0] is layer
    assert {"LSTM", "LSTMCell"} <= {type(part).__name__ for part in parts}
    assert sum(isinstance(part, layers.LSTMCell) for part in parts) == 2


def test_children_are_the_layers_directly_inside_a_layer():
    layer = layers.Bidirectional(layers.LSTM(2, name="lstm"))
    assert [part.name for part in keras_internals.children_of(layer)] == ["forward_lstm", "backward_lstm"]


def test_methods_of_keras_are_told_from_those_of_a_class():
    assert keras_internals.is_default(layers.Layer().build)
    assert not keras_internals.is_default(layers.Dense(2).build)


def test_call_arguments_are_those_of_every_symbolic_call():
    layer, x = layers.Dense(2), keras.Input((2,))
    layer(layer(x))
    assert len(keras_internals.call_arguments(layer)) == 2
    assert keras_internals.call_arguments(layer)[0] is x


def test_clear_losses_deletes_the_losses_of_the_last_call():
    layer = layers.ActivityRegularization(l2=0.5)
    layer(np.ones((1, 2), "float32"))
    assert len(layer.losses) == 1
    keras_internals.clear_losses(layer)
    assert layer.losses == []


def test_compile_settings_are_the_objects_that_compile_received():
    model, loss = keras.Sequential([keras.Input((2,)), layers.Dense(1)]), keras.losses.LogCosh()
    model.compile(optimizer="sgd", loss=loss)
    assert keras_internals.compile_settings(model)["loss"] is loss


def test_lambda_output_shape_is_the_argument_of_the_layer():
    assert keras_internals.lambda_output_shape(layers.Lambda(lambda x: x, output_shape=(3,))) == (3,)
    assert keras_internals.lambda_output_shape(layers.Lambda(lambda x: x)) is None


def test_run_through_graph_calls_every_layer_on_the_given_tensors():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.ReLU(name="second")(layers.Dense(3, name="first")(inputs)))
    calls = []

    def call(layer, *args, **kwargs):
        calls.append(layer.name)
        return layer(*args, **kwargs)

    outputs = keras_internals.run_through_graph(model, [np.ones((5, 2), "float32")], call)
    assert calls == ["first", "second"]
    assert keras.tree.flatten(outputs)[0].shape == (5, 3)


def test_run_through_graph_releases_tensors_after_their_last_use():
    inputs = keras.Input((2,))
    x = layers.ReLU(name="one")(inputs)
    model = keras.Model(inputs, [layers.ReLU(name=f"{n}")(layers.ReLU()(x)) for n in ("left", "right")])
    made, alive = [], []

    class Value:
        """The result of a layer."""

    def call(layer, *args, **kwargs):
        alive.append(sum(value() is not None for value in made))
        value = Value()
        made.append(weakref.ref(value))
        return value

    outputs = keras_internals.run_through_graph(model, [Value()], call)
    assert len(made) == 5 and len(outputs) == 2 and max(alive) == 2


def test_own_nodes_are_the_calls_of_one_model_and_history_names_their_tensors():
    shared, inputs, other = layers.ReLU(name="shared"), keras.Input((2,), name="x"), keras.Input((2,))
    keras.Model(other, shared(other))
    model = keras.Model(inputs, shared(shared(inputs)))
    nodes = keras_internals.own_nodes(model)
    assert [(operation.name, node.is_input) for operation, node in nodes] == [
        ("x", True),
        ("shared", False),
        ("shared", False),
    ]
    assert nodes[1][1].arguments.args == (model.inputs[0],) and nodes[1][1].arguments.kwargs == {}
    operation, node, index = keras_internals.history(model.outputs[0])
    assert operation is shared and node is nodes[2][1] and index == 0


def test_variable_index_is_the_position_in_the_list_the_optimizer_was_built_with():
    model, optimizer = keras.Sequential([keras.Input((2,)), layers.Dense(1)]), keras.optimizers.SGD()
    optimizer.build(model.trainable_variables)
    assert [keras_internals.variable_index(optimizer, v) for v in model.trainable_variables] == [0, 1]


def test_regularizer_table_is_where_keras_looks_strings_up():
    table = keras_internals.regularizer_table()
    assert table["L2"] is keras.regularizers.L2
    table["MineAlone"] = keras.regularizers.L1
    try:
        assert type(keras.regularizers.get("MineAlone")) is keras.regularizers.L1
    finally:
        del table["MineAlone"]


def test_no_other_file_takes_these_attributes():
    own = Path(keras_internals.__file__)
    names = set(re.findall(r"\w\.(_[a-z]\w+)", own.read_text(encoding="utf-8")))
    assert "_flatten_layers" in names
    others = [
        path for path in Path(r2keras.__file__).parent.rglob("*.py") if path != own and "tf_keras" not in path.stem
    ]
    texts = {path.name: path.read_text(encoding="utf-8") for path in others if "tfmot" not in path.parts}
    used = {name: file for file, text in texts.items() for name in names if re.search(rf"\.{name}\b", text)}
    assert used == {}
