"""Quantizers of activations against their papers' formulas, and in layers and models."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from r2keras import ActivationSpec, Recipe, quantizers
from r2keras.layers import GridActivation, QuantizeActivation
from r2keras.ops.range_quantize import quantize_span, span_grid
from r2keras.quantizers.methods import ACTIVATIONS
from r2keras.quantizers.observed import Observed
from r2keras.specs import ACTIVATION_METHODS, ACTIVATION_RANGES, QuantSpec
from tests import nets
from tests.gradients import gradients
from tests.oracles_activations import UPSTREAM, X, data, learned_range, oracle

pytestmark = pytest.mark.backends

EVERY = pytest.mark.parametrize("method", ACTIVATION_METHODS)
SIGNS = pytest.mark.parametrize("unsigned", [True, False])


def array(tensor):
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))


def observed(*parts):
    statistics = Observed()
    for part in parts:
        statistics.add(part)
    return statistics


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.3), (-0.9, 1.3), (-0.05, 1.0), (-3.0, 0.0)])
@pytest.mark.parametrize(("inner", "delta"), [(1.0, 0.0), (0.0, 0.0), (1.0, 0.3)])
def test_span_is_the_oracle(bits, low, high, inner, delta):
    limits = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    def weighted(x, low, high):
        y = quantize_span(x, low, high, *limits, inner=inner, delta=delta, share=0.5)
        return ops.sum(y * ops.convert_to_tensor(UPSTREAM))

    value, to_x, to_low, to_high = oracle(X, low, high, bits, inner=inner, delta=delta)
    np.testing.assert_allclose(array(quantize_span(X, low, high, *limits)), value, atol=1e-5)
    found = gradients(weighted, X, np.float32(low), np.float32(high))
    np.testing.assert_allclose(found[0], to_x, atol=1e-5)
    np.testing.assert_allclose(found[1:], [0.5 * to_low, 0.5 * to_high], atol=1e-3)


def learned_oracle(method, unsigned, stored, at):
    """The range in use, and the gradients to what is learned, from those to the range's ends: the chain rule."""
    low, high = stored
    if method == "pact":
        return (low * at["bound"], high * at["bound"]), lambda d_low, d_high: {"bound": d_low * low + d_high * high}
    lower = low * at.get("lower", 1.0)
    if method == "ewgs":
        ends, slopes = (lower, high * at["upper"]), lambda d_low, d_high: {"upper": d_high * high, "lower": d_low * low}
    else:
        ends = (lower, lower + (high - low) * at["step"])
        slopes = lambda d_low, d_high: {"step": d_high * (high - low), "lower": (d_low + d_high) * low}  # noqa: E731
    return ends, lambda *d: {name: value for name, value in slopes(*d).items() if name in at}


@SIGNS
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("method", ["lsq", "pact", "ewgs"])
def test_what_is_learned_gets_the_gradient_of_its_paper(method, bits, unsigned):
    """LSQ and EWGS scale it by `1 / sqrt(features steps)`; PACT does not, and only clipped values move its bound."""
    delta = {"delta": 0.3} if method == "ewgs" else {}
    spec = ActivationSpec(num_bits=bits, method=method, unsigned=unsigned, **delta)
    quantizer, x = ACTIVATIONS[method](spec), data(unsigned)
    stored = (0.0 if unsigned else -0.8, 1.1)
    quantizer.start(*stored)
    variables = quantizer.trainable_variables
    at = {variable.name: value for variable, value in zip(variables, (0.9, 1.2), strict=False)}

    def weighted(x, *values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return ops.sum(quantizer(x, training=False) * ops.convert_to_tensor(UPSTREAM))

    found = gradients(weighted, x, *(np.float32(value) for value in at.values()))
    ends, slopes = learned_oracle(method, unsigned, stored, at)
    _, to_x, *to_ends = oracle(x, *ends, bits, inner=float(method != "pact"), delta=delta.get("delta", 0.0))
    share = 1.0 if method == "pact" else 1.0 / np.sqrt(x.shape[1] * (2**bits - 1))
    expected = slopes(*(share * value for value in to_ends))
    np.testing.assert_allclose(found[0], to_x, atol=1e-5)
    names = {"lsq": ["step"], "pact": ["bound"], "ewgs": ["upper"]}[method]
    names += ["lower"] * (method != "pact" and not unsigned)
    assert set(expected) == set(at) == set(names)
    for name, value in zip(at, found[1:], strict=True):
        np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-3)


def test_zero_is_on_every_grid():
    for low, high in [(0.0, 1.0), (-0.31, 1.0), (-1.0, 0.0), (0.0, 0.0)]:
        scale, zero = (float(part) for part in span_grid(low, high, -8, 7))
        assert zero == int(zero) and -8 <= zero <= 7 and scale > 0
        assert float(array(quantize_span(np.zeros(1, "float32"), low, high, -8, 7))[0]) == 0


