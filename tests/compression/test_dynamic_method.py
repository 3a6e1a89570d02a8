"""Training and calibration with rows rounded at run time: against NumPy, in records, and which layers do so."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

from r2keras import CompressionRecord, PaletteSpec, QuantSpec, Recipe, calibrate, dynamic_twin, finalize, prepare
from r2keras.calibration import adaround, correct_bias
from r2keras.layers import DynamicInput, FakeQuantize, QuantizedGRU, QuantizedLSTM
from tests.gradients import gradients
from tests.nets import outputs
from tests.oracles_activations import dynamic_rows

pytestmark = pytest.mark.backends
ROWS = {"activation_bits": 8, "activation_method": "dynamic"}
SPEC = QuantSpec(num_bits=4, **ROWS)
ALL = Recipe([(".*", SPEC)])
RNG = np.random.default_rng(3)


def mixed():
    """Layers that round rows, and layers that cannot."""
    inputs, words = keras.Input((6, 6, 4), name="image"), keras.Input((5,), dtype="int32", name="words")
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(6, 1, name="pointwise")(x))
    x = layers.Flatten(name="flat")(layers.SeparableConv2D(3, 2, name="separable")(x))
    y = layers.Embedding(11, 6, name="embedding")(words)
    y = layers.LSTM(7, return_sequences=True, name="lstm")(layers.MultiHeadAttention(2, 3, name="attention")(y, y))
    y = layers.Bidirectional(layers.GRU(4, name="gru"), name="both")(y)
    return keras.Model([inputs, words], layers.Dense(3, name="head")(layers.Concatenate(name="join")([x, y])))


def data(count=12):
    return [RNG.normal(size=(count, 6, 6, 4)).astype("float32"), RNG.integers(0, 11, (count, 5))]


def array(variable):
    return np.array(ops.convert_to_numpy(variable))


@functools.cache
def trained():
    """Returns a model, its student after one epoch, and the inputs."""
    model, x = mixed(), data()
    student = prepare(model, ALL)
    student.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=keras.backend.backend() == "jax")
    student.fit(x, np.ones((12, 3), "float32"), batch_size=4, verbose=0)
    return model, student, x


LSTM = ("lstm/lstm_cell/kernel", "lstm/lstm_cell/recurrent_kernel")
DYNAMIC = (
    *("pointwise/kernel", *(f"attention/{name}/kernel" for name in ("query", "key", "value", "attention_output"))),
    *("separable/pointwise_kernel", *LSTM),
    *("both/forward_gru/gru_cell/kernel", "both/forward_gru/gru_cell/recurrent_kernel"),
    *("both/backward_gru/gru_cell/kernel", "both/backward_gru/gru_cell/recurrent_kernel"),
    "head/kernel",
)


def test_a_student_multiplies_rounded_rows():
    model = keras.Sequential([keras.Input((9,)), layers.Dense(4, name="head")])
    model.layers[0].bias.assign(np.arange(4))
    student = prepare(model, ALL)
    x = RNG.normal(size=(5, 9)).astype("float32") + 1
    _, record = finalize(student)
    rows, _ = dynamic_rows(x)
    expected = rows @ record.tensors["head/kernel"].values() + np.arange(4)
    np.testing.assert_allclose(outputs(student, x), expected, atol=1e-5)
    assert np.abs(expected - (x @ record.tensors["head/kernel"].values() + np.arange(4))).max() > 1e-3


def test_the_gradient_passes_the_rounding_and_reaches_the_kernel():
    layer = FakeQuantize(layers.Dense(4), SPEC)
    x, upstream = RNG.normal(size=(5, 9)).astype("float32"), RNG.normal(size=(5, 4)).astype("float32")
    layer(x)
    ((_, tensor),) = layer.quantized_tensors("head")
    (to_input,) = gradients(lambda x: ops.sum(ops.convert_to_tensor(upstream) * layer(x)), x)
    np.testing.assert_allclose(to_input, upstream @ tensor.values().T, atol=1e-5)
    # One step of gradient descent on the loss `sum(upstream * outputs)`.
    before = array(layer.layer.kernel)
    model = keras.Sequential([keras.Input((9,)), layer])
    jit = keras.backend.backend() == "jax"
    model.compile(keras.optimizers.SGD(0.1), lambda y, out: ops.sum(y * out), jit_compile=jit)
    model.fit(x, upstream, batch_size=5, verbose=0)
    step = (before - array(layer.layer.kernel)) / 0.1
    inside = np.abs(step) > 0
    expected = dynamic_rows(x)[0].T @ upstream
    assert inside.mean() > 0.8
    np.testing.assert_allclose(step[inside], expected[inside], rtol=1e-3, atol=1e-3)


def test_training_finalizing_and_the_record(tmp_path):
    _, student, x = trained()
    small, record = finalize(student)
    assert record.dynamic_kernels == DYNAMIC
    assert set(record.tensors) - set(DYNAMIC) >= {"conv/kernel", "separable/depthwise_kernel", "embedding/embeddings"}
    assert {tensor.spec for name, tensor in record.tensors.items() if name not in DYNAMIC} == {QuantSpec(num_bits=4)}
    np.testing.assert_allclose(outputs(small, x), outputs(student, x), atol=1e-4)
    kinds = {layer.name: type(layer) for layer in small.layers}
    assert (kinds["pointwise"], kinds["head"], kinds["lstm"]) == (DynamicInput, DynamicInput, QuantizedLSTM)
    assert (kinds["attention"], kinds["separable"], kinds["conv"]) == (DynamicInput, DynamicInput, layers.Conv2D)
    assert type(small.get_layer("both").forward_layer) is QuantizedGRU
    np.testing.assert_array_equal(outputs(dynamic_twin(small, record), x), outputs(small, x))
    small.save(tmp_path / "m.keras")
    record.save(tmp_path / "r.npz")
    np.testing.assert_array_equal(outputs(keras.models.load_model(tmp_path / "m.keras"), x), outputs(small, x))
    again = CompressionRecord.load(tmp_path / "r.npz")
    assert again.dynamic_kernels == DYNAMIC
    shown = " ".join(str(again).split())
    assert "in front of: pointwise/kernel, attention/query/kernel" in shown and "Quantized activations: none" in shown


@pytest.mark.slow_elsewhere
def test_a_student_is_saved_and_trains_every_weight(tmp_path):
    _, student, x = trained()
    student.save(tmp_path / "s.keras")
    np.testing.assert_array_equal(outputs(keras.models.load_model(tmp_path / "s.keras"), x), outputs(student, x))
    kernels = {v.path.rpartition("/")[2] for v in student.trainable_variables}
    before = [array(v) for v in student.trainable_variables]
    student.fit(x, np.zeros((12, 3)), batch_size=4, verbose=0)
    after = [array(v) for v in student.trainable_variables]
    # A bias in front of a batch normalization or of a softmax has a gradient of zero.
    assert np.mean([np.any(old != new) for old, new in zip(before, after, strict=True)]) > 0.8
    assert {"kernel", "recurrent_kernel", "embeddings"} <= kernels


@pytest.mark.slow_elsewhere
def test_calibration_with_all_steps():
    model, x = mixed(), data(40)
    recipe = Recipe([(".*", SPEC)], steps=["fold_batch_norm", "equalize", "adaround", "correct_bias"])
    small, record = calibrate(model, recipe, x, progress=False)
    assert record.dynamic_kernels == DYNAMIC
    assert "AdaRound: output error" in record.notes["head/kernel"]
    plain, of_plain = calibrate(model, Recipe([(".*", QuantSpec(num_bits=4))], recipe.steps), x, progress=False)
    assert not of_plain.dynamic_kernels
    assert np.any(array(small.get_layer("head").layer.bias) != array(model.get_layer("head").bias))
    # The model differs from the one without rounding by no more than 8 bits of each product do.
    difference = np.abs(outputs(small, x) - outputs(plain, x)).max() / np.ptp(outputs(plain, x))
    assert 0 < difference < 0.1
    assert not any(isinstance(layer, DynamicInput) for layer in plain.layers)


@pytest.mark.slow_elsewhere
def test_steps_after_training_keep_the_rounding():
    model, student, x = trained()
    small, record = finalize(student)
    better = correct_bias(model, small, x)
    assert type(better.get_layer("head")) is DynamicInput and better.get_layer("lstm").dynamic_products
    assert np.any(array(better.get_layer("head").layer.bias) != array(small.get_layer("head").layer.bias))
    rounded, new = adaround(model, small, record, x, progress=False)
    assert type(rounded.get_layer("pointwise")) is DynamicInput and new.dynamic_kernels == DYNAMIC
    np.testing.assert_array_equal(array(rounded.get_layer("head").layer.kernel), new.tensors["head/kernel"].values())


@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU, layers.SimpleRNN, None])
def test_recurrent_students_round_rows(kind):
    part = layers.Bidirectional(layers.LSTM(7)) if kind is None else kind(7)
    model = keras.Sequential([keras.Input((5, 4)), part])
    x = 2 * RNG.normal(size=(6, 5, 4)).astype("float32") + 1
    rounded, plain = (prepare(model, Recipe([(".*", spec)])) for spec in (SPEC, QuantSpec(4)))
    small, record = finalize(rounded)
    np.testing.assert_allclose(outputs(rounded, x), outputs(small, x), atol=1e-5)
    assert np.abs(outputs(rounded, x) - outputs(plain, x)).max() > 1e-4
    np.testing.assert_allclose(outputs(dynamic_twin(*finalize(plain)), x), outputs(small, x), atol=1e-5)
    assert len(record.dynamic_kernels) == len(record.tensors)


def test_half_precision_is_finalized_in_float32():
    policy = keras.DTypePolicy("mixed_float16")
    model = keras.Sequential([keras.Input((9,)), layers.Dense(4, name="head", dtype=policy)])
    small, record = finalize(prepare(model, ALL))
    x = RNG.normal(size=(5, 9)).astype("float32")
    expected = dynamic_rows(x)[0] @ record.tensors["head/kernel"].values()
    np.testing.assert_allclose(outputs(small, x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("rules", "options", "text"),
    [
        ([("^conv", SPEC)], {}, "rules match none in"),
        ([("head", QuantSpec(4, channel_axis=0, **ROWS))], {}, "output channel of 'head/kernel'.*channel_axis=0"),
        ([("lstm_cell/kernel", SPEC)], {}, "all kernels of the layer 'lstm' or for none"),
        ([("lstm_cell/kernel", SPEC), ("lstm", QuantSpec(4))], {}, "without it for 'lstm_cell/recurrent_kernel'"),
        ([("lstm_cell/kernel", SPEC), ("lstm", PaletteSpec())], {}, "without it for 'lstm_cell/recurrent_kernel'"),
        ([(".*", SPEC)], {"integer": True}, "False for a recipe with activation_method='dynamic'"),
    ],
)
def test_mistakes_come_before_training(rules, options, text):
    for action in (prepare, calibrate):
        with pytest.raises(ValueError, match=text):
            action(mixed(), Recipe(rules), **options)


def test_rules_that_round_nothing_are_named():
    with pytest.warns(UserWarning, match=r"rule '\^conv' rounds nothing"):
        student = prepare(mixed(), Recipe([("^conv", SPEC), ("head", SPEC)]))
    assert finalize(student)[1].dynamic_kernels == ("head/kernel",)
    with pytest.raises(ValueError, match="'head', which is compressed already"):
        prepare(finalize(student)[0], ALL)


def test_beside_quantized_outputs():
    parts = [
        layers.Dense(6, activation="relu", name="a"),
        layers.Dense(5, activation="relu", name="b"),
        layers.Dense(2),
    ]
    model = keras.Sequential([keras.Input((4,)), *parts])
    x = RNG.normal(size=(16, 4)).astype("float32")
    recipe = Recipe([("a", QuantSpec(4, activation_bits=8)), (".*", SPEC)])
    small, record = calibrate(model, recipe, x, progress=False)
    assert list(record.activations) == ["a"] and record.dynamic_kernels == ("b/kernel", f"{parts[2].name}/kernel")
    assert [type(layer).__name__ for layer in small.layers] == [
        "Dense",
        "GridActivation",
        "DynamicInput",
        "DynamicInput",
    ]


def test_recurrent_layers_made_by_hand():
    inputs = keras.Input((5, 4))
    x = QuantizedLSTM(3, kernel_spec=SPEC, recurrent_spec=SPEC, name="lstm")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    small, record = finalize(prepare(model, Recipe([("head", SPEC)])))
    assert model.get_layer("lstm").dynamic_products and small.get_layer("lstm").dynamic_products
    assert set(record.dynamic_kernels) == {*LSTM, "head/kernel"}
    x = RNG.normal(size=(6, 5, 4)).astype("float32")
    np.testing.assert_array_equal(outputs(small, x), outputs(dynamic_twin(small, record), x))
    with pytest.raises(ValueError, match="activation_method='dynamic' in kernel_spec too"):
        QuantizedLSTM(3, recurrent_spec=SPEC)
