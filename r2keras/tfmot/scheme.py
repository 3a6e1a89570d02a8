"""The scheme for `quantize_apply`: which config each layer gets, and where activations are quantized."""

from __future__ import annotations

import re
from typing import Any

import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import QuantizeLayer

from r2keras._errors import invalid
from r2keras._tf_keras import kernels
from r2keras.compress import QUANTIZED, wrapper_of
from r2keras.layers.fake_quantize import FakeQuantize
from r2keras.palette_spec import PaletteSpec
from r2keras.placement import plan_graph
from r2keras.recipe import Recipe, Spec
from r2keras.specs import ActivationSpec, QuantSpec
from r2keras.tfmot.configs import KernelsConfig, LowBitQuantizeConfig, NoOpQuantizeConfig, PalettizeQuantizeConfig
from r2keras.tfmot.graph import graph_of, insert_after
from r2keras.tfmot.quantizers import ActivationQuantizer

quantization = tfmot.quantization.keras


class LowBitScheme(tfmot.quantization.keras.QuantizeScheme):
    """Says to `quantize_apply` what becomes of annotated layers: any mixture of bit widths, methods and palettes.

    As in TFMOT's 8-bit scheme convolution (or dense), batch normalization and activation function are one operator:
    only its end is quantized; and so is a residual sum with its activation function (`r2keras.activation_plan`). What
    reaches the model's outputs only stays float. A layer annotated with a config keeps that config's bits; one
    annotated without takes the recipe's; layers without annotation keep their weights float.

    Args:
        recipe: what becomes what; None where every annotated layer has a config.
        input_bits: bits of the model's float inputs, 2 to 8; None leaves them float.

    Raises:
        TypeError: `recipe` is no `r2keras.Recipe`.
        ValueError: a bad `input_bits`.

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
        # Checks the number of bits.
        self.input_spec = None if input_bits is None else ActivationSpec(num_bits=input_bits)
        self.recipe, self.input_bits = recipe, input_bits

    def get_layout_transformer(self) -> LowBitLayout:
        """Returns what decides on every layer's config."""
        return LowBitLayout(self.recipe, self.input_spec)

    def get_quantize_registry(self) -> NoRegistry:
        """Returns a registry that adds nothing: the layout has decided."""
        return NoRegistry()


class LowBitLayout(tfmot.quantization.keras.QuantizeLayoutTransform):
    """Gives every layer its config, and quantizes the inputs.

    Args:
        recipe: what becomes what, or None.
        input_spec: what becomes of float inputs, or None.
    """

    def __init__(self, recipe: Recipe | None, input_spec: ActivationSpec | None):
        self.recipe, self.input_spec = recipe, input_spec

    def apply(self, model: tf_keras.Model, layer_quantize_map: dict) -> tuple[tf_keras.Model, dict]:
        """Returns the model, with quantized inputs, and the configs of its layers.

        Args:
            model: the model without annotations.
            layer_quantize_map: `{"quantize_config": config or None}` by the names of annotated layers.

        Raises:
            ValueError: a layer annotated without a config where there is no recipe.
        """
        inputs = {layer.name for layer in model._input_layers}
        annotated = {name: e["quantize_config"] for name, e in layer_quantize_map.items() if name not in inputs}
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
                "Expected one or the other. Pass LowBitScheme(recipe), or annotate with a LowBitQuantizeConfig."
            )
        return config_of(layer.name, specs_of(layer, self.recipe))

    def _outputs(self, model: tf_keras.Model, given: dict[str, Any], annotated: set[str]) -> dict[str, ActivationSpec]:
        """Returns what becomes of outputs, by layer; configs that are not the recipe's own come before it."""
        recipes = {} if self.recipe is None else {name: self._config(model.get_layer(name)) for name in given}
        rules = {name: _rule(config) for name, config in given.items() if config != recipes.get(name)}
        if self.recipe is None:
            rules |= {layer.name: None for layer in model.layers if kernels(layer) and layer.name not in annotated}
        exact = [(f"^{re.escape(name)}$", spec) for name, spec in rules.items()]
        every = [*exact, *(self.recipe.rules if self.recipe else ())]
        return plan_graph(graph_of(model), Recipe(every), kernels) if every else {}

    def _with_inputs(self, model: tf_keras.Model) -> tf_keras.Model:
        """Returns the model with a quantizer behind each float input."""
        if self.input_spec is None:
            return model
        floats = [layer.name for layer in model._input_layers if layer.dtype.startswith("float")]
        spec = self.input_spec
        return insert_after(model, {n: QuantizeLayer(ActivationQuantizer(spec), name=n + QUANTIZED) for n in floats})


