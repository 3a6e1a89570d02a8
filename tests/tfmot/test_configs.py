"""The configs fulfill TFMOT's interface: kernels out and in, outputs, JSON, scope, clone."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from r2keras import ActivationSpec, PaletteSpec, QuantSpec
from r2keras.tfmot import LowBitQuantizeConfig, NoOpQuantizeConfig, PalettizeQuantizeConfig, scope

quantization = tfmot.quantization.keras
CONFIGS = {
    "plain": LowBitQuantizeConfig(weight_bits=2, activation_bits=8, method="ewgs"),
    "mixed": LowBitQuantizeConfig(kernels={"lstm_cell/kernel": QuantSpec(num_bits=3)}),
    "grouped": LowBitQuantizeConfig(weight_bits=4, granularity="per_group", group_size=2, range="min_max"),
    "output": LowBitQuantizeConfig(activation=ActivationSpec(num_bits=4, method="pact", unsigned=True), kernels={}),
    "palette": PalettizeQuantizeConfig(num_bits=2, dim=2, min_size=0, temperature=0.1),
    "palettes": PalettizeQuantizeConfig(kernels={"kernel": PaletteSpec(num_bits=1, min_size=0)}),
    "none": NoOpQuantizeConfig(),
}
EVERY = pytest.mark.parametrize("case", CONFIGS)


def dense(activation=None):
    layer = tf_keras.layers.Dense(4, activation, name="dense")
    layer.build((None, 6))
    return layer


@EVERY
def test_json_round_trip(case):
    config = CONFIGS[case]
    assert isinstance(config, quantization.QuantizeConfig)
    plain = json.loads(json.dumps(config.get_config()))
    assert type(config).from_config(plain) == config
    serialized = json.loads(json.dumps(tf_keras.utils.legacy.serialize_keras_object(config)))
    assert tf_keras.utils.legacy.deserialize_keras_object(serialized) == config
    if case == "none":  # TFMOT has a class of that bare name too.
        return
    with scope():
        bare = {"class_name": type(config).__name__, "config": plain}
        assert tf_keras.utils.legacy.deserialize_keras_object(bare) == config


@EVERY
def test_annotation_survives_a_config(case):
    annotated = quantization.quantize_annotate_layer(tf_keras.layers.Dense(4), CONFIGS[case])
    again = type(annotated).from_config(annotated.get_config())
    assert again.quantize_config == CONFIGS[case]


def test_configs_differ_by_their_arguments():
    assert LowBitQuantizeConfig(weight_bits=2) != LowBitQuantizeConfig(weight_bits=3)
    assert LowBitQuantizeConfig() != PalettizeQuantizeConfig()


def test_kernels_out_and_values_in():
    layer, config = dense(), CONFIGS["grouped"]
    ((variable, quantizer),) = config.get_weights_and_quantizers(layer)
    assert variable is layer.kernel and isinstance(quantizer, quantization.quantizers.Quantizer)
    config.set_quantize_weights(layer, [tf.ones((6, 4))])
    np.testing.assert_array_equal(layer(tf.ones((1, 6))), [[6.0] * 4])
    config.set_quantize_weights(layer, [2 * tf.ones((6, 4))])
    assert float(layer.kernel[0, 0]) == 2
    with pytest.raises(ValueError, match="1 values, one per compressed kernel of 'dense'"):
        config.set_quantize_weights(layer, [])
    with pytest.raises(ValueError, match=r"the shape \(6, 4\) for dense/kernel"):
        config.set_quantize_weights(layer, [tf.ones((4, 6))])
    assert config.get_activations_and_quantizers(layer) == []
    config.set_quantize_activations(layer, [])
    with pytest.raises(ValueError, match="an empty list"):
        config.set_quantize_activations(layer, [tf.nn.relu])


def test_an_output_after_relu_spends_no_code_on_the_sign():
    config = LowBitQuantizeConfig(activation_bits=4)
    (signed,), (unsigned,) = (config.get_output_quantizers(dense(name)) for name in (None, "relu"))
    assert (signed.spec.unsigned, unsigned.spec.unsigned) == (False, True)
    (after,) = config.get_output_quantizers(tf_keras.layers.ReLU())
    assert after.spec == ActivationSpec(num_bits=4, unsigned=True)
    assert LowBitQuantizeConfig().get_output_quantizers(dense()) == []


def test_small_kernels_stay_float_under_palettes():
    config = PalettizeQuantizeConfig(num_bits=2, min_size=25)
    assert config.get_weights_and_quantizers(dense()) == []
    assert config.kept_float(dense()) == {"kernel": "its 24 weights are fewer than the palette's min_size=25"}


def test_one_config_serves_two_layers():
    config = LowBitQuantizeConfig(weight_bits=4, range="min_max")
    layers = [tf_keras.layers.Dense(n, name=f"d{n}") for n in (3, 5)]
    annotated = [quantization.quantize_annotate_layer(layer, config) for layer in layers]
    qat = quantization.quantize_apply(tf_keras.Sequential([tf_keras.Input((4,)), *annotated]))
    kernels = [layer._weight_vars[0] for layer in qat.layers if hasattr(layer, "_weight_vars")]
    assert [tuple(kernel[0].shape) for kernel in kernels if kernel] == [(4, 3), (3, 5)]


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: LowBitQuantizeConfig(weight_bits=9), ValueError, "num_bits"),
        (lambda: LowBitQuantizeConfig(method="lqs"), ValueError, "Did you mean 'lsq'"),
        (lambda: LowBitQuantizeConfig(rnage="mse"), ValueError, "Did you mean 'range'"),
        (
            lambda: LowBitQuantizeConfig(activation_bits=4, activation_method="alternating"),
            ValueError,
            "a method for outputs.*r2keras.prepare on a Keras 3 model",
        ),
        (
            lambda: LowBitQuantizeConfig(activation_bits=8, activation_method="dynamic"),
            ValueError,
            "a method for outputs.*r2keras.prepare on a Keras 3 model",
        ),
        (
            lambda: LowBitQuantizeConfig(
                kernels={"kernel": QuantSpec(4, activation_bits=8, activation_method="dynamic")}
            ),
            ValueError,
            "a method for outputs.*r2keras.prepare on a Keras 3 model",
        ),
        (lambda: LowBitQuantizeConfig(activation_bits=4, activation=ActivationSpec()), ValueError, "activation_bits"),
        (lambda: LowBitQuantizeConfig(kernels={"kernel": PaletteSpec()}), TypeError, "a QuantSpec"),
        (lambda: PalettizeQuantizeConfig(num_bits=0), ValueError, "num_bits"),
        (
            lambda: LowBitQuantizeConfig(kernels={"bias": QuantSpec()}).get_weights_and_quantizers(dense()),
            ValueError,
            "names of kernels of 'dense'",
        ),
    ],
)
def test_bad_arguments(make, error, match):
    with pytest.raises(error, match=match):
        make()
