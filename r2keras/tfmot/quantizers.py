"""TFMOT quantizers that compute with the quantizers of Keras 3; their variables are weights of the tf_keras layer."""

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
from r2keras._model import check_finite
from r2keras.layers.compressor import layout_of
from r2keras.layers.palette import Palette
from r2keras.layers.palettize import remark
from r2keras.palette_spec import PaletteSpec
from r2keras.palettized import PalettizedTensor
from r2keras.quantizers.axes import output_axes, scale_shape
from r2keras.record import Tensor
from r2keras.specs import ActivationSpec, QuantSpec

Weights = dict[str, tf.Variable]


class HeldQuantizer(tfmot.quantization.keras.quantizers.Quantizer):
    """Runs a quantizer of Keras 3 on variables that belong to a tf_keras layer.

    The Keras 3 object gives shapes, start values and arithmetic. Its own variables are never read after `build`: within
    a `keras.StatelessScope` the tf_keras weights stand for them, and what it assigns is assigned to these.
    """

    core: keras.Layer
    owner: tf_keras.layers.Layer

    def hold(self, core: keras.Layer, name: str, layer: tf_keras.layers.Layer) -> Weights:
        """Adds weights to a layer for the variables of `core`; returns them by the variables' names."""
        self.core, self.owner = core, layer
        return {v.name: _twin(v, f"{name}_{v.name}", layer) for v in core.variables}

    def __call__(self, inputs, training, weights: Weights, **kwargs):
        """Returns the quantized tensor; while training, ranges and codebooks move on unless the layer is frozen."""
        learns = training and self.owner.trainable
        return self.run(weights, lambda core: core.call(tf.convert_to_tensor(inputs), training=learns))

    def run(self, weights: Weights, function: Callable[[keras.Layer], Any]) -> Any:
        """Returns `function(core)`, computed with the layer's weights; assigns what it assigned."""
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
class ActivationQuantizer(HeldQuantizer):
    """Quantizes an activation as `r2keras.layers.QuantizeActivation` does.

    Args:
        spec: an `ActivationSpec`, or its `to_dict()`.
    """

    def __init__(self, spec: ActivationSpec | dict):
        self.spec = spec if isinstance(spec, ActivationSpec) else ActivationSpec.from_dict(dict(spec))

    def build(self, tensor_shape, name, layer) -> Weights:
        """Adds the range and what the method learns to the layer."""
        return self.hold(quantizers.make_activation(self.spec), name, layer)

    def grid(self, weights: Weights) -> tuple[float, int] | None:
        """Returns the scale and zero point, None before a training batch has set the range."""
        if not float(weights["ready"]) > 0:
            return None
        scale, zero_point = self.run(weights, lambda core: core.grid())
        return float(scale), int(zero_point)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        return {"spec": self.spec.to_dict()}


class KernelQuantizer(HeldQuantizer):
    """Quantizes one kernel; made by a config for a layer that is built.

    Args:
        spec: what the kernel becomes.
        name: its name relative to the layer.
        part: the layer that has it.
        variable: the kernel, which gives the start values.
    """

    def __init__(self, spec: QuantSpec | PaletteSpec, *, name: str, part: Any, variable: tf.Variable):
        self.spec, self.name = spec, name
        self.part, self.variable = part, variable

    def build(self, tensor_shape, name, layer) -> Weights:
        """Adds what the method stores and learns to the layer, with start values from the kernel."""
        values = tf.convert_to_tensor(self.variable)
        check_finite(f"{layer.layer.name}/{self.name}", values.numpy())
        core = self.make()
        core.initialize(values)
        return self.hold(core, self.name.replace("/", "_"), layer)

    def make(self) -> keras.Layer:
        """Returns the quantizer of Keras 3."""
        raise RuntimeError(f"{type(self).__name__} must implement make.")

    def tensor(self, path: str, weights: Weights) -> Tensor:
        """Returns what the record holds of the kernel.

        Raises:
            ValueError: NaN or infinite values.
        """
        values = tf.convert_to_tensor(self.variable)
        check_finite(path, values.numpy())
        return self.run(weights, lambda core: core.tensor(path, values, values.numpy()))

    def note(self, weights: Weights, tensor: Tensor) -> str | None:
        """Returns a remark for the record, or None."""
        return None

    def get_config(self) -> dict[str, Any]:
        """Returns spec and name; TFMOT saves the config that makes this object, not the object."""
        return {"spec": self.spec.to_dict(), "name": self.name}


class GridQuantizer(KernelQuantizer):
    """Puts a kernel on a uniform grid as `r2keras.layers.FakeQuantize` does."""

    spec: QuantSpec

    def make(self) -> keras.Layer:
        """Returns the quantizer of the spec's method."""
        shape = tuple(self.variable.shape)
        return quantizers.make(self.spec, shape, scale_shape(self.spec, self.part, self.variable))


class PaletteQuantizer(KernelQuantizer):
    """Puts a kernel on a palette as `r2keras.layers.Palettize` does."""

    spec: PaletteSpec

    def make(self) -> keras.Layer:
        """Returns the palette."""
        axes = output_axes(self.part, self.variable)
        return Palette(self.spec, layout_of(self.spec, tuple(self.variable.shape), axes, self.variable.name), axes)

    def note(self, weights: Weights, tensor: PalettizedTensor) -> str:
        """Returns how far the soft and the hard palette are apart."""
        values = tf.convert_to_tensor(self.variable)
        return remark(self.run(weights, lambda core: core.gap(values)), tensor)


def size_of(variable: Any) -> int:
    """Returns the number of weights of a kernel."""
    return math.prod(variable.shape)


def _twin(variable: keras.Variable, name: str, layer: tf_keras.layers.Layer) -> tf.Variable:
    """Adds a weight like a Keras 3 variable, with its value, to a tf_keras layer."""
    return layer.add_weight(
        name=name,
        shape=tuple(variable.shape),
        dtype=tf.float32,
        initializer=tf_keras.initializers.Constant(np.asarray(keras.ops.convert_to_numpy(variable))),
        trainable=variable.trainable,
        regularizer=variable.regularizer,
    )
