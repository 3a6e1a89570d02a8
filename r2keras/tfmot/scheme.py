"""Scheme for `quantize_apply`: the config of each layer, and the activations to quantize."""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import QuantizeLayer

from r2keras._models.tf_keras_layers import kernels
from r2keras._models.walk import QUANTIZED_SUFFIX, full_name
from r2keras._util.errors import invalid, invalid_part
from r2keras.compression.activation_plan import plan_graph
from r2keras.compression.edges import edges_in
from r2keras.compression.prepare import wrapper_of
from r2keras.layers.wrappers.fake_quantize import FakeQuantize
from r2keras.specs import ActivationSpec, PaletteSpec, QuantSpec, Recipe, Spec
from r2keras.tfmot.configs import KernelsConfig, LowBitQuantizeConfig, NoOpQuantizeConfig, PalettizeQuantizeConfig
from r2keras.tfmot.quantizers import ActivationQuantizer
from r2keras.tfmot.surgery import graph_of, insert_after

quantization = tfmot.quantization.keras
QuantizeConfig: TypeAlias = tfmot.quantization.keras.QuantizeConfig
# `{"quantize_config": config or None}` by layer name, the form in which TFMOT passes configs.
QuantizeMap = dict[str, dict[str, Any]]


class LowBitScheme(tfmot.quantization.keras.QuantizeScheme):
    """The scheme that `quantize_apply` needs for r2keras' configs, in any mixture of bit widths, methods and palettes.

    As in TFMOT's 8-bit scheme, a convolution or dense layer, its batch normalization and its activation function count
    as one operator, and only the operator's output is quantized. The same holds for a residual sum with its activation
    function (`r2keras.activation_plan`). Tensors that reach only the model's outputs stay float. A layer
    annotated with a config keeps the config's bits; a layer annotated without one follows the recipe; layers that are
    not annotated keep their weights float.

    Args:
        recipe: the specs of layers annotated without a config; None if every annotated layer has a config.
        input_bits: bits of the model's float inputs, 2 to 8; None leaves them float.

    Raises:
        TypeError: `recipe` is not an `r2keras.Recipe`, or `input_bits` is not an integer.
        ValueError: `input_bits` is out of range.

    Example:

    >>> from r2keras import QuantSpec
    >>> layers = [tf_keras.Input((4,)), tf_keras.layers.Dense(3, "relu", name="a"), tf_keras.layers.Dense(2, name="b")]
    >>> annotated = quantization.quantize_annotate_model(tf_keras.Sequential(layers))
    >>> recipe = Recipe([("a", QuantSpec(num_bits=2, activation_bits=8)), ("b", QuantSpec(num_bits=8))])
    >>> [layer.name for layer in quantization.quantize_apply(annotated, scheme=LowBitScheme(recipe)).layers]
    ['quant_a', 'quant_b']
    """

    def __init__(self, recipe: Recipe | None = None, *, input_bits: int | None = None):
        if not isinstance(recipe, (Recipe, type(None))):
            raise TypeError(invalid("recipe", "an r2keras.Recipe or None", recipe))
        self.recipe = recipe
        self.input_bits = input_bits
        # The spec's constructor checks the number of bits.
        self.input_spec = None if input_bits is None else ActivationSpec(num_bits=input_bits)

    def get_layout_transformer(self) -> LowBitLayout:
        """Returns the transformer that chooses every layer's config."""
        return LowBitLayout(self.recipe, self.input_spec)

    def get_quantize_registry(self) -> NoRegistry:
        """Returns an empty registry: the layout transformer has chosen all configs."""
        return NoRegistry()


class LowBitLayout(tfmot.quantization.keras.QuantizeLayoutTransform):
    """Gives every layer its config, and quantizes the inputs.

    Args:
        recipe: the specs of layers annotated without a config, or None.
        input_spec: the spec of float inputs, or None.
    """

    def __init__(self, recipe: Recipe | None, input_spec: ActivationSpec | None):
        self.recipe = recipe
        self.input_spec = input_spec

    def apply(self, model: tf_keras.Model, layer_quantize_map: QuantizeMap) -> tuple[tf_keras.Model, QuantizeMap]:
        """Returns the model, with quantized inputs, and the configs of its layers.

        Args:
            model: the model without annotations.
            layer_quantize_map: `{"quantize_config": config or None}` by the names of annotated layers.

        Raises:
            ValueError: a layer annotated without a config, and no recipe.
        """
        if self.recipe is None:
            return self._applied(model, layer_quantize_map)
        recipe = edges_in(self.recipe, lambda: graph_of(model), kernels)
        return LowBitLayout(recipe, self.input_spec)._applied(model, layer_quantize_map)

    def _applied(self, model: tf_keras.Model, layer_quantize_map: QuantizeMap) -> tuple[tf_keras.Model, QuantizeMap]:
        """Does the work of `apply` with a recipe whose rules match by name."""
        inputs = {layer.name for layer in model._input_layers}
        annotated = {name: entry["quantize_config"] for name, entry in layer_quantize_map.items() if name not in inputs}
        given = {name: config for name, config in annotated.items() if config is not None}
        configs = {name: config or self._config(model.get_layer(name)) for name, config in annotated.items()}
        outputs = self._outputs(model, given, set(annotated))
        configs = {name: _with_output(config, outputs.pop(name, None)) for name, config in configs.items()}
        model = _wrap_others(self._with_inputs(model), outputs)
        return model, {name: {"quantize_config": config} for name, config in configs.items()}

    def _config(self, layer: tf_keras.layers.Layer) -> KernelsConfig:
        """Returns the recipe's config for a layer."""
        if self.recipe is None:
            raise ValueError(
                f"The layer {layer.name!r} is annotated without a quantize config, and the scheme has no recipe. "
                "Expected one of the two. Pass LowBitScheme(recipe), or annotate with a LowBitQuantizeConfig."
            )
        return config_of(layer.name, specs_of(layer, self.recipe))

    def _outputs(
        self, model: tf_keras.Model, given: dict[str, QuantizeConfig], annotated: set[str]
    ) -> dict[str, ActivationSpec]:
        """Returns the specs of quantized outputs by layer; given configs take precedence over the recipe."""
        from_recipe: dict[str, KernelsConfig] = {}
        if self.recipe is not None:
            from_recipe = {name: self._config(model.get_layer(name)) for name in given}
        specs = {name: _spec_of(config) for name, config in given.items() if config != from_recipe.get(name)}
        if self.recipe is None:
            specs |= {layer.name: None for layer in model.layers if kernels(layer) and layer.name not in annotated}
        rules = [(f"^{re.escape(name)}$", spec) for name, spec in specs.items()]
        if self.recipe is not None:
            rules += self.recipe.rules
        return plan_graph(graph_of(model), Recipe(rules), kernels) if rules else {}

    def _with_inputs(self, model: tf_keras.Model) -> tf_keras.Model:
        """Returns the model with a quantizer after each float input."""
        if self.input_spec is None:
            return model
        quantizers = {
            layer.name: QuantizeLayer(ActivationQuantizer(self.input_spec), name=layer.name + QUANTIZED_SUFFIX)
            for layer in model._input_layers
            if layer.dtype.startswith("float")
        }
        return insert_after(model, quantizers)


