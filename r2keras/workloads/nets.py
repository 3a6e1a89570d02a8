"""Small nets for examples and benchmarks in plain Keras, with layers named `stem`, `block<n>_...` and `head`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import layers

from r2keras._util.errors import invalid, invalid_choice
from r2keras.workloads._blocks import (
    MOMENTUM,
    PYTORCH_EPSILON,
    Factory,
    conv,
    conv_bn_relu,
    depthwise_bn_relu,
    new_regularizer,
    option_a_block,
    with_head,
)
from r2keras.workloads.data import read_npz


def build(
    name: str, input_shape: tuple[int, ...], num_classes: int, kernel_regularizer: Factory | None = None
) -> keras.Model:
    """Builds a net by name.

    Args:
        name: a key of `NETS`.
        input_shape: `(height, width, channels)`.
        num_classes: number of logits.
        kernel_regularizer: called once per kernel for a new regularizer; None for no regularizers.

    Returns:
        A functional model from images to logits.

    Raises:
        ValueError: an unknown name.

    Example:

    >>> build("cnn", (8, 8, 1), 10).count_params()
    24282
    """
    if name not in NETS:
        raise ValueError(invalid_choice("name", NETS, name))
    return NETS[name](input_shape, num_classes, kernel_regularizer)


def cnn(input_shape: tuple[int, ...], num_classes: int, kernel_regularizer: Factory | None = None) -> keras.Model:
    """Three 3x3 convolutions with batch norm, then a dense layer: about 24,000 weights, for images from 8x8 up.

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: number of logits.
        kernel_regularizer: called once per kernel for a new regularizer; None for no regularizers.

    Returns:
        A functional model: `stem`, `block1_conv`, `block2_conv`, `head`.
    """
    return _plain_cnn(input_shape, num_classes, kernel_regularizer, (16, 32, 64), "cnn")


def tapered_cnn(
    input_shape: tuple[int, ...], num_classes: int, kernel_regularizer: Factory | None = None
) -> keras.Model:
    """`cnn` with few filters first and many last: about 40,000 weights.

    Coarse grids cost the few filters in front the most, and the many weights behind make the file.

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: number of logits.
        kernel_regularizer: called once per kernel for a new regularizer; None for no regularizers.

    Returns:
        A functional model: `stem`, `block1_conv`, `block2_conv`, `head`.
    """
    return _plain_cnn(input_shape, num_classes, kernel_regularizer, (8, 32, 128), "tapered_cnn")


def _plain_cnn(input_shape, num_classes, kernel_regularizer, filters, name):
    """Builds the convolutions of `cnn` and `tapered_cnn`; `filters` has one entry per convolution."""
    inputs = keras.Input(input_shape, name="image")
    x = conv_bn_relu(inputs, filters[0], "stem", kernel_regularizer)
    for block, count in enumerate(filters[1:], 1):
        x = conv_bn_relu(x, count, f"block{block}_conv", kernel_regularizer, stride=2)
    return with_head(inputs, x, num_classes, kernel_regularizer, name)


def resnet8(input_shape: tuple[int, ...], num_classes: int, kernel_regularizer: Factory | None = None) -> keras.Model:
    """MLPerf Tiny's image classification net: 78,666 parameters for CIFAR-10; ends in logits instead of softmax.

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: number of logits.
        kernel_regularizer: called once per kernel for a new regularizer; None for no regularizers.

    Returns:
        A functional model: `stem`, `block1_conv1` to `block3_conv2`, `block2_shortcut`, `block3_shortcut`, `head`.

    Source: Banbury et al., arXiv 2106.07597, section 3.
    """
    inputs = x = keras.Input(input_shape, name="image")
    x = conv_bn_relu(x, 16, "stem", kernel_regularizer, use_bias=True)
    for block, (filters, stride) in enumerate(((16, 1), (32, 2), (64, 2)), 1):
        name, shortcut = f"block{block}", x
        x = conv_bn_relu(x, filters, f"{name}_conv1", kernel_regularizer, stride=stride, use_bias=True)
        x = conv(x, filters, f"{name}_conv2", kernel_regularizer, use_bias=True)
        x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_conv2_norm")(x)
        if stride > 1:
            options = {"size": 1, "stride": stride, "use_bias": True}
            shortcut = conv(shortcut, filters, f"{name}_shortcut", kernel_regularizer, **options)
        x = layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([shortcut, x]))
    return with_head(inputs, x, num_classes, kernel_regularizer, "resnet8")


def resnet20(input_shape: tuple[int, ...], num_classes: int, kernel_regularizer: Factory | None = None) -> keras.Model:
    """CIFAR-10's ResNet-20 with parameter-free shortcuts (option A): 269,722 trainable parameters.

    A strided shortcut takes every second pixel and pads the channels with equally many zeros on both sides. Strided
    convolutions pad one pixel on every side, as PyTorch does, so that its weights can be loaded (`load_resnet20`).

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: number of logits.
        kernel_regularizer: called once per kernel for a new regularizer; None for no regularizers.

    Returns:
        A functional model: `stem`, `block1_conv1` to `block9_conv2`, `head`.

    Source: He et al., arXiv 1512.03385, section 4.2.
    """
    inputs = x = keras.Input(input_shape, name="image")
    x = conv_bn_relu(x, 16, "stem", kernel_regularizer, epsilon=PYTORCH_EPSILON)
    for block in range(1, 10):
        filters, stride = 16 * 2 ** ((block - 1) // 3), 2 if block in (4, 7) else 1
        x = option_a_block(x, filters, stride, f"block{block}", kernel_regularizer)
    return with_head(inputs, x, num_classes, kernel_regularizer, "resnet20")


def mobilenet_v1(
    input_shape: tuple[int, ...], num_classes: int, kernel_regularizer: Factory | None = None
) -> keras.Model:
    """MobileNetV1 at width 0.25: 13 depthwise separable blocks, 218,000 weights; no stride in the stem below 64 pixels.

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: number of logits.
        kernel_regularizer: called once per kernel for a new regularizer; None for no regularizers.

    Returns:
        A functional model: `stem`, `block1_depthwise`, `block1_pointwise` to `block13_pointwise`, `head`.

    Source: Howard et al., arXiv 1704.04861, table 1.
    """
    inputs = x = keras.Input(input_shape, name="image")
    x = conv_bn_relu(x, 8, "stem", kernel_regularizer, stride=2 if input_shape[0] >= 64 else 1)
    plan = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1))
    for block, (filters, stride) in enumerate(plan, 1):
        x = depthwise_bn_relu(x, f"block{block}_depthwise", kernel_regularizer, stride)
        x = conv_bn_relu(x, filters, f"block{block}_pointwise", kernel_regularizer, size=1)
    return with_head(inputs, x, num_classes, kernel_regularizer, "mobilenet_v1")


def mobilenet_v2_035(
    input_shape: tuple[int, ...], num_classes: int, kernel_regularizer: Factory | None = None
) -> keras.Model:
    """`keras.applications.MobileNetV2` at width 0.35 without weights, with the layer names of the other nets.

    Args:
        input_shape: `(height, width, channels)`, at least 32x32.
        num_classes: number of logits.
        kernel_regularizer: called once per kernel for a new regularizer; None for no regularizers.

    Returns:
        A functional model: `stem`, `block0_depthwise`, `block0_project`, `block1_expand` to `block16_project`,
        `last_conv`, `head`.

    Source: Sandler et al., arXiv 1801.04381, table 2.
    """
    model = keras.applications.MobileNetV2(
        input_shape, alpha=0.35, weights=None, classes=num_classes, classifier_activation=None, name="mobilenet_v2_035"
    )
    return keras.models.clone_model(model, clone_function=lambda layer: _renamed(layer, kernel_regularizer))


NETS: dict[str, Callable[..., keras.Model]] = {
    "cnn": cnn,
    "tapered_cnn": tapered_cnn,
    "resnet8": resnet8,
    "resnet20": resnet20,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2_035": mobilenet_v2_035,
}


def load_resnet20(path: str | os.PathLike) -> keras.Model:
    """Builds `resnet20` for CIFAR-10 with the weights of akamaster/pytorch_resnet_cifar10.

    Args:
        path: an `.npz` whose arrays have the names of the state dict, such as `resnet20_cifar10_pytorch.npz`.

    Returns:
        The model; it expects images scaled as by `data.load("cifar10")`.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is truncated, corrupt, or has other arrays.
    """
    model = resnet20((32, 32, 3), 10)
    sources = {"stem": "conv1", "stem_norm": "bn1", "head": "linear"}
    for block in range(9):
        for number in (1, 2):
            name = f"block{block + 1}_conv{number}"
            sources[name] = f"layer{block // 3 + 1}.{block % 3}.conv{number}"
            sources[f"{name}_norm"] = f"layer{block // 3 + 1}.{block % 3}.bn{number}"
    array_names = {layer: _pytorch_names(layer, source) for layer, source in sources.items()}
    arrays = read_npz(path, {name: None for names in array_names.values() for name in names})
    for layer, names in array_names.items():
        _set_weights(path, model.get_layer(layer), [_keras_layout(arrays[name]) for name in names])
    return model


def load_mlperf(path: str | os.PathLike) -> keras.Model:
    """Loads one of MLPerf Tiny's Keras `.h5` models, uncompiled.

    Args:
        path: the file, for example `ic_resnet8.h5` or `kws_dscnn.h5`.

    Returns:
        The model, with its weights.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: another suffix, or a file that Keras cannot read.
    """
    path = Path(path)
    if path.suffix not in (".h5", ".keras"):
        raise ValueError(invalid("path", "a file name ending in .h5 or .keras", str(path)))
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Put the file there, or correct the path.")
    try:
        return _with_single_input(keras.models.load_model(path, compile=False))
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"{path} is not a model that Keras can load ({reason}). Copy it again.") from error


def _with_single_input(model: keras.Model) -> keras.Model:
    """Returns a model with a single input that is not in a list.

    Models from old files have a list of one input, which Keras warns about at every call.
    """
    if not isinstance(model.input, list) or len(model.inputs) > 1:
        return model
    outputs = model.outputs if len(model.outputs) > 1 else model.outputs[0]
    return keras.Model(model.inputs[0], outputs, name=model.name)


def _renamed(layer: layers.Layer, factory: Factory | None) -> layers.Layer:
    """Copies a layer of Keras' MobileNetV2 with this module's name for it and a new regularizer."""
    config = layer.get_config()
    outer_layers = {
        "Conv1": "stem",
        "bn_Conv1": "stem_norm",
        "Conv1_relu": "stem_relu",
        "predictions": "head",
        "Conv_1": "last_conv",
        "Conv_1_bn": "last_conv_norm",
        "out_relu": "last_conv_relu",
    }
    name = outer_layers.get(layer.name, layer.name.replace("expanded_conv", "block0").replace("block_", "block"))
    config["name"] = name.replace("_BN", "_norm")
    for key in ("kernel_regularizer", "depthwise_regularizer"):
        if key in config:
            config[key] = new_regularizer(factory)
    if "momentum" in config:
        config["momentum"] = MOMENTUM
    return type(layer).from_config(config)


def _pytorch_names(layer: str, source: str) -> list[str]:
    """Returns the names of a layer's weights in the state dict, in Keras' order."""
    if layer == "head":
        return [f"{source}.weight", f"{source}.bias"]
    parts = ("weight", "bias", "running_mean", "running_var") if layer.endswith("_norm") else ("weight",)
    return [f"{source}.{part}" for part in parts]


def _keras_layout(array: np.ndarray) -> np.ndarray:
    """Moves PyTorch's output axis (first) to the end: OIHW to HWIO, (out, in) to (in, out)."""
    return np.transpose(array, (2, 3, 1, 0)) if array.ndim == 4 else array.T


def _set_weights(path: str | os.PathLike, layer: layers.Layer, arrays: list[np.ndarray]) -> None:
    """Sets a layer's weights, or raises ValueError for the one that does not fit."""
    for variable, array in zip(layer.weights, arrays, strict=True):
        if tuple(variable.shape) != array.shape:
            raise ValueError(
                f"{path} holds another net: {layer.name}/{variable.name} has shape {tuple(variable.shape)}, "
                f"the file's {array.shape}. Give it a ResNet-20's state dict."
            )
    layer.set_weights(arrays)
