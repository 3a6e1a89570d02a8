"""Small trained-looking nets, and NumPy helpers, for the tests of post-training quantization."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers


def spiced(model: keras.Model, seed: int = 0) -> keras.Model:
    """Gives every weight a value that is neither 0 nor 1, as training would."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            spiced(layer, seed + 1)
        elif isinstance(layer, layers.BatchNormalization):
            layer.set_weights([_statistic(w, random) for w in layer.weights])
        else:
            layer.set_weights([random.normal(0.05, 0.4, w.shape).astype("float32") for w in layer.weights])
    return model


def _statistic(weight, random) -> np.ndarray:
    if weight.name == "moving_variance" or weight.name == "gamma":
        return random.uniform(0.3, 2.0, weight.shape).astype("float32")
    return random.normal(0.0, 0.5, weight.shape).astype("float32")


def branched() -> keras.Model:
    """A Functional net with every kind of layer that folds, a residual sum, and one batch norm that cannot fold."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = short = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_norm")(x))
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")(x)
    x = layers.ReLU(name="depthwise_relu")(layers.BatchNormalization(name="depthwise_norm", scale=False)(x))
    x = layers.Conv2D(6, 1, groups=2, name="project")(x)
    x = layers.BatchNormalization(name="project_norm", center=False)(x)
    x = layers.add([x, short], name="sum")
    x = layers.BatchNormalization(name="late_norm")(x)
    x = layers.SeparableConv2D(5, 3, name="separable")(x)
    x = layers.BatchNormalization(name="separable_norm")(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, name="up")(x)
    x = layers.ReLU(name="up_relu")(layers.BatchNormalization(name="up_norm")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return spiced(keras.Model(inputs, layers.Dense(4, name="head")(x), name="branched"))


def nested() -> keras.Model:
    """A Functional net with a Sequential and a Functional net inside."""
    inner = keras.Sequential(
        [keras.Input((6, 4)), layers.Conv1D(5, 3, name="conv"), layers.BatchNormalization(name="norm"), layers.ReLU()],
        name="inner",
    )
    entry = keras.Input((4, 5))
    x = layers.BatchNormalization(name="norm")(layers.Dense(3, name="dense")(entry))
    block = keras.Model(entry, x, name="block")
    inputs = keras.Input((6, 4))
    outputs = layers.Dense(2, name="head")(layers.Flatten()(block(inner(inputs))))
    return spiced(keras.Model(inputs, outputs, name="outer"))


def chain(activation: str = "relu", *, bias: bool = True) -> keras.Model:
    """conv -> depthwise -> conv -> pool -> dense -> dense, without batch normalization."""
    return spiced(
        keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.Conv2D(6, 3, activation=activation, use_bias=bias, name="first"),
                layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="depthwise"),
                layers.LeakyReLU(name="leaky"),
                layers.Conv2D(5, 1, name="second"),
                layers.ReLU(name="relu"),
                layers.GlobalAveragePooling2D(name="pool"),
                layers.Dense(7, activation=activation, name="hidden"),
                layers.Dense(3, activation="softmax", name="head"),
            ],
            name="chain",
        )
    )


def images(count: int = 16, shape: tuple[int, ...] = (8, 8, 3), seed: int = 1) -> np.ndarray:
    """Unlabelled inputs."""
    return np.random.default_rng(seed).normal(0.3, 1.0, (count, *shape)).astype("float32")


def outputs_of(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    """The outputs of a model in inference."""
    return np.asarray(keras.ops.convert_to_numpy(model(inputs, training=False)))


def mean_square(model: keras.Model, other: keras.Model, inputs: np.ndarray) -> float:
    """The mean squared difference of two models' outputs."""
    return float(np.mean((outputs_of(model, inputs) - outputs_of(other, inputs)) ** 2))
