"""A small tf_keras net with every pattern that a scheme has to handle, its Keras 3 twin, and a recipe."""

import keras
import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras

from r2keras import QuantSpec, Recipe
from r2keras.tfmot import LowBitScheme, annotate

RNG = np.random.default_rng(3)
X = RNG.normal(size=(16, 6, 6, 2)).astype("float32")
Y = np.arange(16) % 3
WIDE = QuantSpec(num_bits=8, activation_bits=8, range="min_max")
SMALL = QuantSpec(num_bits=2, activation_bits=4, range="min_max")
RECIPE = Recipe([("stem|head", WIDE), ("dw", QuantSpec(num_bits=4, method="lsq", activation_bits=8)), (".*", SMALL)])
apply = tfmot.quantization.keras.quantize_apply


def net(framework=tf_keras):
    """Convolution, batch norm and ReLU; depthwise with an Activation; a residual sum; dense layers."""
    layers = framework.layers
    inputs = x = layers.Input((6, 6, 2), name="image")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem")(x)
    shortcut = x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    x = layers.DepthwiseConv2D(3, padding="same", name="dw")(x)
    x = layers.Activation("relu", name="dw_relu")(layers.BatchNormalization(name="dw_bn")(x))
    x = layers.BatchNormalization(name="pw_bn")(layers.Conv2D(4, 1, name="pw")(x))
    x = layers.ReLU(name="add_relu")(layers.Add(name="add")([x, shortcut]))
    x = layers.Dense(5, "relu", name="hidden")(layers.GlobalAveragePooling2D(name="mean")(x))
    return framework.Model(inputs, layers.Dense(3, name="head")(x), name="net")


def tiny():
    """One convolution with its batch norm and ReLU, and a dense layer."""
    layers = tf_keras.layers
    inputs = layers.Input((6, 6, 2), name="image")
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3, use_bias=False, name="conv")(inputs))
    x = layers.GlobalAveragePooling2D(name="mean")(layers.ReLU(name="relu")(x))
    return tf_keras.Model(inputs, layers.Dense(3, name="head")(x), name="tiny")


def keras3_net():
    """The twin of Keras 3."""
    return net(keras)


def applied(model=None, recipe=RECIPE, **options):
    """A model ready for training."""
    return apply(annotate(model or net(), recipe), scheme=LowBitScheme(recipe, **options))


def trained(model=None, recipe=RECIPE, x=X, y=Y, **options):
    """A model after an epoch."""
    qat = applied(model, recipe, **options)
    # A net this small is trained sooner than traced.
    qat.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    qat.fit(x, y, batch_size=8, verbose=0)
    return qat


def outputs(model, x=X):
    """The outputs in inference, without tracing a graph."""
    return model(x, training=False).numpy()


def configs(model):
    """The quantize configs of a model's wrappers by the inner layers' names."""
    return {layer.layer.name: layer.quantize_config for layer in model.layers if hasattr(layer, "quantize_config")}