@EVERY
@SIGNS
def test_first_batch_starts_as_the_paper_says(method, unsigned):
    x = data(unsigned)
    delta = 0.2 if method == "ewgs" else None
    how = {"range": "min_max"} if method == "ste" else {}
    spec = ActivationSpec(num_bits=3, method=method, unsigned=unsigned, delta=delta, **how)
    quantizer = quantizers.make_activation(spec)
    assert type(quantizer) is ACTIVATIONS[method]
    low, high = learned_range(method, x, unsigned)
    value, to_x, *_ = oracle(x, low, high, 3, delta=delta or 0.0)
    untouched = array(quantizer(ops.convert_to_tensor(x)))
    np.testing.assert_allclose(untouched, value, atol=1e-5)
    np.testing.assert_array_equal(array(quantizer(ops.convert_to_tensor(x), training=True)), untouched)
    weighted = lambda x: ops.sum(quantizer(x) * ops.convert_to_tensor(UPSTREAM))  # noqa: E731
    np.testing.assert_allclose(gradients(weighted, x)[0], to_x, atol=1e-5)
    scale, zero = map(array, quantizer.grid())
    codes = untouched / scale + zero
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
    assert codes.min() > -4.5 and codes.max() < 3.5
    if unsigned:
        assert zero == -4


@pytest.mark.parametrize("name", ACTIVATION_RANGES)
@SIGNS
def test_observed_range_follows_its_rule(name, unsigned):
    quantizer = quantizers.make_activation(ActivationSpec(num_bits=4, range=name, unsigned=unsigned))
    first, second = data(unsigned), 3 * data(unsigned)
    for batch in (first, second):
        quantizer(ops.convert_to_tensor(batch), training=True)
    high, low = array(quantizer.high), array(quantizer.low)
    if name == "min_max":
        assert high == second.max() and low == min(second.min(), 0)
    elif name == "moving_average":
        np.testing.assert_allclose(high, 1.02 * first.max(), rtol=1e-5)
    else:
        assert 0 < high < 1.1 * first.max()
    assert low == 0 if unsigned else low < 0
    before = array(quantizer.high)
    quantizer(ops.convert_to_tensor(9 * second), training=False)
    quantizer.trainable = False
    quantizer(ops.convert_to_tensor(9 * second), training=True)
    assert array(quantizer.high) == before


@pytest.mark.parametrize("bits", [2, 4])
@SIGNS
def test_range_of_the_least_error(bits, unsigned):
    """Against a finer scan in NumPy of ranges that are clipped at the same distance on both sides."""
    x = np.random.default_rng(5).standard_t(3, 4096).astype("float32")
    x = np.maximum(x, 0) if unsigned else x
    quantizer = quantizers.make_activation(ActivationSpec(num_bits=bits, range="mse", unsigned=unsigned))
    quantizer.fit(observed(x))

    def error(low, high):
        scale = (high - low) / (2**bits - 1)
        zero = np.clip(np.round(-low / scale - 1e-3), 0, 2**bits - 1)
        codes = np.clip(np.round(x / scale + zero), 0, 2**bits - 1)
        return np.mean((scale * (codes - zero) - x) ** 2)

    scan = [error(max(x.min(), -reach), min(x.max(), reach)) for reach in np.linspace(0.03, 1, 500) * np.abs(x).max()]
    found = error(float(array(quantizer.low)), float(array(quantizer.high)))
    assert found <= 1.02 * min(scan) and found < 0.7 * error(x.min(), x.max())


@pytest.mark.parametrize("name", ACTIVATION_RANGES)
def test_fit_takes_all_batches(name):
    layer = QuantizeActivation(ActivationSpec(num_bits=4, range=name))
    layer.observe()
    for batch in (X, 2 * X):
        np.testing.assert_array_equal(array(layer(ops.convert_to_tensor(batch))), batch)
    layer.fit()
    high = array(layer.quantizer.high)
    expected = 2 * X.max() if name in ("min_max", "moving_average") else None
    assert layer.ready and (expected is None or high == pytest.approx(expected, rel=1e-5))
    assert X.max() * 0.5 < high < 2.6 * X.max()


@EVERY
def test_config_round_trip(method):
    layer = QuantizeActivation(ActivationSpec(num_bits=3, method=method), name="q")
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(keras.saving.serialize_keras_object(layer))))
    assert again.get_config() == layer.get_config()
    assert again.spec == layer.spec
    grid = GridActivation(scale=0.25, zero_point=-4, num_bits=3, name="g")
    assert GridActivation.from_config(json.loads(json.dumps(grid.get_config()))).get_config() == grid.get_config()


