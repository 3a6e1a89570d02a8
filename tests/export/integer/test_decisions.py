"""Integer files of many kinds of nets, without data: nothing computes in float, and decisions are those of Keras."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from r2keras import QuantSpec, Recipe, calibrate
from r2keras.export import to_litert, verify
from r2keras.export.tflite.constant_values import kind_of
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.schema import FLOAT32
from tests.export.models import norm

RECIPE = Recipe([(".*", QuantSpec(num_bits=8, activation_bits=8))])
IMAGES = np.random.default_rng(0).normal(size=(128, 8, 8, 3)).astype("float32")
LINES = np.random.default_rng(1).normal(size=(128, 12, 4)).astype("float32")


def exported(build, data, tmp_path, measured=None):
    """Returns the model and the path of its integer file."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(data.shape[1:], name="in")
    model = keras.Model(inputs, layers.Dense(4, name="head")(layers.Flatten()(build(inputs))))
    small, record = calibrate(model, RECIPE, data, input_bits=8, output_bits=8, batch_norm="keep")
    to_litert(small, tmp_path / "m.tflite", record, activations="int8", data=measured)
    return small, tmp_path / "m.tflite"


def floats(path):
    """Returns the kinds of the operators that compute floats."""
    file = read(path)
    graph = file.subgraphs[0]
    kinds = [kind_of(file, op) for op in graph.operators if graph.tensors[op.outputs[0]].type == FLOAT32]
    return [kind for kind in kinds if kind != "DEQUANTIZE"]


def swish_and_gates(x):
    """The blocks of EfficientNet."""
    x = layers.Normalization(mean=[0.1, 0.2, -0.1], variance=[1.0, 2.0, 0.5])(layers.Rescaling(0.5, 0.1)(x))
    x = layers.Activation("swish")(norm()(layers.DepthwiseConv2D(3, depth_multiplier=2)(x)))
    gate = layers.Conv2D(3, 1, activation="swish")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return layers.multiply([x, layers.Conv2D(6, 1, activation="sigmoid")(gate)])


def functions(x):
    """Activation functions with an integer operator of their own, and scalars."""
    for name in ("gelu", "elu", "hard_swish", "leaky_relu", "hard_sigmoid"):
        x = layers.Conv2D(4, 1, activation=name)(x)
    x = layers.ReLU(4.0)(layers.Conv2D(4, 1)(x))
    slopes = layers.PReLU(shared_axes=[1, 2], alpha_initializer=keras.initializers.RandomUniform(-0.1, 0.4))
    return layers.average([slopes(layers.Conv2D(4, 1)(x)), x])


def bent(x):
    return ops.tanh(x) * x


def gated(x):
    return ops.relu(x) * ops.sigmoid(1.5 * x)


def own_functions(x):
    """Functions of the caller, in a convolution and alone; the slopes with which PReLU starts."""
    x = layers.Conv2D(4, 1, activation=bent)(x)
    x = layers.Activation(gated)(layers.Conv2D(4, 1)(x))
    return layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(4, 1)(x))


def sequences(x):
    """One-dimensional convolutions, a dense layer on sequences, a lone batch normalization."""
    x = norm()(layers.SeparableConv1D(8, 3, activation="relu")(x))
    x = layers.Dense(6, activation="tanh")(layers.Conv1D(6, 3, activation="relu")(x))
    x = layers.EinsumDense("abc,cde->abde", output_shape=(8, 2, 4), activation="gelu")(x)
    return layers.AveragePooling1D(2)(layers.Reshape((8, 8))(x))


def joined(x):
    """Branches of unlike ranges, joined twice, and read by others."""
    wide = keras.initializers.RandomNormal(stddev=3.0)
    far = layers.Conv2D(3, 1, kernel_initializer=wide)(x)
    x = layers.concatenate([layers.MaxPooling2D(3, 1, "same")(x), far, layers.SeparableConv2D(3, 3, padding="same")(x)])
    x = layers.concatenate([x, layers.Conv2D(4, 3, padding="same", activation="relu")(layers.ReLU()(norm()(x)))])
    return layers.AveragePooling2D(2)(layers.maximum([x, layers.Conv2D(13, 1)(x)]))


