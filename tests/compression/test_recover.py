"""Records of models that others compressed: grids and palettes found by value, bit for bit, and nothing guessed."""

import keras
import numpy as np
import pytest
from keras import layers

import r2keras

pytestmark = pytest.mark.backends


def net():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    x = layers.Flatten()(layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x))
    return keras.Model(inputs, layers.Dense(6, name="head")(x))


@pytest.mark.parametrize(
    "spec",
    [
        *(r2keras.QuantSpec(num_bits=bits) for bits in (8, 4, 3, 2, 1)),
        r2keras.QuantSpec(num_bits=2, levels="mid_tread"),
        r2keras.QuantSpec(num_bits=4, granularity="per_tensor"),
        r2keras.PaletteSpec(num_bits=3, min_size=0),
        r2keras.PaletteSpec(num_bits=1, min_size=0),
    ],
)
def test_what_was_compressed_comes_back(spec):
    small, record = r2keras.calibrate(net(), r2keras.Recipe([(".*", spec)]))
    found = r2keras.recover(small)
    assert set(found.tensors) == set(record.tensors)
    for name, tensor in record.tensors.items():
        np.testing.assert_array_equal(found.tensors[name].values(), tensor.values())
        # A channel may leave codes unused, and a palette may have equal entries: then fewer bits are enough.
        assert found.tensors[name].spec.num_bits <= spec.num_bits
    assert max(tensor.spec.num_bits for tensor in found.tensors.values()) == spec.num_bits
    assert (found.kept_float, found.num_values, found.model_name) == ({}, small.count_params(), small.name)


def test_pruned_and_clustered_kernels_keep_their_zeros():
    model = net()
    for name in ("conv", "head"):
        kernel, bias = model.get_layer(name).get_weights()
        centers = np.array([-0.3, 0.0, 0.1, 0.25], np.float32)
        nearest = centers[np.abs(kernel[..., None] - centers).argmin(-1)]
        model.get_layer(name).set_weights([nearest, bias])
    record = r2keras.recover(model)
    assert {name: tensor.spec.num_bits for name, tensor in record.tensors.items()} == {
        "conv/kernel": 2,
        "head/kernel": 2,
    }
    assert np.any(record.tensors["head/kernel"].values() == 0)
    assert record.kept_float == {"depthwise/kernel": "144 different values, on no grid of 8 bits"}


def test_a_palette_is_not_larger_than_the_floats():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8, name="head")])
    with pytest.raises(ValueError, match=r"few different values.*head/kernel has 32 different values"):
        r2keras.recover(model)


def test_a_limit_on_bits_keeps_others_float():
    small, _ = r2keras.calibrate(net(), r2keras.Recipe([("conv", r2keras.QuantSpec(2)), (".*", r2keras.QuantSpec(8))]))
    record = r2keras.recover(small, max_bits=4)
    assert set(record.tensors) == {"conv/kernel"} and "head/kernel" in record.kept_float


def test_zeros_and_one_value():
    model = keras.Sequential([keras.Input((64,)), layers.Dense(32, name="a"), layers.Dense(16, name="b")])
    model.get_layer("a").kernel.assign(np.zeros((64, 32)))
    model.get_layer("b").kernel.assign(np.full((32, 16), -0.7))
    record = r2keras.recover(model)
    assert not record.tensors["a/kernel"].values().any()
    np.testing.assert_array_equal(record.tensors["b/kernel"].values(), np.full((32, 16), -0.7, np.float32))


@pytest.mark.parametrize(
    "model, error, expected",
    [("m.keras", TypeError, "model"), (keras.Sequential([layers.Dense(2)]), ValueError, "built")],
)
def test_bad_input(model, error, expected):
    with pytest.raises(error, match=expected):
        r2keras.recover(model)
    with pytest.raises(ValueError, match="`max_bits`"):
        r2keras.recover(net(), max_bits=9)
