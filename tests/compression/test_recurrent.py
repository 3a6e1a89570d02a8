"""Recurrent models through prepare, finalize and calibrate: names, grids, records, and the final layers."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import ActivationSpec, QuantSpec, Recipe, activation_plan, calibrate, finalize, prepare
from r2keras.layers import FakeQuantize, QuantizedGRU, QuantizedLSTM
from r2keras.specs import PaletteSpec
from tests import nets

pytestmark = pytest.mark.backends

TOKENS = np.random.default_rng(0).integers(1, 12, (4, 5))
W2 = QuantSpec(num_bits=2)


def network(first, second):
    """Embedding, a recurrent layer, a bidirectional one, a head."""
    inputs = keras.Input((5,), dtype="int32")
    x = first(layers.Embedding(12, 4, name="embedding")(inputs))
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Bidirectional(second, name="both")(x)))


def plain():
    return network(layers.LSTM(6, return_sequences=True, name="lstm"), layers.GRU(3, name="gru"))


def by_hand():
    lstm = {"kernel_spec": W2, "recurrent_spec": PaletteSpec(num_bits=2), "state_spec": QuantSpec(num_bits=3)}
    gru = {"recurrent_spec": W2, "state_spec": ActivationSpec(num_bits=4, method="lsq")}
    first = QuantizedLSTM(6, return_sequences=True, name="lstm", input_spec=ActivationSpec(num_bits=4), **lstm)
    return network(first, QuantizedGRU(3, name="gru", **gru))


def outputs(model):
    return nets.outputs(model, TOKENS)


@functools.cache
def finished(kind):
    """A student after a step, and what finalize makes of it."""
    rules = {"by_hand": ("embedding|head", W2), "prepared": (".*", QuantSpec(num_bits=2, activation_bits=3))}
    student = prepare(by_hand() if kind == "by_hand" else plain(), Recipe([rules[kind]]))
    # One of the two is compiled.
    eager = kind == "prepared" and keras.backend.backend() == "tensorflow"
    student.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=eager, jit_compile=keras.backend.backend() == "jax")
    student.fit(TOKENS, np.ones((4, 2)), verbose=0)
    return student, *finalize(student)


@pytest.mark.parametrize("kind", ["by_hand", "prepared"])
def test_a_finalized_model_computes_what_was_trained(kind, tmp_path):
    student, model, record = finished(kind)
    np.testing.assert_allclose(outputs(model), outputs(student), atol=1e-4)
    weights = {v.path: np.asarray(keras.ops.convert_to_numpy(v)) for v in model.weights}
    for name, tensor in record.tensors.items():
        np.testing.assert_array_equal(weights[name], tensor.values())
    assert [path for path in weights if path.rpartition("/")[2] in ("scale", "codebook", "step", "low")] == []
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs(keras.models.load_model(tmp_path / "model.keras")), outputs(model))


def test_the_record_of_layers_made_by_hand():
    _, model, record = finished("by_hand")
    halves = [f"both/{half}_gru/gru_cell" for half in ("forward", "backward")]
    assert set(record.tensors) == {
        *("embedding/embeddings", "head/kernel", "lstm/lstm_cell/kernel"),
        *(f"{half}/recurrent_kernel" for half in halves),
    }
    assert set(record.kept_float) == {"lstm/lstm_cell/recurrent_kernel", *(f"{half}/kernel" for half in halves)}
    assert "min_size=2048" in record.kept_float["lstm/lstm_cell/recurrent_kernel"]
    grids = {name: grid.num_bits for name, grid in record.activations.items()}
    assert grids == {"lstm": 3, "lstm/input": 4, "both/forward_gru": 4, "both/backward_gru": 4}
    assert record.activations["lstm"].scale == np.float32(1 / 3)
    assert type(model.get_layer("lstm")) is QuantizedLSTM and not model.get_layer("lstm").parts.weights


@pytest.mark.slow_elsewhere
def test_prepare_quantizes_states_where_activations_are():
    student, model, record = finished("prepared")
    wrapper = student.get_layer("lstm")
    assert isinstance(wrapper, FakeQuantize) and type(wrapper.layer) is QuantizedLSTM
    assert type(student.get_layer("both").layer.forward_layer) is QuantizedGRU
    assert set(record.activations) == {"embedding", "lstm", "both/forward_gru", "both/backward_gru"}
    assert record.kept_float == {} and len(record.tensors) == 8
    state = outputs(keras.Model(model.inputs, model.get_layer("lstm").output))
    np.testing.assert_allclose(state * 3, np.rint(state * 3), atol=1e-5)


@pytest.mark.slow_elsewhere
def test_a_recipe_fits_states_to_each_row_at_run_time(tmp_path):
    few = QuantSpec(num_bits=2, method="balanced", activation_bits=2, activation_method="alternating")
    Recipe([(".*", few)]).save(tmp_path / "w2a2.yaml")
    student = prepare(plain(), Recipe.load(tmp_path / "w2a2.yaml"))
    both = student.get_layer("both").layer
    for layer in (student.get_layer("lstm").layer, both.forward_layer, both.backward_layer):
        assert layer.specs.state == QuantSpec(num_bits=2, method="alternating")
    model, record = finalize(student)
    assert record.activations == {}
    np.testing.assert_allclose(outputs(model), outputs(student), atol=1e-5)
    states = outputs(keras.Model(model.inputs, model.get_layer("lstm").output))
    rows = np.sort(np.abs(states.reshape(-1, 6)), axis=1)
    # Two signs times two coefficients: two magnitudes a row, each row its own.
    assert np.all(np.sum(np.diff(rows) > 1e-5, axis=1) <= 1)
    assert np.unique(np.round(rows[:, -1], 4)).size > 10


def test_learned_ranges_of_states_become_grids():
    model = keras.Sequential([keras.Input((5, 4)), layers.LSTM(6, name="lstm"), layers.Dense(2)])
    student = prepare(model, Recipe([("lstm", QuantSpec(num_bits=2, method="lsq", activation_bits=4))]))
    rounder = student.get_layer("lstm").layer.parts.state
    rounder.learner.step.assign(0.5)
    x = np.random.default_rng(1).normal(size=(2, 5, 4)).astype("float32")
    small, record = finalize(student)
    assert np.isclose(record.activations["lstm"].scale, 1 / 15)
    np.testing.assert_allclose(nets.outputs(small, x), nets.outputs(student, x), atol=1e-5)


def test_without_activation_bits_a_recurrent_layer_stays_keras_own():
    student = prepare(plain(), Recipe([(".*", W2)]))
    assert type(student.get_layer("lstm").layer) is layers.LSTM
    assert type(finalize(student)[0].get_layer("lstm")) is layers.LSTM


def test_kernels_alone_leave_the_layer_of_keras():
    model = keras.Sequential([keras.Input((5, 4)), QuantizedLSTM(3, kernel_spec=W2, recurrent_spec=W2, name="lstm")])
    small, record = finalize(model)
    assert type(small.get_layer("lstm")) is layers.LSTM
    assert list(record.tensors) == ["lstm/lstm_cell/kernel", "lstm/lstm_cell/recurrent_kernel"]


def test_calibrate_quantizes_states_too():
    small, record = calibrate(plain(), Recipe([(".*", QuantSpec(num_bits=8, activation_bits=8))]), TOKENS)
    assert type(small.get_layer("lstm")) is QuantizedLSTM
    assert set(record.activations) == {"embedding", "lstm", "both/forward_gru", "both/backward_gru"}
    assert np.abs(outputs(small) - outputs(plain())).shape == (4, 2)


def test_the_plan_leaves_states_to_their_layers():
    assert list(activation_plan(plain(), Recipe([(".*", QuantSpec(num_bits=4, activation_bits=4))]))) == ["embedding"]
    alone = keras.Sequential([keras.Input((5, 4)), layers.LSTM(3, name="lstm"), layers.Dense(2)])
    assert activation_plan(alone, Recipe([("lstm", QuantSpec(num_bits=4, activation_bits=4))])) == {}


def test_a_rule_for_a_kernel_that_has_its_own_spec():
    with pytest.raises(ValueError, match="'lstm/lstm_cell/kernel', which is compressed already"):
        prepare(by_hand(), Recipe([(".*", W2)]))


def test_a_model_without_anything_quantized():
    with pytest.raises(ValueError, match="has no compressed layer"):
        finalize(plain())
