"""The models that the tests of this folder export: many kinds of layers in few models, random statistics."""

import keras
import numpy as np
from keras import layers

# Inputs of `two_layers`.
IMAGES = np.random.default_rng(0).normal(size=(96, 8, 8, 3)).astype(np.float32)


def norm(**options) -> layers.BatchNormalization:
    """A batch normalization with gammas of either sign and statistics that are not the start values."""
    return layers.BatchNormalization(
        gamma_initializer=options.pop("gamma", keras.initializers.RandomNormal(0.0, 1.0)),
        beta_initializer="random_normal",
        moving_mean_initializer="random_normal",
        moving_variance_initializer=keras.initializers.RandomUniform(0.3, 2.0),
        **options,
    )


def tiny_gammas(shape, dtype=None):
    """Gammas of which some are zero, some nearly so, some negative."""
    pattern = np.array([1.0, 0.0, -0.7, 1e-6, -1e-20, 0.3], np.float32)
    return keras.ops.convert_to_tensor(np.resize(pattern, shape), dtype)


def conv_net() -> keras.Model:
    """Two-dimensional layers of every kind, folded or not, a nested model, a residual sum."""
    inputs = keras.Input((12, 12, 4), name="in")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = layers.ReLU()(norm()(x))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.ReLU(6.0)(norm()(x))
    x = norm()(layers.SeparableConv2D(12, 3, name="separable")(x))
    inner = keras.Input((8, 8, 12))
    block = keras.Model(inner, norm()(layers.Conv2D(12, 3, padding="same", name="conv")(inner)), name="block")
    x = layers.add([x, block(x)])
    x = norm(gamma=tiny_gammas)(layers.Conv2D(12, 3, groups=3, name="grouped")(x))
    x = norm()(layers.Conv2DTranspose(6, 3, strides=2, name="transpose")(x))
    x = norm()(layers.Conv2D(8, 3, dilation_rate=2, name="dilated")(x))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.ReLU()(norm()(layers.Dense(16, name="dense")(x)))
    return keras.Model(inputs, layers.Dense(5, name="head")(x), name="conv_net")


def sequence_net() -> keras.Model:
    """One-dimensional layers, an embedding, a projection; two inputs, two outputs."""
    tokens = keras.Input((16,), name="tokens")
    signal = keras.Input((16, 4), name="signal")
    x = layers.Embedding(40, 8, name="embedding")(tokens)
    x = layers.concatenate([x, signal])
    x = layers.ReLU()(norm()(layers.Conv1D(8, 3, name="conv")(x)))
    x = layers.DepthwiseConv1D(3, name="depthwise")(x)
    x = layers.SeparableConv1D(12, 3, name="separable")(x)
    x = layers.Conv1DTranspose(8, 3, name="transpose")(x)
    x = layers.EinsumDense("abc,cd->abd", output_shape=(None, 10), bias_axes="d", name="einsum")(x)
    x = layers.GlobalAveragePooling1D()(x)
    outputs = [layers.Dense(5, name="head")(x), layers.Dense(1, name="score")(x)]
    return keras.Model([tokens, signal], outputs, name="sequence_net")


def dense_net() -> keras.Model:
    """Two layers."""
    inputs = keras.Input((16,))
    x = layers.Dense(24, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, layers.Dense(4, name="head")(x), name="dense_net")


def shared_layer():
    """A convolution that is used twice."""
    inputs = keras.Input((8, 8, 4))
    conv = layers.Conv2D(4, 3, padding="same", name="shared")
    return keras.Model(
        inputs, layers.Flatten()(layers.add([norm()(conv(inputs)), norm()(conv(layers.ReLU()(inputs)))]))
    )


def equal_kernels():
    """Two layers with the same start kernel."""
    start = keras.initializers.Constant(np.random.default_rng(0).normal(size=(8, 8)))
    return keras.Sequential([keras.Input((8,)), *(layers.Dense(8, kernel_initializer=start) for _ in range(2))])


def small_net():
    """Returns a convolution with batch norm (gammas of either sign), one without, depthwise ones, a dense layer."""
    inputs = keras.Input((7, 7, 4))
    x = layers.ReLU()(norm()(layers.Conv2D(8, 3, name="conv", use_bias=False)(inputs)))
    x = layers.Conv2D(8, 1, name="plain")(x)
    x = norm()(layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x))
    x = layers.GlobalAveragePooling2D()(layers.SeparableConv2D(8, 3, name="separable")(x))
    return keras.Model(inputs, layers.Dense(8, name="head")(x), name="small_net")


def two_layers():
    """One convolution with a batch normalization, one dense layer."""
    net = [layers.Conv2D(6, 3, name="conv"), norm(name="norm"), layers.ReLU(name="relu"), layers.Flatten()]
    return keras.Sequential([keras.Input(IMAGES.shape[1:], name="in"), *net, layers.Dense(5, name="head")])


def random_inputs(model: keras.Model, count: int = 32) -> list[np.ndarray]:
    """Returns inputs, integers for those called `tokens`."""
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 40, (count, *t.shape[1:])).astype(np.float32)
        if t.name == "tokens"
        else rng.normal(size=(count, *t.shape[1:])).astype(np.float32)
        for t in model.inputs
    ]
