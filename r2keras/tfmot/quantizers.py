"""TFMOT quantizers that run r2keras' Keras 3 quantizers on weights of a tf_keras layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from r2keras import quantizers
from r2keras._models.channel_axes import output_axes, scale_shape
from r2keras._models.values import check_finite
from r2keras.layers.kernels.compressor import layout_of
from r2keras.layers.kernels.palette import Palette
from r2keras.layers.wrappers.palettize import remark
from r2keras.record import Tensor
from r2keras.specs import ActivationSpec, PaletteSpec, QuantSpec

Weights = dict[str, tf.Variable]


class Keras3Quantizer(tfmot.quantization.keras.quantizers.Quantizer):
    """Runs a Keras 3 quantizer on variables that belong to a tf_keras layer.

    The Keras 3 quantizer, `core`, provides shapes, start values and arithmetic. Its own variables are not read after
    `build`: a `keras.StatelessScope` replaces them by the tf_keras weights, to which the values that `core` assigns are
    written.
    """

    core: keras.Layer
    owner: tf_keras.layers.Layer

    def add_weights(self, core: keras.Layer, name: str, layer: tf_keras.layers.Layer) -> Weights:
        """Adds a weight to a layer for each variable of `core`; returns the weights by the variables' names."""
        self.core = core
        self.owner = layer
        return {v.name: _add_weight(v, f"{name}_{v.name}", layer) for v in core.variables}

    def __call__(self, inputs: tf.Tensor, training: bool, weights: Weights, **kwargs: Any) -> tf.Tensor:
        """Returns the quantized tensor; training updates ranges and codebooks unless the layer is frozen."""
        learns = training and self.owner.trainable
        return self.run(weights, lambda core: core.call(tf.convert_to_tensor(inputs), training=learns))

    def run(self, weights: Weights, function: Callable[[keras.Layer], Any]) -> Any:
        """Returns `function(core)`, computed with the layer's weights, and assigns the values that changed to them."""
        mapping = [(v, tf.convert_to_tensor(weights[v.name])) for v in self.core.variables]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            before = [scope.get_current_value(v) for v, _ in mapping]
            result = function(self.core)
            after = [scope.get_current_value(v) for v, _ in mapping]
        for (variable, _), old, new in zip(mapping, before, after, strict=True):
            if new is not old:
                weights[variable.name].assign(new)
        return result


@tf_keras.utils.register_keras_serializable(package="r2keras")
class ActivationQuantizer(Keras3Quantizer):
    """Quantizes an activation as `r2keras.layers.QuantizeActivation` does.

    Args:
        spec: an `ActivationSpec`, or its `to_dict()`.
    """

    def __init__(self, spec: ActivationSpec | dict):
        self.spec = spec if isinstance(spec, ActivationSpec) else ActivationSpec.from_dict(dict(spec))

    def build(self, tensor_shape: Any, name: str, layer: tf_keras.layers.Layer) -> Weights:
        """Adds the range and the method's learned parameters to the layer."""
        return self.add_weights(quantizers.make_activation(self.spec), name, layer)

    def grid(self, weights: Weights) -> tuple[float, int] | None:
        """Returns the scale and zero point; None before the first training batch has set the range."""
        if not float(weights["ready"]) > 0:
            return None
        scale, zero_point = self.run(weights, lambda core: core.grid())
        return float(scale), int(zero_point)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        return {"spec": self.spec.to_dict()}


class KernelQuantizer(Keras3Quantizer):
    """Quantizes one kernel of a built layer.

    Args:
        spec: the kernel's spec.
        name: its name relative to the layer.
        part: the layer or sublayer that holds it.
        variable: the kernel, whose values give the start values.
    """

    def __init__(self, spec: QuantSpec | PaletteSpec, *, name: str, part: tf_keras.layers.Layer, variable: tf.Variable):
        self.spec = spec
        self.name = name
        self.part = part
        self.variable = variable

    def build(self, tensor_shape: Any, name: str, layer: tf_keras.layers.Layer) -> Weights:
        """Adds the method's state and learned parameters to the layer, with start values from the kernel."""
        values = tf.convert_to_tensor(self.variable)
        check_finite(f"{layer.layer.name}/{self.name}", values.numpy())
        core = self.make()
        core.initialize(values)
        return self.add_weights(core, self.name.replace("/", "_"), layer)

    def make(self) -> keras.Layer:
        """Returns the Keras 3 quantizer."""
        raise NotImplementedError(f"{type(self).__name__} must implement `make`.")

    def tensor(self, path: str, weights: Weights) -> Tensor:
        """Returns the kernel's entry in the record.

        Raises:
            ValueError: NaN or infinite values.
        """
        values = tf.convert_to_tensor(self.variable)
        check_finite(path, values.numpy())
        return self.run(weights, lambda core: core.tensor(path, values, values.numpy()))

    def note(self, weights: Weights, tensor: Tensor) -> str | None:
        """Returns a note for the record, or None."""
        return None

    def get_config(self) -> dict[str, Any]:
        """Returns the spec and the name; TFMOT saves the config that creates the quantizer, not the quantizer."""
        return {"spec": self.spec.to_dict(), "name": self.name}


class GridQuantizer(KernelQuantizer):
    """Quantizes a kernel to a uniform grid as `r2keras.layers.FakeQuantize` does."""

    spec: QuantSpec

    def make(self) -> keras.Layer:
        """Returns the quantizer of the spec's method."""
        shape = tuple(self.variable.shape)
        return quantizers.make(self.spec, shape, scale_shape(self.spec, self.part, self.variable))


class PaletteQuantizer(KernelQuantizer):
    """Palettizes a kernel as `r2keras.layers.Palettize` does."""

    spec: PaletteSpec

    def make(self) -> keras.Layer:
        """Returns the palette."""
        axes = output_axes(self.part, self.variable)
        return Palette(self.spec, layout_of(self.spec, tuple(self.variable.shape), axes, self.variable.name), axes)

    def note(self, weights: Weights, tensor: Any) -> str:
        """Returns a note on the difference between the soft and the hard palette."""
        values = tf.convert_to_tensor(self.variable)
        return remark(self.run(weights, lambda core: core.gap(values)), tensor)


def size_of(variable: tf.Variable) -> int:
    """Returns the number of weights in a kernel."""
    return math.prod(variable.shape)


def _add_weight(variable: keras.Variable, name: str, layer: tf_keras.layers.Layer) -> tf.Variable:
    """Adds a copy of a Keras 3 variable, with its value, to the weights of a tf_keras layer."""
    return layer.add_weight(
        name=name,
        shape=tuple(variable.shape),
        dtype=tf.float32,
        initializer=tf_keras.initializers.Constant(np.asarray(keras.ops.convert_to_numpy(variable))),
        trainable=variable.trainable,
        regularizer=variable.regularizer,
    )