class NoRegistry(tfmot.quantization.keras.QuantizeRegistry):
    """An empty registry, so that models share no state."""

    def supports(self, layer: tf_keras.layers.Layer) -> bool:
        """Returns False: layers without a config stay as they are."""
        return False

    def get_quantize_config(self, layer: tf_keras.layers.Layer) -> NoOpQuantizeConfig:
        """Returns the config that changes nothing."""
        return NoOpQuantizeConfig()


def specs_of(layer: tf_keras.layers.Layer, recipe: Recipe) -> dict[str, Spec]:
    """Returns a recipe's specs for a layer's kernels, by the kernels' names."""
    specs = {name: recipe.match(layer.name, full_name(layer.name, name)) for name, _ in kernels(layer)}
    return {name: spec for name, spec in specs.items() if spec is not None}


def config_of(path: str, specs: dict[str, Spec]) -> KernelsConfig:
    """Returns the quantize config for the specs of a layer's kernels.

    Args:
        path: the layer's name, for messages.
        specs: specs by the kernels' names.

    Raises:
        ValueError: palettes and uniform grids in one layer.
    """
    if not specs:
        return NoOpQuantizeConfig()
    if wrapper_of(path, specs) is FakeQuantize:
        grids = {name: spec for name, spec in specs.items() if isinstance(spec, QuantSpec)}
        return LowBitQuantizeConfig.of(next(iter(grids.values())), kernels=grids)
    palettes = {name: spec for name, spec in specs.items() if isinstance(spec, PaletteSpec)}
    if any(spec.activation_bits is not None for spec in palettes.values()):
        expected = "palettes without activation_bits, because outputs of tf_keras layers with palettes stay float"
        fix = "Leave activation_bits out, or use r2keras.prepare on a Keras 3 model"
        raise ValueError(invalid_part("recipe", expected, f"a palette with activation_bits for {path!r}", fix))
    return PalettizeQuantizeConfig.of(next(iter(palettes.values())), kernels=palettes)


def _spec_of(config: QuantizeConfig) -> Spec | None:
    """Returns the spec of a recipe that is equivalent to a config from the caller."""
    if not isinstance(config, LowBitQuantizeConfig):
        return getattr(config, "spec", None)
    activation = config.activation
    if activation is None:
        return config.spec
    # Only EWGS has a delta, and a QuantSpec has one delta for weights and activations.
    weights: dict[str, Any] = {} if activation.delta is None else {"method": "ewgs", "delta": activation.delta}
    return QuantSpec(
        activation_bits=activation.num_bits,
        activation_method=activation.method,
        activation_range=activation.range,
        **weights,
    )


def _with_output(config: QuantizeConfig, activation: ActivationSpec | None) -> QuantizeConfig:
    """Returns a layer's config with the planned spec for its output; configs of other libraries are left unchanged."""
    if isinstance(config, LowBitQuantizeConfig):
        return config.with_output(activation)
    if activation is None or not isinstance(config, NoOpQuantizeConfig):
        return config
    return _output_config(activation)


def _output_config(activation: ActivationSpec) -> LowBitQuantizeConfig:
    """Returns the config that quantizes a layer's output and none of its kernels."""
    return LowBitQuantizeConfig.of(QuantSpec(), kernels={}, activation=activation)


def _wrap_others(model: tf_keras.Model, outputs: dict[str, ActivationSpec]) -> tf_keras.Model:
    """Returns the model with wrappers around layers that are not annotated but whose outputs are quantized.

    `quantize_apply` would skip those that feed an annotated layer, or give them a config that no file can store.
    """
    if not outputs:
        return model

    def wrap(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
        if layer.name not in outputs:
            return layer
        return quantization.QuantizeWrapperV2(layer, _output_config(outputs[layer.name]))

    return tf_keras.models.clone_model(model, clone_function=wrap)
