"""Quantize configs for `quantize_annotate_layer`: quantization of the kernels and the output of one layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from r2keras._models.call_kinds import never_negative
from r2keras._models.graph import Call
from r2keras._models.tf_keras_layers import KernelSlot, kernel_slots
from r2keras._util.errors import invalid
from r2keras.layers.kernels.compressor import too_small
from r2keras.specs import ActivationSpec, PaletteSpec, QuantSpec, Spec
from r2keras.specs.dynamic import DYNAMIC, is_dynamic
from r2keras.specs.quant import FITTED_AT_RUN_TIME
from r2keras.tfmot.quantizers import (
    ActivationQuantizer,
    GridQuantizer,
    KernelQuantizer,
    PaletteQuantizer,
    size_of,
)


class KernelsConfig(tfmot.quantization.keras.QuantizeConfig):
    """Base of the configs for kernels: implements TFMOT's interface for layers of any kind and their sublayers.

    Args:
        spec: the spec of every kernel.
        kernels: specs by the kernels' names relative to the layer, where they differ; other kernels stay float. None
            uses `spec` for all.
    """

    spec: Spec | None
    kernels: Mapping[str, Spec] | None
    spec_type: ClassVar[type[QuantSpec] | type[PaletteSpec]]
    quantizer_type: ClassVar[type[KernelQuantizer]]

    def __init__(self, spec: Spec | None, kernels: Mapping[str, Spec | dict] | None):
        self.spec = spec
        self.kernels = None
        if kernels is not None:
            self.kernels = {name: self._checked(name, kernel_spec) for name, kernel_spec in kernels.items()}

    def get_weights_and_quantizers(self, layer: tf_keras.layers.Layer) -> list[tuple[tf.Variable, KernelQuantizer]]:
        """Returns the kernels to compress, each with a quantizer of its own."""
        pairs = []
        for slot, spec in self._compressed(layer):
            quantizer = self.quantizer_type(spec, name=slot.name, part=slot.owner, variable=slot.variable)
            pairs.append((slot.variable, quantizer))
        return pairs

    def set_quantize_weights(self, layer: tf_keras.layers.Layer, quantize_weights: Sequence[tf.Tensor]) -> None:
        """Replaces the kernels by their quantized values.

        Raises:
            ValueError: another number of values, or another shape.
        """
        slots = [slot for slot, _ in self._compressed(layer)]
        if len(slots) != len(quantize_weights):
            expected = f"{len(slots)} values, one per compressed kernel of {layer.name!r}"
            raise ValueError(invalid("quantize_weights", expected, len(quantize_weights)))
        for slot, value in zip(slots, quantize_weights, strict=True):
            shape = tuple(slot.variable.shape)
            if tuple(value.shape) != shape:
                expected = f"the shape {shape} for {layer.name}/{slot.name}"
                raise ValueError(invalid("quantize_weights", expected, tuple(value.shape)))
            setattr(slot.owner, slot.attribute, value)

    def get_activations_and_quantizers(self, layer: tf_keras.layers.Layer) -> list:
        """Returns an empty list: the layer's output is quantized instead, after its activation function."""
        return []

    def set_quantize_activations(self, layer: tf_keras.layers.Layer, quantize_activations: Sequence) -> None:
        """Accepts the empty list.

        Raises:
            ValueError: activations, which these configs do not replace.
        """
        if quantize_activations:
            raise ValueError(invalid("quantize_activations", "an empty list", quantize_activations))

    def get_output_quantizers(self, layer: tf_keras.layers.Layer) -> list[ActivationQuantizer]:
        """Returns the quantizer of the layer's output in a list, which is empty if the output stays float."""
        return []

    def kept_float(self, layer: tf_keras.layers.Layer) -> dict[str, str]:
        """Returns the reasons why kernels that the config covers stay float, by the kernels' names."""
        return {}

    def _compressed(self, layer: tf_keras.layers.Layer) -> Iterator[tuple[KernelSlot, Spec]]:
        """Yields the kernels to compress, each with its spec."""
        slots = {slot.name: slot for slot in kernel_slots(layer)}
        specs = dict.fromkeys(slots, self.spec) if self.kernels is None else self.kernels
        for name, spec in specs.items():
            if name not in slots:
                expected = f"names of kernels of {layer.name!r}: {list(slots)}"
                raise ValueError(invalid("kernels", expected, name, "Biases and statistics stay float"))
            if isinstance(spec, QuantSpec) or (spec is not None and size_of(slots[name].variable) >= spec.min_size):
                yield slots[name], spec

    def _checked(self, name: str, value: Spec | dict) -> Spec:
        """Returns the spec of one kernel, made from JSON if `value` is a dictionary."""
        spec = self.spec_type.from_dict(dict(value)) if isinstance(value, dict) else value
        if not isinstance(spec, self.spec_type):
            raise TypeError(invalid(f"kernels[{name!r}]", f"a {self.spec_type.__name__} or its to_dict()", value))
        return spec

    def _kernels_config(self) -> dict[str, Any] | None:
        """Returns `kernels` as plain JSON."""
        return None if self.kernels is None else {name: spec.to_dict() for name, spec in self.kernels.items()}


