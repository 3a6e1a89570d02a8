"""Files of models that were trained in other precisions than float32: they compute in float32, as the copies do."""

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras import QuantSpec, Recipe
from r2keras._models.policies import default_policy
from r2keras.export import to_litert, verify

RECIPE = Recipe([(".*", QuantSpec(num_bits=4))])
X = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")


def net(policy, dtype="float32"):
    with default_policy(policy):
        inner = keras.Sequential([keras.Input((6,)), layers.Dense(5, activation="relu", name="hidden")], name="inner")
        inputs = keras.Input((6,), dtype=dtype)
        return keras.Model(inputs, layers.Dense(3, name="head")(inner(inputs) * 0.5))


@pytest.mark.parametrize(("policy", "dtype"), [("mixed_float16", "float32"), ("bfloat16", "bfloat16")])
def test_a_finalized_model_and_its_file_agree(policy, dtype, tmp_path):
    path = tmp_path / "model.tflite"
    model, record = r2keras.finalize(r2keras.prepare(net(policy, dtype), RECIPE))
    to_litert(model, path, record)
    assert verify(model, path, X).passed(1e-6)


@pytest.mark.parametrize(("policy", "dtype"), [("mixed_bfloat16", "float32"), ("float64", "float64")])
def test_a_float_file_computes_in_float32(policy, dtype, tmp_path):
    path = tmp_path / "model.tflite"
    model = net(policy, dtype)
    to_litert(model, path)
    expected = keras.ops.convert_to_numpy(keras.ops.cast(model(X), "float32"))
    np.testing.assert_allclose(
        r2keras.export.LiteRTModel(path).predict(X), expected, atol=0.02 * np.abs(expected).max()
    )


def test_a_layer_that_stays_in_its_precision_is_named(tmp_path):
    class Half(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.part = layers.Dense(2, dtype="float16")

        def build(self, shape):
            self.part.build(shape)

        def call(self, x):
            return self.part(x)

    model = keras.Sequential([keras.Input((6,)), Half(name="half")])
    with pytest.raises(ValueError, match=r"the layer 'half', which computes in float16.*dtype='float32'"):
        to_litert(model, tmp_path / "model.tflite")
    assert not any(tmp_path.iterdir())
