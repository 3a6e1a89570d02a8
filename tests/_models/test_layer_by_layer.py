"""Runs of a model layer by layer: the outputs of the model itself, every layer by its path, nothing changed."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from r2keras._models import layer_by_layer
from tests import nets

pytestmark = pytest.mark.backends


@pytest.mark.parametrize("make", nets.KERNELS, ids=lambda make: make.__name__)
def test_the_outputs_are_the_models(make):
    model = nets.shaken(make())
    x = nets.inputs_of(model)
    found, _ = layer_by_layer.run(model, x if isinstance(x, list) else [x])
    for ours, models in zip(nets.arrays(found), nets.arrays(model(x, training=False)), strict=True):
        np.testing.assert_array_equal(ours, models)


def test_every_call_has_the_path_of_its_layer():
    model = nets.nested()
    paths = []

    def call(path, layer, *args, **kwargs):
        paths.append(path)
        return layer(*args, **kwargs)

    layer_by_layer.run(model, [nets.inputs_of(model)], call)
    assert set(paths) == {"block/dense", "block/core/dense", "block/add", "dense"}


class Counting(layers.Layer):
    """Counts its calls, and adds a loss; noise in training, which is its default."""

    def build(self, input_shape):
        self.count = self.add_weight(name="count", shape=(), initializer="zeros", trainable=False)

    def call(self, inputs, training=True):
        self.count.assign_add(1.0)
        self.add_loss(ops.sum(inputs))
        return inputs + 100.0 if training else inputs


def test_a_model_does_not_change_and_runs_in_inference():
    counting = Counting(name="counting")
    model = keras.Sequential([keras.Input((3,)), counting])
    x, losses = np.ones((2, 3), "float32"), len(counting.losses)
    found, scope = layer_by_layer.run(model, [x])
    np.testing.assert_array_equal(nets.arrays(found)[0], x)
    assert float(ops.convert_to_numpy(scope.get_current_value(counting.count))) == 1.0
    assert nets.weights_of(model)[counting.count.path] == 0.0 and len(counting.losses) == losses


def test_inputs_have_the_types_of_the_model():
    inner = keras.Sequential([keras.Input((2,), dtype="float32"), layers.Dense(2, name="inner")], name="inner_model")
    inputs = keras.Input((2,), dtype="float16")
    model = keras.Model(inputs, inner(layers.ReLU(dtype="float16")(inputs)))
    x = np.random.default_rng(0).normal(size=(3, 2))
    (found,) = nets.arrays(layer_by_layer.run(model, [x])[0])
    np.testing.assert_array_equal(found, nets.arrays(model(x.astype("float16"), training=False))[0])


def test_masks_and_dictionaries_arrive():
    words, size = keras.Input((4,), dtype="int32", name="words"), keras.Input((3,), name="size")
    x = layers.LSTM(3, name="lstm")(layers.Embedding(9, 3, mask_zero=True, name="embed")(words))
    model = keras.Model({"words": words, "size": size}, {"sum": layers.Add(name="add")([x, size]), "state": x})
    batch = [np.ones((2, 3), "float32"), np.array([[1, 2, 0, 0], [3, 4, 5, 0]])]
    found, _ = layer_by_layer.run(model, batch)
    expected = model({"words": batch[1], "size": batch[0]}, training=False)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(ops.convert_to_numpy(found[name]), ops.convert_to_numpy(tensor))
