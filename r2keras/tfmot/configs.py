"""Quantize configs: what `quantize_annotate_layer` takes to say what becomes of one layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import tensorflow_model_optimization as tfmot
import tf_keras

from r2keras._errors import invalid
from r2keras._graph import Call
from r2keras._tf_keras import kernel_places
from r2keras.layers.compressor import too_small
from r2keras.palette_spec import PaletteSpec
from r2keras.placement import never_negative
from r2keras.recipe import Spec
from r2keras.specs import ON_LINE, ActivationSpec, QuantSpec
from r2keras.tfmot.quantizers import (
    ActivationQuantizer,
    GridQuantizer,
    KernelQuantizer,
    PaletteQuantizer,
    size_of,
)

OF_ACTIVATIONS = ("activation_bits", "activation_method", "activation_range")


class KernelsConfig(tfmot.quantization.keras.QuantizeConfig):
    """What the configs for kernels share: TFMOT's contract, for layers of any kind and for their parts.

    Args:
        spec: what every kernel becomes.
        kernels: what kernels become by their names relative to the layer, where they differ; those it does not name
            stay float. None: `spec` for all.
    """

    spec: Spec | None
    kernels: Mapping[str, Spec] | None
    spec_type: ClassVar[type[QuantSpec] | type[PaletteSpec]]
    quantizer_type: ClassVar[type[KernelQuantizer]]

    def __init__(self, spec: Spec | None, kernels: Mapping[str, Spec | dict] | None):
        self.spec, self.kernels = spec, None
        if kernels is not None:
            self.kernels = {name: self._checked(name, part) for name, part in kernels.items()}

    def get_weights_and_quantizers(self, layer) -> list[tuple[Any, KernelQuantizer]]:
        """Returns the kernels to compress, each with a quantizer of its own."""
        pairs = []
        for name, part, attribute, spec in self._places(layer):
            variable = getattr(part, attribute)
            pairs.append((variable, self.quantizer_type(spec, name=name, part=part, variable=variable)))
        return pairs

    def set_quantize_weights(self, layer, quantize_weights) -> None:
        """Puts values in the kernels' places.

        Raises:
            ValueError: another number of values, or another shape.
        """
        places = list(self._places(layer))
        if len(places) != len(quantize_weights):
            expected = f"{len(places)} values, one a compressed kernel of {layer.name!r}"
            raise ValueError(invalid("quantize_weights", expected, len(quantize_weights)))
        for (name, part, attribute, _), value in zip(places, quantize_weights, strict=True):
            if tuple(value.shape) != tuple(getattr(part, attribute).shape):
                expected = f"the shape {tuple(getattr(part, attribute).shape)} for {layer.name}/{name}"
                raise ValueError(invalid("quantize_weights", expected, tuple(value.shape)))
            setattr(part, attribute, value)

    def get_activations_and_quantizers(self, layer) -> list:
        """Returns nothing: it is the layer's output that is quantized, after its activation function."""
        return []

    def set_quantize_activations(self, layer, quantize_activations) -> None:
        """Accepts the empty list.

        Raises:
            ValueError: activations, which these configs do not replace.
        """
        if quantize_activations:
            raise ValueError(invalid("quantize_activations", "an empty list", quantize_activations))

    def get_output_quantizers(self, layer) -> list[ActivationQuantizer]:
        """Returns the quantizer of the layer's output, or nothing."""
        return []

    def kept_float(self, layer) -> dict[str, str]:
        """Returns why kernels that the config is for stay float, by their names."""
        return {}

    def _places(self, layer) -> Iterator[tuple[str, Any, str, Spec]]:
        """Yields name, owner, attribute and spec of the kernels to compress."""
        places = {name: (part, attribute) for name, part, attribute in kernel_places(layer)}
        for name in places if self.kernels is None else self.kernels:
            if name not in places:
                expected = f"names of kernels of {layer.name!r}: {list(places)}"
                raise ValueError(invalid("kernels", expected, name, "Biases and statistics stay float"))
            spec = self.spec if self.kernels is None else self.kernels[name]
            if self._fits(getattr(*places[name]), spec):
                yield name, *places[name], spec

    def _fits(self, variable: Any, spec: Spec) -> bool:
        """Whether a kernel is to be compressed."""
        return not isinstance(spec, PaletteSpec) or size_of(variable) >= spec.min_size

    def _checked(self, name: str, spec: Spec | dict) -> Spec:
        """Returns the spec of one kernel, from JSON if need be."""
        found = self.spec_type.from_dict(dict(spec)) if isinstance(spec, dict) else spec
        if not isinstance(found, self.spec_type):
            raise TypeError(invalid(f"kernels[{name!r}]", f"a {self.spec_type.__name__} or its to_dict()", spec))
        return found

    def _kernels_config(self) -> dict[str, Any] | None:
        return None if self.kernels is None else {name: spec.to_dict() for name, spec in self.kernels.items()}