@tf_keras.utils.register_keras_serializable(package="r2keras")
class LowBitQuantizeConfig(KernelsConfig):
    """Trains a layer with its kernels on uniform grids of 1 to 8 bits, and its output float or on 2 to 8 bits.

    Forward: the kernels are `scale * (code - zero_point)`, the output `y = scale * (code - zero_point)`. Gradient: that
    of the method (`r2keras.quantizers`). The arithmetic is that of `r2keras.prepare`. Under `LowBitScheme` the output
    is quantized after a following batch normalization and activation function; under TFMOT's own scheme it is quantized
    right after the layer.

    Args:
        weight_bits: bits per weight, 1 to 8.
        activation_bits: bits of the layer's output, 2 to 8; None leaves it float.
        method: `"ste"`, `"lsq"`, `"ewgs"`, `"dorefa"`, `"wrpn"`, `"binary"` or `"ternary"`.
        granularity: `"per_tensor"`, `"per_channel"` or `"per_group"`.
        kernels: specs (`QuantSpec` or `to_dict()`) by kernel name, `"lstm_cell/recurrent_kernel"`, where a layer's
            kernels differ; kernels not named stay float. None gives all kernels the same spec.
        activation: an `ActivationSpec` or its `to_dict()` for the output, instead of `activation_bits`.
        **options: further arguments of `r2keras.QuantSpec`: `range`, `levels`, `group_size`, `delta`,
            `activation_method`...

    Raises:
        ValueError: a value out of range, or two values that contradict each other.
        TypeError: a value of another type.

    Example:

    >>> config = LowBitQuantizeConfig(weight_bits=2, activation_bits=8, method="ewgs")
    >>> layer = tf_keras.layers.Dense(3, "relu")
    >>> layer.build((None, 4))
    >>> [variable.shape.as_list() for variable, _ in config.get_weights_and_quantizers(layer)]
    [[4, 3]]
    >>> LowBitQuantizeConfig.from_config(config.get_config()) == config
    True

    Source: Jacob et al., arXiv 1712.05877, section 3; each method's paper is named in `r2keras.quantizers`.
    """

    spec: QuantSpec
    kernels: Mapping[str, QuantSpec] | None
    spec_type = QuantSpec
    quantizer_type = GridQuantizer

    def __init__(
        self,
        *,
        weight_bits: int = 8,
        activation_bits: int | None = None,
        method: str = "ste",
        granularity: str = "per_channel",
        kernels: Mapping[str, QuantSpec | dict] | None = None,
        activation: ActivationSpec | dict | None = None,
        **options: Any,
    ):
        arguments = {
            "num_bits": weight_bits,
            "method": method,
            "granularity": granularity,
            "activation_bits": activation_bits,
            **options,
        }
        super().__init__(QuantSpec.from_dict(arguments), kernels)
        if activation is not None and activation_bits is not None:
            raise ValueError(invalid("activation", "None where activation_bits is given", activation))
        if any(map(is_dynamic, (self.spec, *(self.kernels or {}).values()))):
            fix = "Use r2keras.prepare on a Keras 3 model to train with rounded rows"
            raise ValueError(invalid("activation_method", "a method for outputs", DYNAMIC, fix))
        if self.spec.activation_method == FITTED_AT_RUN_TIME:
            fix = "Use r2keras.prepare on a Keras 3 model to quantize states"
            raise ValueError(invalid("activation_method", "a method for outputs", FITTED_AT_RUN_TIME, fix))
        self.activation = ActivationSpec.from_dict(activation) if isinstance(activation, dict) else activation

    @classmethod
    def of(
        cls,
        spec: QuantSpec,
        *,
        kernels: Mapping[str, QuantSpec] | None = None,
        activation: ActivationSpec | None = None,
    ) -> LowBitQuantizeConfig:
        """Returns the config of a spec.

        Args:
            spec: the spec of the kernels, and of the output where `activation` is None.
            kernels: see the class.
            activation: see the class.
        """
        arguments = spec.to_dict()
        return cls(weight_bits=arguments.pop("num_bits"), kernels=kernels, activation=activation, **arguments)

    def with_output(self, activation: ActivationSpec | None) -> LowBitQuantizeConfig:
        """Returns the same config with another spec for the output; None leaves the output float."""
        bare = dataclasses.replace(self.spec, activation_bits=None, activation_method=None, activation_range=None)
        return type(self).of(bare, kernels=self.kernels, activation=activation)

    def get_output_quantizers(self, layer: tf_keras.layers.Layer) -> list[ActivationQuantizer]:
        """Returns the quantizer of the layer's output; an output that is never negative gets an unsigned range."""
        activation = self.activation
        if activation is None:
            call = Call(layer.name, type(layer).__name__, layer, (), 0)
            activation = self.spec.activation(unsigned=never_negative(call))
        return [] if activation is None else [ActivationQuantizer(activation)]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        spec = self.spec.to_dict()
        activation = None if self.activation is None else self.activation.to_dict()
        return {
            "weight_bits": spec.pop("num_bits"),
            **spec,
            "kernels": self._kernels_config(),
            "activation": activation,
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KernelsConfig):
            return False
        return type(other) is type(self) and other.get_config() == self.get_config()


