"""Building blocks of the nets. Every kernel gets a new regularizer from the factory."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers

Factory = Callable[[], keras.regularizers.Regularizer]
# PyTorch's default for batch norm, which the weights of ResNet-20 were trained with.
PYTORCH_EPSILON = 1e-5
# Keras' default of 0.99 needs hundreds of steps to forget the initial statistics, more than small data sets have.
MOMENTUM = 0.9


def new_regularizer(factory: Factory | None) -> keras.regularizers.Regularizer | None:
    """Returns a new regularizer from the factory, or None without one."""
    return None if factory is None else factory()


def conv(x, filters, name, factory, *, size=3, stride=1, use_bias=False, padding="same"):
    """Adds a convolution."""
    return layers.Conv2D(
        filters,
        size,
        stride,
        padding,
        use_bias=use_bias,
        kernel_initializer="he_normal",
        kernel_regularizer=new_regularizer(factory),
        name=name,
    )(x)


def conv_bn_relu(x, filters, name, factory, *, epsilon=1e-3, **options):
    """Adds a convolution, batch norm and ReLU."""
    x = conv(x, filters, name, factory, **options)
    x = layers.BatchNormalization(momentum=MOMENTUM, epsilon=epsilon, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def depthwise_bn_relu(x, name, factory, stride):
    """Adds a 3x3 depthwise convolution, batch norm and ReLU."""
    x = layers.DepthwiseConv2D(
        3,
        stride,
        "same",
        use_bias=False,
        depthwise_initializer="he_normal",
        depthwise_regularizer=new_regularizer(factory),
        name=name,
    )(x)
    x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def option_a_block(x, filters, stride, name, factory):
    """Adds a residual block: two 3x3 convolutions and a shortcut without parameters."""
    shortcut = x
    padding = "same"
    if stride > 1:
        channels_per_side = (filters - x.shape[-1]) // 2
        # A 1x1 pool is the subsampling x[:, ::2, ::2] as a layer.
        shortcut = layers.MaxPooling2D(1, stride, name=f"{name}_subsample")(x)
        shortcut = keras.ops.pad(shortcut, [[0, 0], [0, 0], [0, 0], [channels_per_side, channels_per_side]])
        # Pads like PyTorch: one pixel on every side.
        x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
        padding = "valid"
    x = conv_bn_relu(x, filters, f"{name}_conv1", factory, stride=stride, padding=padding, epsilon=PYTORCH_EPSILON)
    x = conv(x, filters, f"{name}_conv2", factory)
    x = layers.BatchNormalization(momentum=MOMENTUM, epsilon=PYTORCH_EPSILON, name=f"{name}_conv2_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([shortcut, x]))


def with_head(inputs, x, num_classes, factory, name):
    """Adds global average pooling and the dense layer of logits, and returns the model."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(num_classes, kernel_regularizer=new_regularizer(factory), name="head")(x)
    return keras.Model(inputs, outputs, name=name)