@tf_keras.utils.register_keras_serializable(package="r2keras")
class LowBitQuantizeConfig(KernelsConfig):
    """Trains a layer with its kernels on grids of 1 to 8 bits, and its output on 2 to 8 bits or float.

    Forward: the kernels are `scale * (code - zero_point)`, the output `y = scale * (code - zero_point)`. Gradient: that
    of the method (`r2keras.quantizers`): the arithmetic is the one of `r2keras.prepare`. Under `LowBitScheme` the
    output's quantizer moves behind batch normalization and activation function; under TFMOT's own scheme it stays here.

    Args:
        weight_bits: bits a weight, 1 to 8.
        activation_bits: bits of the layer's output, 2 to 8; None leaves it float.
        method: `"ste"`, `"lsq"`, `"ewgs"`, `"dorefa"`, `"wrpn"`, `"binary"` or `"ternary"`.
        granularity: `"per_tensor"`, `"per_channel"` or `"per_group"`.
        kernels: specs (`QuantSpec` or `to_dict()`) by kernel name, `"lstm_cell/recurrent_kernel"`, where a layer's
            kernels differ; those not named stay float. None: all alike.
        activation: an `ActivationSpec` or its `to_dict()` for the output, instead of `activation_bits`.
        **options: further arguments of `r2keras.QuantSpec`: `range`, `levels`, `group_size`, `delta`,
            `activation_method`...

    Raises:
        ValueError: a value out of range, or two that contradict each other.
        TypeError: a value of another type.

    Example:

    >>> config = LowBitQuantizeConfig(weight_bits=2, activation_bits=8, method="ewgs")
    >>> layer = tf_keras.layers.Dense(3, "relu")
    >>> layer.build((None, 4))
    >>> [variable.shape.as_list() for variable, _ in config.get_weights_and_quantizers(layer)]
    [[4, 3]]
    >>> LowBitQuantizeConfig.from_config(config.get_config()) == config
    True

    Source: Jacob et al., arXiv 1712.05877, section 3; each method's paper stands in `r2keras.quantizers`.
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
        **options,
    ):
        words = {"method": method, "granularity": granularity, "activation_bits": activation_bits}
        super().__init__(QuantSpec.from_dict({"num_bits": weight_bits, **words, **options}), kernels)
        if activation is not None and activation_bits is not None:
            raise ValueError(invalid("activation", "None where activation_bits is given", activation))
        if self.spec.activation_method == ON_LINE:
            fix = "States are quantized by r2keras.prepare on a Keras 3 model"
            raise ValueError(invalid("activation_method", "a method for outputs", ON_LINE, fix))
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
            spec: what the kernels become, and the output where `activation` is None.
            kernels: see the class.
            activation: see the class.
        """
        words = spec.to_dict()
        return cls(weight_bits=words.pop("num_bits"), kernels=kernels, activation=activation, **words)

    def with_output(self, activation: ActivationSpec | None) -> LowBitQuantizeConfig:
        """Returns the same config with another output: None leaves it float."""
        bare = dataclasses.replace(self.spec, **dict.fromkeys(OF_ACTIVATIONS))
        return type(self).of(bare, kernels=self.kernels, activation=activation)

    def get_output_quantizers(self, layer) -> list[ActivationQuantizer]:
        """Returns the quantizer of the layer's output; one that is never negative spends no code on the sign."""
        activation = self.activation
        if activation is None:
            call = Call(layer.name, type(layer).__name__, layer, (), 0)
            activation = self.spec.activation(unsigned=never_negative(call))
        return [] if activation is None else [ActivationQuantizer(activation)]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        words = self.spec.to_dict()
        config = {"weight_bits": words.pop("num_bits"), **words, "kernels": self._kernels_config()}
        return config | {"activation": None if self.activation is None else self.activation.to_dict()}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KernelsConfig):
            return False
        return type(other) is type(self) and other.get_config() == self.get_config()

    __hash__ = None


@tf_keras.utils.register_keras_serializable(package="r2keras")
class PalettizeQuantizeConfig(KernelsConfig):
    """Trains a layer with its kernels on palettes (DKM), scalar or vector; its output stays float.

    Forward in training: each vector of `dim` weights becomes `sum_j softmax_j(-|w - c_j|^2 / tau) c_j`; in inference
    its nearest `c_j`. Gradient: through weights and centroids (`r2keras.ops.dkm`).

    Args:
        num_bits: bits of an index, 1 to 8.
        dim: weights a table row, 1 to 8.
        kernels: specs (`PaletteSpec` or `to_dict()`) by kernel name where a layer's kernels differ; those not named
            stay float. None: all alike.
        **options: further arguments of `r2keras.PaletteSpec`: `min_size`, `group_size`, `table_dtype`, `temperature`...

    Raises:
        ValueError: a value out of range, or two that contradict each other.
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
        self, *, num_bits: int = 4, dim: int = 1, kernels: Mapping[str, PaletteSpec | dict] | None = None, **options
    ):
        super().__init__(PaletteSpec.from_dict({"num_bits": num_bits, "dim": dim, **options}), kernels)

    @classmethod
    def of(cls, spec: PaletteSpec, *, kernels: Mapping[str, PaletteSpec] | None = None) -> PalettizeQuantizeConfig:
        """Returns the config of a spec.

        Args:
            spec: what the kernels become.
            kernels: see the class.
        """
        return cls(**spec.to_dict(), kernels=kernels)

    def kept_float(self, layer) -> dict[str, str]:
        """Returns why small kernels stay float, by their names."""
        every = kernel_places(layer)
        wanted = {name: self.spec for name, _, _ in every} if self.kernels is None else self.kernels
        sizes = {name: size_of(getattr(part, attribute)) for name, part, attribute in every}
        return {name: too_small(spec, (sizes[name],)) for name, spec in wanted.items() if sizes[name] < spec.min_size}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        return {**self.spec.to_dict(), "kernels": self._kernels_config()}

    __eq__ = LowBitQuantizeConfig.__eq__
    __hash__ = None


@tf_keras.utils.register_keras_serializable(package="r2keras")
class NoOpQuantizeConfig(KernelsConfig):
    """Leaves a layer float; for layers that a scheme would quantize otherwise.

    Example:

    >>> NoOpQuantizeConfig().get_weights_and_quantizers(tf_keras.layers.Dense(3))
    []
    """

    def __init__(self):
        super().__init__(None, {})

    def get_config(self) -> dict[str, Any]:
        """Returns nothing: there are no arguments."""
        return {}

    __eq__ = LowBitQuantizeConfig.__eq__
    __hash__ = None
