"""The scheme quantizes as on Keras 3, fuses as TFMOT's own 8-bit scheme, and gives each layer its own bits."""

import functools

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
import tf_keras

from r2keras import QuantSpec, Recipe, activation_plan
from r2keras.tfmot import LowBitQuantizeConfig, LowBitScheme, NoOpQuantizeConfig, PalettizeQuantizeConfig, annotate
from r2keras.tfmot.surgery import graph_of
from tests.tfmot.nets import RECIPE, X, applied, apply, configs, keras3_net, net, outputs, tiny

quantization = tfmot.quantization.keras
OF_RELU = Recipe([("stem_relu", QuantSpec(activation_bits=3)), (".*", QuantSpec(num_bits=2, activation_bits=4))])
INNER = ["stem", "stem_bn", "dw", "dw_bn", "pw", "add"]


@functools.cache
def widths():
    """The net under the widths of the recipe, which no test changes."""
    return applied()


def outputs_of(model):
    """The specs of quantized outputs, by layer."""
    found = {name: getattr(config, "activation", None) for name, config in configs(model).items()}
    return {name: activation for name, activation in found.items() if activation is not None}


@pytest.mark.parametrize("recipe", [RECIPE, OF_RELU], ids=["widths", "a rule for a ReLU"])
def test_outputs_are_quantized_where_keras_3_quantizes_them(recipe):
    model = widths() if recipe is RECIPE else applied(recipe=recipe)
    assert outputs_of(model) == activation_plan(keras3_net(), recipe)


def test_the_rule_for_the_edges_finds_the_first_and_last_kernels():
    recipe = Recipe.uniform(4, activation_bits=8)
    model = applied(recipe=recipe)
    found = {name: config.spec.num_bits for name, config in configs(model).items() if config.kernels != {}}
    assert found == {"stem": 8, "dw": 4, "pw": 4, "hidden": 4, "head": 8}
    assert outputs_of(model) == activation_plan(keras3_net(), recipe)


def test_nothing_is_quantized_inside_a_fused_operator_as_in_the_8_bit_scheme():
    theirs = quantization.quantize_apply(quantization.quantize_annotate_model(net()))
    for layer in (layer for layer in theirs.layers if hasattr(layer, "quantize_config") and layer.layer.name in INNER):
        kinds = {type(activation.activation).__name__ for activation in layer._quantize_activations}
        assert kinds <= {"NoOpActivation"} and not layer._output_quantizers
    assert set(outputs_of(widths())) & set(INNER) == set()


def test_every_layer_keeps_its_own_bits():
    found = {n: (c.spec.num_bits, c.spec.method) for n, c in configs(widths()).items() if c.kernels != {}}
    small = (2, "ste")
    assert found == {"stem": (8, "ste"), "dw": (4, "lsq"), "pw": small, "hidden": small, "head": (8, "ste")}


def test_two_schemes_alive_at_once_share_nothing():
    recipes = [Recipe([(".*", QuantSpec(num_bits=bits, range="min_max"))]) for bits in (3, 5)]
    schemes = [LowBitScheme(recipe) for recipe in recipes]
    models = [apply(annotate(tiny(), recipe), scheme=s) for recipe, s in zip(recipes, schemes, strict=True)]
    found = [{config.spec.num_bits for config in configs(model).values()} for model in models]
    assert found == [{3}, {5}]


def annotated_by_hand(**by_name):
    """The net with some layers annotated."""

    def wrap(layer):
        if layer.name not in by_name:
            return layer
        return quantization.quantize_annotate_layer(layer, by_name[layer.name])

    return tf_keras.models.clone_model(net(), clone_function=wrap)


def test_a_config_given_by_hand_keeps_its_bits_and_its_output_moves_behind_the_pattern():
    mine = LowBitQuantizeConfig(weight_bits=3, activation_bits=5)
    qat = apply(annotated_by_hand(stem=mine, head=LowBitQuantizeConfig(weight_bits=6)), scheme=LowBitScheme())
    found = configs(qat)
    assert found["stem"].spec.num_bits == 3 and found["head"].spec.num_bits == 6
    # A sum takes after what it is made from.
    assert {name: spec.num_bits for name, spec in outputs_of(qat).items()} == {"stem_relu": 5, "add_relu": 5}
    assert set(found) == {"stem", "stem_relu", "add_relu", "head"}


def test_hand_and_recipe_mix():
    by_hand = {"stem": None, "dw": NoOpQuantizeConfig(), "pw": PalettizeQuantizeConfig(num_bits=2, min_size=0)}
    found = configs(apply(annotated_by_hand(**by_hand), scheme=LowBitScheme(RECIPE)))
    assert found["stem"].spec.num_bits == 8
    assert isinstance(found["dw"], NoOpQuantizeConfig) and isinstance(found["pw"], PalettizeQuantizeConfig)
    assert "dw_relu" not in found and "pw_bn" not in found


def test_a_model_annotated_whole_takes_the_recipe():
    qat = apply(quantization.quantize_annotate_model(net()), scheme=LowBitScheme(RECIPE))
    assert outputs_of(qat) == activation_plan(keras3_net(), RECIPE)


def test_inputs_are_quantized_where_asked():
    qat = applied(input_bits=8)
    (layer,) = [layer for layer in qat.layers if layer.name == "image_quantized"]
    assert layer.quantizer.spec.num_bits == 8
    names = [call.path for call in graph_of(qat).calls]
    (stem,) = [call for call in graph_of(qat).calls if call.path == "quant_stem"]
    assert [names[number] for number, _ in stem.inputs] == ["image_quantized"]
    np.testing.assert_allclose(layer(X, training=True), X, atol=0.05)
    with pytest.raises(ValueError, match="num_bits"):
        LowBitScheme(RECIPE, input_bits=9)


def test_weights_are_the_models():
    model = net()
    annotated = annotate(model, RECIPE)
    for old, new in zip(model.layers, annotated.layers, strict=True):
        for first, second in zip(old.get_weights(), new.get_weights(), strict=True):
            np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(outputs(annotated), outputs(model))


def test_a_layer_without_config_and_recipe_is_named():
    with pytest.raises(ValueError, match="'stem' is annotated without a quantize config"):
        apply(annotated_by_hand(stem=None), scheme=LowBitScheme())
    with pytest.raises(TypeError, match=r"an r2keras\.Recipe or None"):
        LowBitScheme({"rules": []})
