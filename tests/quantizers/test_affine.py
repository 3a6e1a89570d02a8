"""AffineQuantizer: its grid, its range in training, its config."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from r2keras.quantizers import AffineQuantizer
from r2keras.specs import QuantSpec
from tests import reference
from tests.gradients import gradients

pytestmark = pytest.mark.backends

SHAPE = (8, 6)
SPECS = {
    "4 bits": {"num_bits": 4},
    "2 bits": {"num_bits": 2},
    "asymmetric": {"num_bits": 3, "symmetric": False},
    "full": {"num_bits": 3, "narrow_range": False},
    "groups": {"num_bits": 2, "granularity": "per_group", "group_size": 2},
}
SCALES = {"per_channel": (1, 6), "per_group": (4, 6)}


def array(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def weights(seed=0):
    return np.random.default_rng(seed).normal(0.05, 0.3, SHAPE).astype("float32")


def make(name, find):
    spec = QuantSpec(range=find, **SPECS[name])
    return AffineQuantizer(spec, SHAPE, SCALES[spec.granularity])


def min_max(x, spec):
    limits, shape = (spec.quant_min, spec.quant_max), SCALES[spec.granularity]
    if not spec.symmetric:
        return reference.asymmetric_range(x, shape, *limits)
    return reference.symmetric_range(x, shape, *limits, spec.levels == "mid_rise")


@pytest.mark.parametrize("find", ["min_max", "mse"])
@pytest.mark.parametrize("name", SPECS)
def test_call_codes_and_grid_are_one_quantization(name, find):
    quantizer, x = make(name, find), weights()
    quantizer.initialize(x)
    scale, zero = map(array, quantizer.grid(ops.convert_to_tensor(x)))
    values, codes = array(quantizer(ops.convert_to_tensor(x))), array(quantizer.codes(ops.convert_to_tensor(x)))
    limits = quantizer.spec.quant_min, quantizer.spec.quant_max
    np.testing.assert_array_equal(codes, reference.codes(x, scale, zero, *limits))
    np.testing.assert_array_equal(values, reference.dequantize(codes, scale, zero))
    expected = min_max(x, quantizer.spec)
    if find == "min_max":
        np.testing.assert_array_equal(scale, expected[0])
        np.testing.assert_array_equal(zero, expected[1])
    errors = [reference.squared_errors(x, *grid, *limits).sum() for grid in ((scale, zero), expected)]
    assert errors[0] <= errors[1] * (0.99 if find == "mse" else 1.0)


@pytest.mark.parametrize("name", SPECS)
def test_min_max_follows_the_weight_and_stores_nothing(name):
    quantizer = make(name, "min_max")
    assert quantizer.weights == []
    quantizer.initialize(weights())
    for seed in (1, 2):
        np.testing.assert_array_equal(
            array(quantizer.grid(ops.convert_to_tensor(weights(seed)))[0]), min_max(weights(seed), quantizer.spec)[0]
        )


@pytest.mark.parametrize("name", SPECS)
def test_mse_stores_a_range_that_training_moves_and_inference_does_not(name):
    quantizer, x = make(name, "mse"), weights()
    assert [v.name for v in quantizer.non_trainable_weights] == ["scale", "zero_point"]
    assert not quantizer.trainable_weights
    quantizer.initialize(x, search=False)
    start = array(quantizer.scale)
    np.testing.assert_array_equal(start, min_max(x, quantizer.spec)[0])
    limits = quantizer.spec.quant_min, quantizer.spec.quant_max
    quantizer(ops.convert_to_tensor(x), training=False)
    np.testing.assert_array_equal(array(quantizer.scale), start)
    error = reference.squared_errors(x, start, array(quantizer.zero_point), *limits)
    for _ in range(3):
        values = array(quantizer(ops.convert_to_tensor(x), training=True))
        scale, zero = array(quantizer.scale), array(quantizer.zero_point)
        np.testing.assert_array_equal(values, reference.fake_quantize(x, scale, zero, *limits))
        after = reference.squared_errors(x, scale, zero, *limits)
        assert (after <= error * (1 + 1e-5)).all()
        error = after
    assert (array(quantizer.scale) != start).any()


def test_a_frozen_quantizer_keeps_its_range():
    quantizer = make("4 bits", "mse")
    quantizer.initialize(weights(), search=False)
    quantizer.trainable = False
    start = array(quantizer.scale)
    quantizer(ops.convert_to_tensor(weights()), training=True)
    np.testing.assert_array_equal(array(quantizer.scale), start)


@pytest.mark.parametrize("find", ["min_max", "mse"])
def test_the_gradient_is_the_mask(find):
    quantizer, x = make("groups", find), weights()
    quantizer.initialize(0.4 * x)
    (gradient,) = gradients(lambda w: ops.sum(quantizer(w)), x)
    scale, zero = map(array, quantizer.grid(ops.convert_to_tensor(x)))
    mask = reference.passes(x, scale, zero, -2, 1)
    assert mask.min() == (0 if find == "mse" else 1)
    np.testing.assert_array_equal(gradient, mask)


@pytest.mark.parametrize("name", SPECS)
def test_config_round_trip(name):
    quantizer = make(name, "mse")
    config = json.loads(json.dumps(quantizer.get_config()))
    again = AffineQuantizer.from_config(config)
    assert again.get_config() == quantizer.get_config() and again.spec == quantizer.spec
    stored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(quantizer))
    assert stored.spec == quantizer.spec and stored.scale_shape == quantizer.scale_shape


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_weights_keep_their_type(dtype):
    quantizer = make("4 bits", "mse")
    x = ops.cast(ops.convert_to_tensor(weights()), dtype)
    quantizer.initialize(x)
    assert keras.backend.standardize_dtype(quantizer(x, training=True).dtype) == dtype
    assert quantizer.scale.dtype == "float32"