class NoRegistry(tfmot.quantization.keras.QuantizeRegistry):
    """A registry without layers: no state that could be shared."""

    def supports(self, layer) -> bool:
        """Returns False: layers without a config stay as they are."""
        return False

    def get_quantize_config(self, layer) -> NoOpQuantizeConfig:
        """Returns the config that changes nothing."""
        return NoOpQuantizeConfig()


def specs_of(layer: tf_keras.layers.Layer, recipe: Recipe) -> dict[str, Spec]:
    """Returns what a recipe makes of a layer's kernels, by their names."""
    found = {name: recipe.match(layer.name, f"{layer.name}/{name}") for name, _ in kernels(layer)}
    return {name: spec for name, spec in found.items() if spec is not None}


def config_of(path: str, specs: dict[str, Spec]) -> KernelsConfig:
    """Returns the quantize config for the specs of a layer's kernels.

    Raises:
        ValueError: palettes and uniform grids in one layer.
    """
    if not specs:
        return NoOpQuantizeConfig()
    if wrapper_of(path, specs) is FakeQuantize:
        grids = {name: spec for name, spec in specs.items() if isinstance(spec, QuantSpec)}
        return LowBitQuantizeConfig.of(next(iter(grids.values())), kernels=grids)
    palettes = {name: spec for name, spec in specs.items() if isinstance(spec, PaletteSpec)}
    return PalettizeQuantizeConfig.of(next(iter(palettes.values())), kernels=palettes)


def _rule(config: Any) -> Spec | None:
    """Returns what a config given by hand stands for in a recipe."""
    if not isinstance(config, LowBitQuantizeConfig):
        return getattr(config, "spec", None)
    if config.activation is None:
        return config.spec
    words = config.activation.to_dict()
    names = {"num_bits": "activation_bits", "method": "activation_method", "range": "activation_range"}
    # Only EWGS has a delta, and its activations take that of the weights.
    grid = {} if words["delta"] is None else {"method": "ewgs", "delta": words["delta"]}
    return QuantSpec(**{names[key]: words[key] for key in names}, **grid)


def _with_output(config: Any, activation: ActivationSpec | None) -> Any:
    """Returns a layer's config with the output that the plan gives it; other people's configs stay as they are."""
    if isinstance(config, LowBitQuantizeConfig):
        return config.with_output(activation)
    if activation is None or not isinstance(config, NoOpQuantizeConfig):
        return config
    return _of_output(activation)


def _of_output(activation: ActivationSpec) -> LowBitQuantizeConfig:
    """Returns the config that quantizes an output alone."""
    return LowBitQuantizeConfig.of(QuantSpec(), kernels={}, activation=activation)


def _wrap_others(model: tf_keras.Model, outputs: dict[str, ActivationSpec]) -> tf_keras.Model:
    """Returns the model with layers wrapped that nobody annotated and whose outputs are quantized.

    `quantize_apply` would leave out those that feed an annotated layer, or give them a config that no file can hold.
    """
    if not outputs:
        return model

    def wrap(layer):
        if layer.name not in outputs:
            return layer
        return quantization.QuantizeWrapperV2(layer, _of_output(outputs[layer.name]))

    return tf_keras.models.clone_model(model, clone_function=wrap)
