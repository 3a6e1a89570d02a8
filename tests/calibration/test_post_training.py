"""`calibrate`: changed weights and statistics, and outputs closer to the float model's."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import QuantSpec, Recipe, calibrate, finalize, prepare
from r2keras._models import insert
from r2keras.calibration import repairs
from r2keras.calibration.batch_norm import reestimate_batch_norm
from tests import nets

pytestmark = pytest.mark.backends

RNG = np.random.default_rng(9)
X = RNG.normal(0.5, 1.0, (64, 12)).astype("float32")
TWO = Recipe([("dense", QuantSpec(num_bits=2, range="min_max")), ("head", QuantSpec(num_bits=8))])
HOWS = ("replace", "shift", "keep")


def net():
    """Two dense layers with batch normalization, whose statistics are those of X."""
    parts = []
    for place in range(2):
        parts += [layers.Dense(16, name=f"dense{place}"), layers.BatchNormalization(name=f"norm{place}"), layers.ReLU()]
    model = keras.Sequential([keras.Input((12,)), *parts, layers.Dense(4, name="head")])
    reestimate_batch_norm(model, [X])
    return model


@functools.cache
def calibrated(how):
    """A model, and what calibrate makes of it."""
    keras.utils.set_random_seed(2)
    model = net()
    before = nets.weights_of(model)
    small, record = calibrate(model, TWO, [X], batch_norm=how)
    assert all(np.array_equal(before[path], value) for path, value in nets.weights_of(model).items())
    return model, small, record


def distance(how):
    model, small, _ = calibrated(how)
    return float(np.square(nets.arrays(model(X))[0] - nets.arrays(small(X))[0]).mean())


def statistics(model):
    return {path: value for path, value in nets.weights_of(model).items() if "moving" in path}


def test_the_outputs_get_nearer_to_the_float_model():
    distances = {how: distance(how) for how in (*HOWS, "auto")}
    assert max(distances["replace"], distances["shift"]) < 0.9 * distances["keep"]
    # X is the data of the float model's statistics, so that "replace" and "shift" differ by rounding only.
    assert distances["auto"] == pytest.approx(min(distances[how] for how in HOWS), rel=1e-6)


@pytest.mark.parametrize("how", HOWS)
def test_each_way_gives_the_statistics_it_names(how):
    model, small, record = calibrated(how)
    wanted, expected = finalize(prepare(model, TWO))
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(record.tensors[name].codes, tensor.codes)
        np.testing.assert_array_equal(nets.arrays(small.get_layer(name.split("/")[0]).kernel)[0], tensor.values())
    if how != "keep":
        reestimate_batch_norm(wanted, [X], reference=model if how == "shift" else None)
    for path, value in statistics(wanted).items():
        np.testing.assert_allclose(statistics(small)[path], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [lambda: X, lambda: iter([X])], ids=["array", "generator"])
def test_data_of_any_form(make):
    model, expected, _ = calibrated("replace")
    found = statistics(calibrate(model, TWO, make(), batch_norm="replace")[0])
    for path, value in statistics(expected).items():
        np.testing.assert_allclose(found[path], value, rtol=1e-4, atol=1e-5)


def test_two_inputs():
    first, second = keras.Input((6,), name="first"), keras.Input((6,), name="second")
    joined = layers.BatchNormalization(name="norm")(layers.Dense(5, name="head")(layers.Subtract()([first, second])))
    model = nets.shaken(keras.Model([first, second], joined))
    x = RNG.normal(size=(2, 32, 6)).astype("float32")
    small, record = calibrate(model, Recipe([("head", QuantSpec(num_bits=2))]), list(x), batch_norm="replace")
    h = (x[0] - x[1]) @ record.tensors["head/kernel"].values() + nets.arrays(small.get_layer("head").bias)[0]
    np.testing.assert_allclose(
        nets.arrays(small.get_layer("norm").moving_mean)[0], h.mean(axis=0), rtol=1e-3, atol=1e-4
    )


def test_no_norms_need_no_data():
    small, record = calibrate(nets.nested(), Recipe([(".*", QuantSpec(num_bits=4))]))
    assert len(record.tensors) == 3 and type(small) is keras.Sequential


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "`data`.*batch_norm='keep'"),
        ({"data": X[:0]}, "at least one sample"),
        ({"data": X * np.nan}, "NaN or infinite"),
        ({"data": X[:, :5]}, "without labels"),
        ({"data": [(X, X)]}, "without labels"),
        ({"data": X, "batch_size": 0}, "`batch_size`"),
        ({"data": X, "batch_norm": "replaced"}, "Did you mean 'replace'"),
    ],
)
def test_bad_arguments_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        calibrate(calibrated("keep")[0], TWO, **options)


def test_without_norms_in_the_way_no_data_is_fine():
    assert len(calibrated("keep")[2].tensors) == 3
    assert len(calibrate(calibrated("keep")[0], TWO, batch_norm="keep")[1].tensors) == 3


def test_what_is_wrong_is_told_before_the_data_are_read():
    recipe = Recipe([(".*", QuantSpec(num_bits=4))], steps=["adaround"])
    data = iter([X])
    with pytest.raises(ValueError, match="`input_bits`"):
        calibrate(net(), recipe, data, input_bits=1)
    with pytest.raises(ValueError, match=r"`recipe`.*'nothing', which matches nothing"):
        calibrate(net(), Recipe([("nothing", None)]), data)
    with pytest.raises(TypeError, match="Expected a Keras 3 model"):
        calibrate("m.keras", recipe, data)
    assert next(data) is X


EIGHT_BITS = Recipe([(".*", QuantSpec(num_bits=8, activation_bits=8))])


def test_the_model_is_copied_twice_for_rounded_weights_and_activations(monkeypatch):
    copies = []
    original = insert.copy_with
    monkeypatch.setattr(insert, "copy_with", lambda model, *rest: copies.append(model) or original(model, *rest))
    calibrate(net(), EIGHT_BITS, [X], input_bits=8, output_bits=8)
    assert len(copies) == 2


def test_compiled_and_eager_outputs_choose_the_same_statistics(monkeypatch):
    model, shifted = net(), [2 * X[:40] + 1]
    small, record = calibrate(model, EIGHT_BITS, shifted)
    monkeypatch.setattr(repairs, "EAGER_BATCHES", 0)
    again, again_record = calibrate(model, EIGHT_BITS, shifted)
    assert record.activations == again_record.activations
    np.testing.assert_equal(nets.weights_of(small), nets.weights_of(again))
