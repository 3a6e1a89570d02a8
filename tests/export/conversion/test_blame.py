"""Messages of failed conversions name the layer that has to be replaced."""

import keras
import pytest
from keras import layers

from r2keras.export import to_litert


def enlarging(interpolation):
    inputs = keras.Input((None, None, 3))
    x = layers.ReLU()(layers.UpSampling2D(2, interpolation=interpolation, name="up")(layers.Conv2D(4, 3)(inputs)))
    return keras.Model(inputs, layers.Conv2D(2, 3, name="last")(x))


def inverting():
    inverse = layers.Lambda(lambda x: keras.ops.erfinv(0.1 * x), name="inverse")
    block = keras.Sequential([keras.Input((3,)), layers.Dense(2), inverse], name="block")
    return keras.Sequential([keras.Input((3,)), block, layers.Dense(2)])


CASES = [
    (
        lambda: enlarging("nearest"),
        "loses the number of channels in the layer 'up'. Give the model's inputs fixed",
    ),
    (lambda: enlarging("bilinear"), "Replace the layer 'up'"),
    (inverting, "LiteRT does not have Erfinv.*Replace the layer 'block/inverse'"),
]


@pytest.mark.parametrize(("make", "text"), CASES)
def test_the_layer_of_the_operation_is_named(make, text, tmp_path):
    with pytest.raises(RuntimeError, match=text):
        to_litert(make(), tmp_path / "model.tflite")
    assert not any(tmp_path.iterdir())
