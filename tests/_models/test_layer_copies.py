"""Copies of single layers: the caller's own functions, names, freezing, and configs that create no layer."""

import functools
import inspect
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import r2keras
from r2keras import QuantSpec, Recipe
from r2keras._models import layer_copies, rebuild
from tests import nets, own_layers

pytestmark = pytest.mark.backends
FOUR = Recipe([(".*", QuantSpec(num_bits=4))])


def scaled(factor):
    def function(x):
        return factor * x

    return function


def relu(x):
    """A function with the name of one of Keras."""
    return -ops.abs(x)


class Activated(layers.Layer):
    """A layer that serializes a function in its own way."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function, self.dense = function, layers.Dense(4)

    def call(self, x):
        return self.function(self.dense(x))

    def get_config(self):
        return {**super().get_config(), "function": keras.saving.serialize_keras_object(self.function)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "function": keras.saving.deserialize_keras_object(config["function"])})


FUNCTIONS = {
    "lambda": lambda: [layers.Dense(4, activation=lambda x: 3 * x)],
    "two of one name": lambda: [layers.Dense(4, activation=scaled(2.0)), layers.Dense(4, activation=scaled(-3.0))],
    "in one layer": lambda: [
        layers.Reshape((2, 3)),
        layers.LSTM(4, activation=scaled(0.5), recurrent_activation=scaled(0.1)),
    ],
    "inside another": lambda: [
        layers.Reshape((2, 3)),
        layers.TimeDistributed(layers.Dense(4, activation=lambda x: -x)),
        layers.Flatten(),
    ],
    "name of Keras": lambda: [layers.Dense(4, activation=relu)],
    "own serialization": lambda: [Activated(lambda x: 2 * x)],
    "initializer": lambda: [layers.Dense(4, kernel_initializer=lambda shape, dtype=None: ops.ones(shape, dtype))],
}


@pytest.mark.filterwarnings("ignore:.*includes a `lambda`")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_callers_functions_are_those_of_the_copy(name):
    model = nets.shaken(keras.Sequential([keras.Input((6,)), *FUNCTIONS[name]()]))
    x = nets.inputs_of(model)
    copy = rebuild.rebuild(rebuild.rebuild(model))
    np.testing.assert_array_equal(nets.arrays(copy(x))[0], nets.arrays(model(x))[0])


@pytest.mark.filterwarnings("ignore:.*includes a `lambda`")
def test_a_model_with_a_lambda_as_activation_is_compressed_and_regularized():
    model = nets.shaken(keras.Sequential([keras.Input((6,)), layers.Dense(4, activation=lambda x: 3 * x)]))
    x = nets.inputs_of(model)
    student = r2keras.prepare(model, FOUR)
    small, _ = r2keras.finalize(student)
    np.testing.assert_allclose(nets.arrays(small(x))[0], nets.arrays(student(x))[0], rtol=1e-5)
    regularized = r2keras.regularize(model, "l2")
    np.testing.assert_array_equal(nets.arrays(regularized(x))[0], nets.arrays(model(x))[0])


def test_no_function_stays_registered():
    before = dict(keras.saving.get_custom_objects())
    layer_copies.copy_layer(layers.Dense(4, activation=scaled(2.0)))
    assert keras.saving.get_custom_objects() == before


def test_a_layer_without_a_config_of_its_own_keeps_name_type_and_freezing():
    layer = own_layers.Bare(3)
    layer.name, layer.trainable, layer.dtype_policy = "bare", False, "mixed_bfloat16"
    copy = layer_copies.copy_layer(layer)
    assert (copy.name, copy.trainable, copy.units, copy.dtype_policy.name) == ("bare", False, 3, "mixed_bfloat16")


class Options(layers.Layer):
    """A layer whose name Keras' own config leaves out."""

    def __init__(self, units=4, **options):
        super().__init__(**options)
        self.dense = layers.Dense(units, name=f"{self.name}_dense")

    def call(self, x):
        return self.dense(x)


def test_a_name_that_the_config_leaves_out_stays(tmp_path):
    model = keras.Sequential([keras.Input((6,)), Options(name="own")])
    student = r2keras.prepare(model, FOUR)
    _, record = r2keras.finalize(student)
    assert list(record.tensors) == ["own/own_dense/kernel"]
    student.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras", custom_objects={"Options": Options})
    assert list(r2keras.finalize(loaded)[1].tensors) == ["own/own_dense/kernel"]


class Unserializable(layers.Layer):
    """A layer with an argument that Keras cannot write down, and no config of its own."""

    def __init__(self, helper, **kwargs):
        super().__init__(**kwargs)
        self.helper = helper

    def build(self, input_shape):
        self.mixing = self.add_weight(name="mixing", shape=(input_shape[-1], 4))

    def call(self, x):
        return ops.matmul(x, self.mixing)


class Misspelt(Unserializable):
    """A config with an entry that the constructor does not know."""

    def get_config(self):
        return {**layers.Layer.get_config(self), "helpers": 3}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: Unserializable(object(), name="odd"),
            r"'odd' \(Unserializable\), whose get_config\(\) raises.*Give Un",
        ),
        (
            lambda: Misspelt(object(), name="odd"),
            r"'odd' \(Misspelt\), whose from_config.*raises TypeError.*get_config",
        ),
        (
            lambda: layers.Dense(4, activation=functools.partial(ops.relu), name="odd"),
            r"'odd' \(Dense\), whose get_config\(\) raises TypeError.*as a def",
        ),
    ],
)
def test_a_layer_that_its_config_does_not_create_is_refused_by_name(make, match):
    with pytest.raises(ValueError, match=match):
        r2keras.prepare(keras.Sequential([keras.Input((6,)), make()]), FOUR)


def test_copies_deeper_than_the_recursion_limit():
    """Keras can build this model within the limit, and not its copy with a layer behind each other one."""
    x = inputs = keras.Input((2,))
    for number in range(150):
        x = layers.Dense(2, name=f"dense{number}")(x)
    model, limit = keras.Model(inputs, x), sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack(0)) + 280)
        copy = rebuild.rebuild(model, append=lambda path, name: layers.ReLU(name=f"{name}_relu"))
        assert len(copy.layers) == 2 * len(model.layers)
    finally:
        sys.setrecursionlimit(limit)
