"""Models trained in other precisions than float32: training copies keep theirs, finalized ones compute in float32."""

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras import PaletteSpec, QuantSpec, Recipe
from r2keras._models.float32 import in_float32
from r2keras._models.keras_internals import parts_of
from r2keras._models.policies import default_policy
from r2keras._models.walk import view_of

pytestmark = pytest.mark.backends

RECIPE = Recipe([("head", PaletteSpec(num_bits=2, min_size=0)), (".*", QuantSpec(num_bits=4))])
X = np.random.default_rng(0).normal(size=(32, 5, 6)).astype("float32")


@keras.saving.register_keras_serializable(package="tests")
class Block(layers.Layer):
    """A layer whose part takes the global policy, as guides write it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.part = layers.Dense(6, name="part")

    def build(self, shape):
        self.part.build(shape)
        super().build(shape)

    def call(self, x):
        return keras.ops.relu(self.part(x))


def net(policy):
    with default_policy(policy):
        shared = keras.Sequential([keras.Input((5, 6)), Block(name="own"), layers.BatchNormalization()], name="inner")
        x = inputs = keras.Input((5, 6), dtype=keras.dtype_policies.get(policy).variable_dtype)
        x = shared(shared(x)) * 0.5
        x = layers.GlobalAveragePooling1D()(layers.Activation("tanh")(x))
        return keras.Model(inputs, layers.Dense(2, dtype="float32", name="head")(x))


def policies(model):
    parts = [part for _, layer in view_of(model).layers for part in parts_of(layer)]
    return {part.compute_dtype for part in parts if not isinstance(part, keras.layers.InputLayer)}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "float64"])
def test_finalized_models_compute_in_float32(policy):
    keras.utils.set_random_seed(1)
    model = net(policy)
    student = r2keras.prepare(model, RECIPE)
    assert keras.dtype_policies.get(policy).compute_dtype in policies(student)
    small, record = r2keras.finalize(student)
    assert policies(small) == {"float32"} == {x.dtype for x in small.inputs}
    kernels = {kernel.full_name: kernel.variable for kernel in view_of(small).kernels}
    assert kernels.keys() == record.tensors.keys()
    for name, tensor in record.tensors.items():
        assert np.array_equal(keras.ops.convert_to_numpy(kernels[name]), tensor.values())
    expected = keras.ops.convert_to_numpy(student(X))
    assert np.abs(keras.ops.convert_to_numpy(small(X)) - expected).max() < 0.03 * np.abs(expected).max()
    assert keras.config.dtype_policy().name == "float32"


def test_calibrated_models_compute_in_float32():
    model = net("mixed_bfloat16")
    small, record = r2keras.calibrate(model, RECIPE, X)
    assert policies(small) == {"float32"}
    assert len(record.tensors) == 2


def test_layers_inside_layers_are_copied_to_float32():
    with default_policy("mixed_bfloat16"):
        x = inputs = keras.Input((5, 6))
        x = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both")(x)
        x = layers.TimeDistributed(layers.Dense(4))(layers.MultiHeadAttention(2, 3)(x, x))
        x = layers.RNN(layers.StackedRNNCells([layers.GRUCell(3), layers.SimpleRNNCell(2)]))(x)
        model = keras.Model(inputs, layers.Lambda(lambda x: 2 * x)(x))
    copy = in_float32(view_of(model))
    assert policies(copy.model) == {"float32"}
    assert [(v.name, v.shape) for v in copy.model.weights] == [(v.name, v.shape) for v in model.weights]


def test_a_copy_for_training_scales_its_loss_as_the_model_did():
    with default_policy("mixed_float16"):
        model = keras.Sequential([keras.Input((6,)), layers.Dense(2, name="head")])
    model.compile("sgd", "mse")
    student = r2keras.prepare(model, Recipe([("head", QuantSpec(num_bits=4))]))
    kinds = [type(m.optimizer).__name__ for m in (model, student)]
    assert kinds == ["LossScaleOptimizer"] * 2


def test_a_model_in_float32_is_not_copied():
    view = view_of(net("float32"))
    assert in_float32(view) is view
