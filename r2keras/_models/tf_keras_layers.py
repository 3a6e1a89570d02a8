"""Layers, kernels and weight names of tf_keras (Keras 2) models, read without importing tf_keras."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import keras
    import tensorflow as tf
    import tf_keras

KERNEL_ATTRIBUTES = ("kernel", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel", "embeddings")


class KernelSlot(NamedTuple):
    """The attribute of a layer that holds a kernel.

    Args:
        name: the kernel's name relative to the outer layer, `"lstm_cell/kernel"`.
        owner: the layer or cell that has the kernel.
        attribute: the owner's attribute, `"kernel"`.
    """

    name: str
    owner: tf_keras.layers.Layer
    attribute: str

    @property
    def variable(self) -> tf.Variable:
        """The kernel itself."""
        return getattr(self.owner, self.attribute)


def is_tf_keras(value: object) -> bool:
    """Whether an object's class, or one of its base classes, is defined in tf_keras."""
    return any(cls.__module__.partition(".")[0] == "tf_keras" for cls in type(value).__mro__)


def is_a(value: object, *names: str) -> bool:
    """Whether an object's class, or one of its base classes, has one of the names, which both Keras versions share."""
    return any(cls.__name__ in names for cls in type(value).__mro__)


def leaf_layers(model: tf_keras.Model) -> list[tuple[str, tf_keras.layers.Layer]]:
    """Returns every layer that is not itself a model, with its path (`"block/conv1"` inside a nested `block`).

    A layer that the model uses several times is listed once, under its first path.
    """
    layers_by_id: dict[int, tuple[str, tf_keras.layers.Layer]] = {}
    _collect_leaf_layers(model, "", layers_by_id)
    return list(layers_by_id.values())


def kernels(layer: tf_keras.layers.Layer) -> list[tuple[str, tf.Variable]]:
    """Returns the kernels of a layer and its sublayers by their names relative to the layer, named as in Keras 3."""
    return [(slot.name, slot.variable) for slot in kernel_slots(layer)]


def kernel_slots(layer: tf_keras.layers.Layer) -> list[KernelSlot]:
    """Returns the attributes that hold the kernels of a layer: `("lstm_cell/kernel", <the cell>, "kernel")`.

    Names come from the attributes, because the names of TensorFlow variables depend on the scope they were created in.
    """
    return [
        KernelSlot(prefix + attribute, part, attribute)
        for prefix, part in _with_sublayers(layer)
        for attribute in KERNEL_ATTRIBUTES
        if hasattr(getattr(part, attribute, None), "shape")
    ]


def named_weights(layer: tf_keras.layers.Layer) -> list[tuple[str, tf.Variable]]:
    """Returns all weights of a layer with their names relative to it."""
    kernel_names = {id(variable): name for name, variable in kernels(layer)}
    return [(kernel_names.get(id(weight), last_name(weight)), weight) for weight in layer.weights]


def last_name(weight: keras.Variable | tf.Variable) -> str:
    """Returns the last part of a weight's name; TensorFlow's names are paths and end in `:0`."""
    return weight.name.partition(":")[0].rpartition("/")[2]


@contextlib.contextmanager
def without_fusion(model: keras.Model | tf_keras.Model) -> Iterator[None]:
    """Makes the recurrent layers of a tf_keras model run as loops inside the context; Keras 3 models always do.

    Otherwise the converter fuses an LSTM into one operator, splits its kernels, and keeps its state between calls.
    """
    layers = leaf_layers(model) if is_tf_keras(model) else []
    parts = [part for _, layer in layers for _, part in _with_sublayers(layer)]
    fused: list[Any] = [part for part in parts if getattr(part, "_could_use_gpu_kernel", False)]
    try:
        for part in fused:
            part._could_use_gpu_kernel = False
        yield
    finally:
        for part in fused:
            part._could_use_gpu_kernel = True


def _collect_leaf_layers(
    model: tf_keras.Model, prefix: str, layers_by_id: dict[int, tuple[str, tf_keras.layers.Layer]]
) -> None:
    """Adds the leaf layers of a model to `layers_by_id`."""
    for layer in model.layers:
        if is_a(layer, "Model"):
            _collect_leaf_layers(layer, f"{prefix}{layer.name}/", layers_by_id)
        elif not is_a(layer, "InputLayer"):
            layers_by_id.setdefault(id(layer), (prefix + layer.name, layer))


def _with_sublayers(layer: tf_keras.layers.Layer, prefix: str = "") -> Iterator[tuple[str, tf_keras.layers.Layer]]:
    """Yields a layer and all layers inside it, each with the prefix of its weights' names."""
    yield prefix, layer
    for part in layer._flatten_layers(recursive=False, include_self=False):
        yield from _with_sublayers(part, f"{prefix}{part.name}/")