@tf_keras.utils.register_keras_serializable(package="r2keras")
class PalettizeQuantizeConfig(KernelsConfig):
    """Trains a layer with its kernels on scalar or vector palettes (DKM); its output stays float.

    Forward in training: each vector of `dim` weights becomes `sum_j softmax_j(-|w - c_j|^2 / tau) c_j`; in inference
    its nearest `c_j`. Gradient: through weights and centroids (`r2keras.ops.dkm`).

    Args:
        num_bits: bits per index, 1 to 8.
        dim: weights per centroid, 1 to 8.
        kernels: specs (`PaletteSpec` or `to_dict()`) by kernel name where a layer's kernels differ; kernels not named
            stay float. None gives all kernels the same spec.
        **options: further arguments of `r2keras.PaletteSpec`: `min_size`, `group_size`, `table_dtype`, `temperature`...

    Raises:
        ValueError: a value out of range, or two values that contradict each other.
        TypeError: a value of another type.

    Example:

    >>> config = PalettizeQuantizeConfig(num_bits=2, dim=1, min_size=0)
    >>> layer = tf_keras.layers.Dense(3)
    >>> layer.build((None, 4))
    >>> len(config.get_weights_and_quantizers(layer))
    1

    Source: Cho et al., DKM, arXiv 2108.12659, section 3.
    """

    spec: PaletteSpec
    kernels: Mapping[str, PaletteSpec] | None
    spec_type = PaletteSpec
    quantizer_type = PaletteQuantizer

    def __init__(
        self,
        *,
        num_bits: int = 4,
        dim: int = 1,
        kernels: Mapping[str, PaletteSpec | dict] | None = None,
        **options: Any,
    ):
        super().__init__(PaletteSpec.from_dict({"num_bits": num_bits, "dim": dim, **options}), kernels)

    @classmethod
    def of(cls, spec: PaletteSpec, *, kernels: Mapping[str, PaletteSpec] | None = None) -> PalettizeQuantizeConfig:
        """Returns the config of a spec.

        Args:
            spec: the spec of the kernels.
            kernels: see the class.
        """
        return cls(**spec.to_dict(), kernels=kernels)

    def kept_float(self, layer: tf_keras.layers.Layer) -> dict[str, str]:
        """Returns the reasons why kernels smaller than their spec's `min_size` stay float, by the kernels' names."""
        sizes = {slot.name: size_of(slot.variable) for slot in kernel_slots(layer)}
        specs = dict.fromkeys(sizes, self.spec) if self.kernels is None else self.kernels
        return {name: too_small(spec, (sizes[name],)) for name, spec in specs.items() if sizes[name] < spec.min_size}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        return {**self.spec.to_dict(), "kernels": self._kernels_config()}

    __eq__ = LowBitQuantizeConfig.__eq__


@tf_keras.utils.register_keras_serializable(package="r2keras")
class NoOpQuantizeConfig(KernelsConfig):
    """Leaves a layer float that a scheme would otherwise quantize.

    Example:

    >>> NoOpQuantizeConfig().get_weights_and_quantizers(tf_keras.layers.Dense(3))
    []
    """

    def __init__(self) -> None:
        super().__init__(None, {})

    def get_config(self) -> dict[str, Any]:
        """Returns an empty dictionary: there are no arguments."""
        return {}

    __eq__ = LowBitQuantizeConfig.__eq__
