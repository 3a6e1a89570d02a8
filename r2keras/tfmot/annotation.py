"""`annotate`: a tf_keras model with TFMOT's annotations, by a recipe."""

from __future__ import annotations

import tensorflow_model_optimization as tfmot
import tf_keras

from r2keras._models.tf_keras_layers import kernels
from r2keras._models.walk import full_name
from r2keras._util.errors import invalid, invalid_part
from r2keras.compression.edges import edges_in
from r2keras.compression.weight_plan import check_patterns
from r2keras.specs import Recipe, Spec
from r2keras.tfmot.checks import check_model, check_weights
from r2keras.tfmot.scheme import config_of, specs_of
from r2keras.tfmot.surgery import copy_layer, copy_model, graph_of

quantization = tfmot.quantization.keras


def annotate(model: tf_keras.Model, recipe: Recipe) -> tf_keras.Model:
    """Returns a copy of a tf_keras model whose layers are annotated with quantize configs that follow a recipe.

    The next step is `tfmot.quantization.keras.quantize_apply(annotated, scheme=LowBitScheme(recipe))`.

    Args:
        model: a built, flat Functional or Sequential tf_keras model. It is left untouched.
        recipe: the spec of each kernel, as for `r2keras.prepare`; patterns are searched in names such as `"conv1"` and
            `"conv1/kernel"`, or tf_keras' `"block1/depthwise_kernel"` and `"lstm/lstm_cell/recurrent_kernel"`.

    Returns:
        A model of the same class with the same weights. Layers with a kernel that the recipe matches are wrapped in
        TFMOT's `QuantizeAnnotate`, with a `LowBitQuantizeConfig` or a `PalettizeQuantizeConfig`.

    Raises:
        TypeError: `model` is a Keras 3 model, a subclassed model or not a model; `recipe` is not a Recipe.
        ValueError: the model is not built, contains another model or makes masks; a pattern matches nothing; no kernel
            is matched; a weight is NaN or infinite.

    Example:

    >>> from r2keras import QuantSpec
    >>> model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2, name="head")])
    >>> annotated = annotate(model, Recipe([("head", QuantSpec(num_bits=4))]))
    >>> annotated.layers[0].quantize_config.spec.num_bits
    4
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(invalid("recipe", "an r2keras.Recipe", recipe))
    check_model(model)
    check_weights(model)
    recipe = edges_in(recipe, lambda: graph_of(model), kernels)
    specs_by_layer = {layer.name: specs_of(layer, recipe) for layer in model.layers}
    specs_by_layer = {name: specs for name, specs in specs_by_layer.items() if specs}
    _check_recipe(model, recipe, specs_by_layer)

    def wrap(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer | None:
        if layer.name not in specs_by_layer:
            return None
        copy = copy_layer(layer)
        return quantization.quantize_annotate_layer(copy, config_of(layer.name, specs_by_layer[layer.name]))

    annotated = copy_model(model, wrap)
    for old, new in zip(model.layers, annotated.layers, strict=True):
        new.set_weights(old.get_weights())
    return annotated


def _check_recipe(model: tf_keras.Model, recipe: Recipe, specs_by_layer: dict[str, dict[str, Spec]]) -> None:
    """Raises for a recipe that does not fit the model."""
    kernel_names: list[tuple[str, str]] = []
    other_names: list[tuple[str, str]] = []
    for layer in model.layers:
        own_kernels = [name for name, _ in kernels(layer)]
        kernel_names += [(layer.name, full_name(layer.name, name)) for name in own_kernels]
        if not own_kernels:
            other_names.append((layer.name, layer.name))
    check_patterns(recipe, kernel_names, other_names)
    if not specs_by_layer:
        expected = "a rule with a spec that matches a kernel, because TFMOT accepts no model without an annotated layer"
        received = f"a recipe that leaves every kernel of {model.name!r} float"
        raise ValueError(invalid_part("recipe", expected, received, "Add such a rule"))