def test_trains_saves_and_freezes(tmp_path):
    learned = {"ste": 0, "dorefa": 0, "pact": 1, "lsq": 2, "ewgs": 2}
    assert set(learned) == set(ACTIVATION_METHODS)
    made = [QuantizeActivation(ActivationSpec(num_bits=2, method=method), name=method) for method in learned]
    inputs = keras.Input((6,))
    parts = [keras.layers.Dense(2)(layer(keras.layers.Dense(5)(inputs))) for layer in made]
    model = keras.Model(inputs, keras.layers.Concatenate()(parts))
    model.compile(keras.optimizers.SGD(0.2), loss="mse")
    start = [[array(v) for v in layer.trainable_variables] for layer in made]
    model.fit(X, np.tile(X[:, :2], len(made)), epochs=2, batch_size=8, verbose=0)
    for layer, before in zip(made, start, strict=True):
        assert layer.ready
        moved = [array(v) != old for v, old in zip(layer.trainable_variables, before, strict=True)]
        assert all(moved) and len(moved) == learned[layer.name]
        np.testing.assert_allclose(array(layer.frozen()(X)), array(layer(X)), atol=1e-6)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(nets.outputs(again, X), nets.outputs(model, X))
    model.trainable = False
    assert all(layer.trainable_variables == [] for layer in made)


@EVERY
@SIGNS
def test_calibration_starts_where_one_batch_of_all_values_does(method, unsigned):
    """Ranges of the least error differ a little, because training looks at a sample of the values."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(500, 20)).astype("float32")
    x = np.maximum(x, 0) if unsigned else x
    quantizer = quantizers.make_activation(ActivationSpec(num_bits=4, method=method, unsigned=unsigned))
    quantizer.fit(observed(*np.array_split(x, 7)))
    low, high = (np.ravel(array(end))[0] for end in quantizer.find(ops.convert_to_tensor(x)))
    tolerance = 0.1 if method == "ste" else 1e-4
    np.testing.assert_allclose([array(quantizer.low), array(quantizer.high)], [low, high], rtol=tolerance)


@EVERY
@pytest.mark.parametrize("bits", [4, 8])
def test_calibrated_ranges_do_not_depend_on_parts_or_order(method, bits):
    x = np.random.default_rng(4).standard_t(3, (300, 20)).astype("float32")
    grids = []
    for parts in ([x], np.array_split(x, 13), [x[::-1, ::-1]], np.array_split(np.sort(x, axis=None), 100)):
        layer = QuantizeActivation(ActivationSpec(num_bits=bits, method=method))
        layer.observe()
        for part in parts:
            layer(ops.convert_to_tensor(part))
        layer.fit()
        grids.append(layer.grid())
    assert grids == [grids[0]] * 4


def test_activations_that_are_not_finite_give_no_grid():
    layer = QuantizeActivation(ActivationSpec(num_bits=4), name="q")
    layer.observe()
    layer(ops.convert_to_tensor(np.array([1.0, np.nan], "float32")))
    layer.fit()
    with pytest.raises(ValueError, match="'q' is not finite"):
        layer.grid()


def test_no_range_yet_is_said():
    with pytest.raises(ValueError, match="has no range yet"):
        QuantizeActivation(name="q").grid()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_bits": 1}, "num_bits"),
        ({"num_bits": 9}, "num_bits"),
        ({"method": "pcat"}, "Did you mean 'pact'"),
        ({"method": "binary"}, "`method`"),
        ({"range": "mes"}, "Did you mean 'mse'"),
        ({"method": "lsq", "range": "mse"}, "sets its own range"),
        ({"delta": 0.1}, "method='ewgs'"),
    ],
)
def test_bad_specs_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        ActivationSpec(**arguments)


def test_a_spec_of_another_kind_is_refused():
    with pytest.raises(TypeError, match=r"`spec`.*ActivationSpec"):
        QuantizeActivation(QuantSpec(num_bits=4))


def test_weight_specs_name_their_activation():
    assert QuantSpec(num_bits=2, method="wrpn", activation_bits=4).activation().method == "dorefa"
    assert QuantSpec(num_bits=1, method="binary", activation_bits=4).activation_range == "mse"
    assert QuantSpec(num_bits=1, method="binary", activation_bits=8).activation_range == "moving_average"
    assert QuantSpec(activation_bits=4, activation_method="pact").activation(unsigned=True).unsigned
    assert QuantSpec().activation() is None
    spec = QuantSpec(num_bits=2, method="ewgs", delta=0.1, activation_bits=2)
    assert spec.activation().delta == 0.1
    assert Recipe.from_dict(Recipe([(".*", spec)]).to_dict()).rules[0][1] == spec
    for bad in ({"activation_method": "pact"}, {"activation_range": "mse"}, {"activation_bits": 1}):
        with pytest.raises(ValueError, match="activation_"):
            QuantSpec(**bad)


def test_pixels_halfway_between_codes_get_a_wider_range():
    pixels = (np.arange(256) / 127.5 - 1).astype(np.float32)
    layer = QuantizeActivation(ActivationSpec(num_bits=8, range="min_max"))
    layer.quantizer.fit(observed(pixels))
    scale, zero_point = layer.grid()
    np.testing.assert_allclose(scale, (1 + 2.0**-10) / 127.5, rtol=1e-5)
    places = pixels.astype(np.float64) / scale + zero_point
    assert np.mean(np.abs(places % 1 - 0.5) < 1e-3) < 0.02
    layer.quantizer.fit(observed((np.arange(256) / 255).astype(np.float32)))
    np.testing.assert_allclose(layer.grid()[0], 1 / 255, rtol=1e-6)
