"""Every method of weight quantization against its oracle: values, gradients, grids, and use in a layer."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from r2keras import QuantSpec, Recipe, finalize, prepare, quantizers
from r2keras.layers import FakeQuantize
from r2keras.quantizers.methods import QUANTIZERS
from r2keras.specs import METHODS
from tests import nets
from tests import oracles_quantizers as oracles
from tests.gradients import gradients
from tests.quantizers.cases import CASES, SCALE_SHAPES, SHAPE, UPSTREAM, weights

pytestmark = pytest.mark.backends

EVERY = pytest.mark.parametrize("case", CASES)
LEARNED = [case for case in CASES if case.startswith(("lsq", "ewgs"))]


def array(tensor):
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))


def quantizer_of(case, granularity="per_channel", weight=None):
    quantizer = quantizers.make(QuantSpec(**CASES[case][0]), SHAPE, SCALE_SHAPES[granularity])
    quantizer.initialize(ops.convert_to_tensor(weights() if weight is None else weight))
    return quantizer


def scalars(quantizer):
    return {variable.name: array(variable) for variable in quantizer.trainable_variables}


def gradients_of(quantizer, weight, upstream=UPSTREAM):
    """Returns the gradients to the weight and to each trainable scalar, by name."""
    variables = quantizer.trainable_variables

    def weighted(weight, *values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return ops.sum(quantizer(weight, training=True) * ops.convert_to_tensor(upstream))

    found = gradients(weighted, weight, *(array(variable) for variable in variables))
    return found[0], dict(zip((variable.name for variable in variables), found[1:], strict=True))


def test_every_method_has_its_quantizer_and_is_tested():
    assert set(QUANTIZERS) == set(METHODS)
    # Alternating codes have no grid: tests/quantizers/test_alternating.py.
    assert {CASES[case][0]["method"] for case in CASES} == set(METHODS) - {"ste", "alternating"}


@EVERY
@pytest.mark.parametrize("granularity", SCALE_SHAPES)
def test_value_and_gradients_are_the_oracle(case, granularity):
    quantizer, w = quantizer_of(case, granularity), weights()
    value, gradient, learned = oracles.by_block(
        CASES[case][1], w, UPSTREAM, SCALE_SHAPES[granularity], **scalars(quantizer)
    )
    np.testing.assert_allclose(array(quantizer(ops.convert_to_tensor(w))), value, rtol=1e-5, atol=1e-6)
    to_weight, to_scalars = gradients_of(quantizer, w)
    np.testing.assert_allclose(to_weight, gradient, rtol=1e-4, atol=1e-5)
    assert set(to_scalars) == set(learned)
    for name, expected in learned.items():
        np.testing.assert_allclose(to_scalars[name], expected, rtol=1e-3, atol=1e-4)


@EVERY
@pytest.mark.parametrize("granularity", SCALE_SHAPES)
@pytest.mark.parametrize("weight", [weights(), np.zeros(SHAPE, "float32"), 1e-3 * weights(2), 50 * weights(3)])
def test_values_are_scale_times_code_bit_for_bit(case, granularity, weight):
    quantizer = quantizer_of(case, granularity, weight)
    w = ops.convert_to_tensor(weight)
    codes, (scale, zero) = array(quantizer.codes(w)), map(array, quantizer.grid(w))
    repeated = [np.repeat(part, 6 // part.shape[0], 0) if part.shape[0] > 1 else part for part in (scale, zero)]
    np.testing.assert_array_equal(array(quantizer(w)), repeated[0] * (codes - repeated[1]))
    assert scale.shape == SCALE_SHAPES[granularity] and (scale > 0).all() and np.isfinite(scale).all()
    assert (zero == (-0.5 if quantizer.spec.levels == "mid_rise" else 0)).all()
    assert (codes == np.rint(codes)).all()
    assert quantizer.spec.quant_min <= codes.min() and codes.max() <= quantizer.spec.quant_max


@EVERY
def test_config_round_trip(case):
    quantizer = quantizer_of(case)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(quantizer)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(quantizer) and again.get_config() == quantizer.get_config()
    assert [v.shape for v in again.variables] == [v.shape for v in quantizer.variables]


def student_of(cases):
    """A prepared model with a layer of every case, side by side."""
    inputs = keras.Input((6,))
    made = [keras.layers.Dense(4, name=case) for case in cases]
    parts = [keras.layers.Dense(2)(layer(inputs)) for layer in made]
    model = keras.Model(inputs, keras.layers.Add()(parts) if len(parts) > 1 else parts)
    for layer in made:
        layer.kernel.assign(weights())
    return prepare(model, Recipe([(f"^{case}$", QuantSpec(**CASES[case][0])) for case in cases]))


def test_every_method_trains_is_saved_and_finalized(tmp_path):
    student = student_of(CASES)
    before = {case: [array(v) for v in student.get_layer(case).trainable_variables] for case in CASES}
    student.compile(keras.optimizers.SGD(0.05), loss="mse")
    x, y = np.random.default_rng(5).normal(size=(2, 32, 6)).astype("float32")
    student.fit(x, y[:, :2], epochs=1, batch_size=16, verbose=0)
    for case, values in before.items():
        layer = student.get_layer(case)
        assert isinstance(layer, FakeQuantize)
        moved = [not np.array_equal(array(v), old) for v, old in zip(layer.trainable_variables, values, strict=True)]
        assert all(moved) and len(moved) == 2 + len(layer.quantizers["kernel"].trainable_variables), case
    student.save(tmp_path / "student.keras")
    again = keras.models.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(nets.outputs(again, x), nets.outputs(student, x))
    model, record = finalize(again)
    for case in CASES:
        np.testing.assert_array_equal(array(model.get_layer(case).kernel), record.tensors[f"{case}/kernel"].values())
        halves = [keras.Model(m.inputs, m.get_layer(case).output) for m in (model, student)]
        np.testing.assert_allclose(*(nets.outputs(half, x) for half in halves), atol=1e-5)


@pytest.mark.parametrize("case", LEARNED)
def test_a_frozen_layer_freezes_its_scalars(case):
    layer = student_of([case]).get_layer(case)
    count = len(layer.trainable_variables)
    assert count > 2
    layer.trainable = False
    assert layer.trainable_variables == []
    layer.trainable = True
    assert len(layer.trainable_variables) == count


@EVERY
def test_half_precision_weights_are_taken(case):
    quantizer = quantizer_of(case)
    value = quantizer(ops.cast(ops.convert_to_tensor(weights()), "bfloat16"))
    assert keras.backend.standardize_dtype(value.dtype) == "bfloat16"
    np.testing.assert_allclose(array(value), array(quantizer(ops.convert_to_tensor(weights()))), rtol=0.5, atol=1.5)


def test_ewgs_without_delta_is_straight_through():
    plain = quantizer_of("ewgs1")
    (gradient, _), w = gradients_of(plain, weights()), weights()
    inside = (array(plain.lower) <= w) & (w <= array(plain.upper))
    slope = array(plain.scale) / (array(plain.upper) - array(plain.lower))
    np.testing.assert_allclose(gradient, UPSTREAM * inside * slope, rtol=1e-4)


def test_ewgs_takes_delta_from_its_variable():
    quantizer, w = quantizer_of("ewgs4"), weights()
    assert array(quantizer.delta) == np.float32(1e-3) and not quantizer.delta.trainable
    quantizer.delta.assign(0.7)
    expected = oracles.by_block(oracles.ewgs(4, 0.7), w, UPSTREAM, SCALE_SHAPES["per_channel"], **scalars(quantizer))[1]
    np.testing.assert_allclose(gradients_of(quantizer, w)[0], expected, rtol=1e-4, atol=1e-5)


def test_ewgs_delta_is_saved_with_the_model(tmp_path):
    student = student_of(["ewgs2"])
    student.get_layer("ewgs2").quantizers["kernel"].delta.assign(0.25)
    student.save(tmp_path / "student.keras")
    quantizer = keras.models.load_model(tmp_path / "student.keras").get_layer("ewgs2").quantizers["kernel"]
    assert array(quantizer.delta) == 0.25 and quantizer.spec.delta == 0.5


def test_lsq_starts_as_its_paper_says():
    scale = array(quantizer_of("lsq4", "per_tensor").scale)
    np.testing.assert_allclose(scale, 2 * np.abs(weights()).mean() / np.sqrt(7), rtol=1e-6)


def test_a_learned_scale_beyond_zero_stays_a_scale():
    quantizer = quantizer_of("lsq4", "per_tensor")
    quantizer.scale.assign(-array(quantizer.scale))
    assert array(quantizer.grid(None)[0]).item() > 0
    before = array(quantizer(ops.convert_to_tensor(weights())))
    np.testing.assert_array_equal(before, array(quantizer_of("lsq4", "per_tensor")(ops.convert_to_tensor(weights()))))
