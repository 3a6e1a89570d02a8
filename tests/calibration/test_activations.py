"""Ranges of activations: the same for every way to pass the same data; warnings about features of the input."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras import calibration
from r2keras.calibration import data as calibration_data

pytestmark = pytest.mark.backends

RNG = np.random.default_rng(2)


def conv_net():
    keras.utils.set_random_seed(1)
    hidden = [layers.Conv1D(8, 5, activation="relu"), layers.BatchNormalization(), layers.ReLU()]
    return keras.Sequential([keras.Input((16, 1)), *hidden, layers.GlobalAveragePooling1D(), layers.Dense(4)])


def clips(count=60):
    """Quiet and loud sounds, sorted by loudness."""
    loudness = np.sort(np.exp(RNG.uniform(np.log(0.02), 0, count)))
    return (RNG.normal(size=(count, 16, 1)) * loudness[:, None, None]).astype("float32")


def recipe(bits=8, **how):
    return r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=8, activation_bits=bits, **how))])


@pytest.mark.parametrize(("bits", "rule"), [(8, "moving_average"), (4, "mse")])
def test_grids_are_a_property_of_the_data(bits, rule):
    model, x = conv_net(), clips()
    found = []
    for data in (x, (x[i : i + 1] for i in reversed(range(60)))):
        options = {"input_bits": 8, "output_bits": 8}
        small, record = r2keras.calibrate(model, recipe(bits, activation_range=rule), data, **options)
        grids = {name: (grid.scale, grid.zero_point) for name, grid in record.activations.items()}
        found.append((grids, [keras.ops.convert_to_numpy(w) for w in small.weights]))
    (grids, weights), (others, other_weights) = found
    assert grids == others
    assert all(np.array_equal(one, other) for one, other in zip(weights, other_weights, strict=True))


def test_a_shared_layer_has_one_range_for_all_of_its_calls():
    levels = [keras.Input((4,), name=f"level{k}") for k in range(3)]
    head = layers.Dense(3, name="head", activation="relu")
    model = keras.Model(levels, layers.Dense(2)(layers.Add()([head(level) for level in levels])))
    x = [(RNG.normal(size=(50, 4)) * scale).astype("float32") for scale in (5, 0.2, 1)]
    student = r2keras.prepare(model, recipe())
    calibration.set_activation_ranges(student, x)
    values = [np.maximum(keras.ops.convert_to_numpy(head(part)), 0) for part in x]
    scale, zero_point = student.get_layer("head_quantized").grid()
    assert zero_point == -128 and scale * 255 == pytest.approx(np.max(values), rel=0.05)


def test_ranges_take_every_sample_of_long_data(monkeypatch):
    monkeypatch.setattr(calibration_data, "MAX_SAMPLES", 100)
    model = keras.Sequential([keras.Input((2,)), layers.ReLU(name="r"), layers.Dense(1)])
    x = RNG.uniform(size=(400, 2)).astype("float32")
    x[-1] = 7.0
    student = r2keras.prepare(model, recipe())
    calibration.set_activation_ranges(student, np.array_split(x, 40))
    assert student.get_layer("r_quantized").grid()[0] == pytest.approx(7 / 255)


def scaled_net(size):
    return keras.Sequential([keras.Input((size,), name="table"), layers.Dense(3, "relu"), layers.Dense(2)])


def test_features_too_small_for_the_grid_of_the_input_are_named():
    scales = np.array([0.01, 500, 3, 200, 0.5])
    x = (RNG.normal(size=(100, 5)) * scales).astype("float32")
    expected = r"8-bit grid of the input 'table'.*features 0 \(.*2 \(.*4 \(.*Normalize"
    with pytest.warns(UserWarning, match=expected) as told:
        r2keras.calibrate(scaled_net(5), recipe(), x, input_bits=8)
    assert not any(name in str(told[0].message) for name in (" 1 (", " 3 ("))


@pytest.mark.parametrize(
    "x",
    [
        RNG.normal(size=(100, 5)) * [1, 2, 3, 10, 4],
        RNG.normal(size=(100, 5)) * [0, 0, 3, 10, 4] + [1, 0, 0, 0, 0],
        np.where(RNG.uniform(size=(500, 5)) < 0.003, 0.01, RNG.uniform(size=(500, 5)) * [0, 0, 1, 1, 1]),
    ],
    ids=["similar", "constant", "pixels at the edge"],
)
def test_features_of_similar_ranges_or_without_information_give_no_warning(x):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        r2keras.calibrate(scaled_net(5), recipe(), x.astype("float32"), input_bits=8)


def test_a_float_input_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        r2keras.calibrate(scaled_net(2), recipe(), (RNG.normal(size=(50, 2)) * [1e-4, 1]).astype("float32"))