def unet(x):
    """A U-Net of two levels, one of each way up, with a sigmoid head."""
    first = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    second = layers.Conv2D(6, 3, padding="same", activation="relu")(layers.MaxPooling2D()(first))
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(layers.MaxPooling2D()(second))
    x = layers.ReLU()(norm()(layers.Conv2DTranspose(6, 3, strides=2, padding="same", name="up")(x)))
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(layers.concatenate([x, second]))
    x = layers.concatenate([layers.UpSampling2D(interpolation="bilinear")(x), first])
    return layers.Conv2D(1, 1, activation="sigmoid")(layers.Conv2D(4, 3, padding="same", activation="relu")(x))


def composed(x):
    """Functions of Keras without an integer operator, in a layer and alone."""
    for name in ("softplus", "selu", "celu", "softsign"):
        x = layers.Conv2D(4, 1, activation=name)(x)
    return layers.Activation("mish", name="bent")(layers.Conv2D(4, 1)(x))


def reduced(x):
    """Sums, magnitudes and roots, and an image of another size."""
    x = layers.Resizing(6, 10)(layers.Conv2D(4, 1)(x))
    y = ops.sqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) + 1.0)
    x = layers.Conv1DTranspose(3, 2, strides=2)(layers.Reshape((60, 4))(x * ops.rsqrt(y)))
    return ops.sum(ops.abs(x), axis=1)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(
    ("build", "data"),
    [
        *((build, IMAGES) for build in (swish_and_gates, functions, own_functions, joined, unet, composed, reduced)),
        (sequences, LINES),
    ],
)
def test_all_is_on_integers_and_decides_as_keras(build, data, tmp_path):
    model, path = exported(build, data, tmp_path)
    assert floats(path) == []
    found = verify(model, path, data)
    assert found.agreement >= 0.99 and found.steps < 2.1


def tiny(x):
    return layers.Conv2D(4, 3, activation="relu", kernel_initializer=keras.initializers.RandomNormal(stddev=1e-9))(x)


def dead(x):
    return layers.Conv2D(4, 3, activation="relu", bias_initializer=keras.initializers.Constant(-100.0), name="dead")(x)


@pytest.mark.filterwarnings("ignore:.*operators compute in float")
@pytest.mark.parametrize("build", [tiny, dead])
def test_ranges_near_zero(build, tmp_path):
    model, path = exported(build, IMAGES, tmp_path)
    assert floats(path) == (["CONV_2D"] if build is dead else [])
    assert verify(model, path, IMAGES).agreement == 1


def mixed(x):
    """Products of tensors, a mask, a comparison."""
    y = layers.EinsumDense("abec,cd->abed", output_shape=(8, 8, 3), name="einsum")(layers.Dense(3)(x))
    return ops.where(x > 0.1, layers.Conv2D(3, 1, activation="relu")(y), y) * ops.cast(x < 1.0, "float32")


@pytest.mark.filterwarnings("ignore:.*operators compute in float")
@pytest.mark.parametrize("layer", [layers.LayerNormalization, layers.RMSNormalization])
def test_data_leave_normalizations_float(layer, tmp_path):
    """8 bits hold neither the variance nor its root."""
    model, path = exported(lambda x: layer()(layers.Conv2D(8, 1)(x)), IMAGES, tmp_path, measured=IMAGES)
    assert "RSQRT" in floats(path)
    assert verify(model, path, IMAGES).steps < 3


def test_what_has_no_integer_form_is_named(tmp_path):
    with pytest.warns(UserWarning, match="SELECT_V2, it has no integer form"):
        model, path = exported(mixed, IMAGES, tmp_path, measured=IMAGES)
    assert verify(model, path, IMAGES).agreement >= 0.99
