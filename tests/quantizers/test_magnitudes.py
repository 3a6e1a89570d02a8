"""Weights of any magnitude: scaled by a power of two, they are quantized to the same codes, with scaled values."""

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import PaletteSpec, QuantSpec, Recipe, prepare
from r2keras._models.values import to_numpy
from r2keras.layers import Palettize
from r2keras.layers.kernels.compressor import compressor
from r2keras.ops import affine

pytestmark = pytest.mark.backends

WEIGHT = np.random.default_rng(0).normal(scale=0.2, size=(16, 6)).astype("float32")
SPECS = {
    "min-max": QuantSpec(num_bits=8, range="min_max"),
    "mid-rise": QuantSpec(num_bits=2, range="min_max"),
    "percentile": QuantSpec(num_bits=4, range="percentile", granularity="per_channel"),
    "least error": QuantSpec(num_bits=3, range="mse", granularity="per_channel"),
    "least error, mid-rise": QuantSpec(num_bits=1, range="mse"),
    "asymmetric": QuantSpec(num_bits=4, symmetric=False, range="mse"),
    "lsq": QuantSpec(num_bits=2, method="lsq", granularity="per_channel"),
    "ewgs": QuantSpec(num_bits=2, method="ewgs"),
    "binary": QuantSpec(num_bits=1, method="binary", granularity="per_channel"),
    "ternary": QuantSpec(num_bits=2, method="ternary"),
    "alternating": QuantSpec(num_bits=3, method="alternating", granularity="per_channel"),
    "palette": PaletteSpec(num_bits=3, min_size=0),
    "vectors": PaletteSpec(num_bits=2, dim=2, min_size=0),
    "int8 table": PaletteSpec(num_bits=2, table_dtype="int8", min_size=0),
    "channel scale": PaletteSpec(num_bits=2, table_dtype="float16", channel_scale=True, min_size=0),
}
# These squash weights by tanh, which is the identity for tiny ones only.
SQUASHED = {
    "dorefa": QuantSpec(num_bits=3, method="dorefa"),
    "balanced": QuantSpec(num_bits=2, method="balanced"),
}


def quantized(spec, weight):
    """The values of the record and those that the model computes with."""
    layer = layers.Dense(weight.shape[1], use_bias=False)
    layer.build((None, weight.shape[0]))
    layer.kernel.assign(weight)
    quantizer = compressor(spec, layer, layer.kernel, name="quantizer")
    quantizer.initialize(layer.kernel.value, search=True)
    values = quantizer.tensor("kernel", layer.kernel.value, to_numpy(layer.kernel)).values()
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(quantizer(layer.kernel.value)), values)
    return values


def check_scaled(spec, start, power):
    factor = np.float32(2.0**power)
    expected = quantized(spec, WEIGHT * np.float32(2.0**start))
    np.testing.assert_allclose(quantized(spec, WEIGHT * factor) / factor, expected * np.float32(2.0**-start), rtol=1e-6)


@pytest.mark.parametrize("power", [-100, 100])
@pytest.mark.parametrize("name", SPECS)
def test_codes_do_not_depend_on_the_magnitude(name, power):
    check_scaled(SPECS[name], 0, power)


def test_tiny_weights_are_squashed_like_small_ones():
    check_scaled(SQUASHED["balanced"], -20, -100)
    # DoReFa's values fill [-1, 1] whatever the weights are.
    small, tiny = (quantized(SQUASHED["dorefa"], WEIGHT * np.float32(2.0**power)) for power in (-20, -100))
    np.testing.assert_allclose(tiny, small, rtol=1e-6)


@pytest.mark.parametrize("name", [*SPECS, "balanced"])
def test_zeros_stay_practically_zero(name):
    assert np.abs(quantized((SPECS | SQUASHED)[name], np.zeros_like(WEIGHT))).max() <= 2.0**-60


def test_zeros_in_half_precision():
    layer = layers.Dense(6, use_bias=False, dtype="float16")
    layer.build((None, 16))
    layer.kernel.assign(np.zeros_like(WEIGHT))
    quantizer = compressor(SPECS["least error"], layer, layer.kernel, name="quantizer")
    quantizer.initialize(layer.kernel.value)
    assert not keras.ops.convert_to_numpy(quantizer(layer.kernel.value)).any()


def test_channels_of_very_different_magnitudes():
    factors = np.array([1e30, 1.0, 1e-30, 1.0, 0.0, 1e-12], "float32")
    for name in ("percentile", "least error", "lsq", "binary", "alternating"):
        plain, values = quantized(SPECS[name], WEIGHT), quantized(SPECS[name], WEIGHT * factors)
        for channel in (0, 1, 2, 5):
            np.testing.assert_allclose(values[:, channel] / factors[channel], plain[:, channel], rtol=1e-4)


def test_the_floor_leaves_what_is_not_finite():
    found = affine.floored(keras.ops.convert_to_tensor([np.nan, -1.0, 0.0, 1e-37, 2.0]))
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(found), np.array([np.nan, 2.0**-64, 2.0**-64, 2.0**-120, 2.0], "float32")
    )


@pytest.mark.parametrize("factor", [1e6, 1e-9])
def test_a_table_that_cannot_hold_the_weights_is_refused_before_training(factor):
    model = keras.Sequential([keras.Input((16,)), layers.Dense(6, use_bias=False, name="head")])
    model.set_weights([WEIGHT * np.float32(factor)])
    spec = PaletteSpec(num_bits=2, table_dtype="float16", min_size=0)
    with pytest.raises(ValueError, match=r"`table_dtype`.*in the weight .*head/kernel, which float16 does not hold"):
        prepare(model, Recipe([("head", spec)]))


def test_soft_palettes_train_at_any_magnitude():
    def soft(factor):
        layer = Palettize(layers.Dense(6, use_bias=False), PaletteSpec(num_bits=2, min_size=0))
        layer.build((None, 16))
        layer.layer.set_weights([WEIGHT * np.float32(factor)])
        layer.initialize()
        return keras.ops.convert_to_numpy(layer(keras.ops.eye(16), training=True)) / np.float32(factor), layer.gaps()

    plain, gaps = soft(1.0)
    for factor in (2.0**-100, 2.0**100):
        values, own_gaps = soft(factor)
        np.testing.assert_allclose(values, plain, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(own_gaps["kernel"], gaps["kernel"], rtol=1e-3)
