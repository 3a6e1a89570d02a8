"""The fused LSTM operator: Keras' outputs from the same codes, its state reset between samples, no approximations."""

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras import PaletteSpec, QuantSpec
from r2keras.export import LiteRTModel, expand, sizes, to_litert, verify
from r2keras.export.conversion import fused_lstm
from r2keras.export.tflite.constant_values import kind_of
from r2keras.export.tflite.interpreter import open_interpreter, read
from r2keras.export.tflite.schema import INT2
from tests.export.palettize import compress

STEPS, FEATURES, OUTPUT_TOLERANCE = 6, 5, 1e-6
SPECS = (QuantSpec(num_bits=8), QuantSpec(num_bits=4), QuantSpec(num_bits=2), PaletteSpec(num_bits=3))
PER_ROW = PaletteSpec(num_bits=2, granularity="per_group", group_size=1)
NETS = {
    "lstm": lambda x: layers.LSTM(8)(x),
    "stacked": lambda x: layers.LSTM(7)(layers.LSTM(8, return_sequences=True, use_bias=False)(x)),
    "bidirectional": lambda x: layers.Bidirectional(layers.LSTM(8, return_sequences=True))(x),
    "two_ways": lambda x: layers.Bidirectional(
        layers.LSTM(6), backward_layer=layers.LSTM(6, use_bias=False, go_backwards=True)
    )(x),
    "nested": lambda x: keras.Sequential(
        [keras.Input((STEPS, FEATURES)), layers.LSTM(8, go_backwards=True, return_sequences=True)], name="inner"
    )(x),
    "shared": lambda x: layers.concatenate([(layer := layers.LSTM(8))(x), layer(2 * x)]),
    "convolved": lambda x: layers.LSTM(8, dropout=0.3)(layers.BatchNormalization()(layers.Conv1D(6, 2)(x))),
}


def net(inner, steps=STEPS):
    """Returns a model with a dense layer behind what `inner` makes."""
    keras.utils.set_random_seed(2)
    inputs = keras.Input((steps, FEATURES), name="in")
    return keras.Model(inputs, layers.Dense(4, name="head")(inner(inputs)), name="net")


def data(steps=STEPS):
    """Returns three random sequences."""
    return np.random.default_rng(0).normal(size=(3, steps, FEATURES)).astype(np.float32)


def kinds(path):
    """Returns the operators of a file."""
    file = read(path)
    return [kind_of(file, op) for graph in file.subgraphs for op in graph.operators]


def check(model, record, path, x, **options):
    """Exports, and asserts that the file holds the record and computes what Keras does, sample after sample."""
    found = to_litert(model, path, record, recurrent="fused", **options)
    assert "WHILE" not in kinds(path) and fused_lstm.OPERATOR in kinds(path)
    expected = keras.ops.convert_to_numpy(model(x))
    for xnnpack in (True, False):
        off = np.abs(LiteRTModel(path, xnnpack=xnnpack).predict(x) - expected).max()
        assert off <= OUTPUT_TOLERANCE * np.ptp(expected)
    return found


@pytest.mark.parametrize("kind", ["stacked", "bidirectional", "two_ways", "nested", "convolved"])
def test_computes_what_keras_computes(kind, tmp_path, near):
    model, given = net(NETS[kind]), {}

    def choose(name, shape):
        return given.setdefault(name, SPECS[(1 + len(given)) % len(SPECS)])

    record = compress(model, choose)
    found = check(model, record, tmp_path / "m.tflite", data())
    assert sizes(record, tmp_path / "m.tflite") == found
    assert {row.name for row in found.tensors} == set(record.tensors)


@pytest.mark.parametrize("spec", [SPECS[2], PER_ROW], ids=lambda spec: f"{type(spec).__name__}-{spec.num_bits}")
def test_packed_in_memory_and_the_float_file_of_it(spec, tmp_path, near):
    model = net(NETS["lstm"])
    record = compress(model, lambda name, shape: spec)
    check(model, record, tmp_path / "m.tflite", data(), optimize="memory")
    (tmp_path / "float.tflite").write_bytes(expand(tmp_path / "m.tflite"))
    expected = LiteRTModel(tmp_path / "m.tflite").predict(data())
    np.testing.assert_allclose(LiteRTModel(tmp_path / "float.tflite").predict(data()), expected, atol=1e-6)


def test_codes_lie_in_one_tensor_a_kernel_and_the_kernels_that_stay_float_in_four(tmp_path, near):
    model = net(NETS["lstm"])
    record = compress(model, lambda name, shape: QuantSpec(num_bits=2) if "recurrent" in name else None)
    check(model, record, tmp_path / "m.tflite", data())
    assert kinds(tmp_path / "m.tflite").count("SPLIT") == 1
    tensors = read(tmp_path / "m.tflite").subgraphs[0].tensors
    assert [tuple(t.shape) for t in tensors if t.type == INT2] == [(32, 8)]


def test_a_layer_called_twice_has_its_codes_once(tmp_path, near):
    model = net(NETS["shared"])
    check(model, None, tmp_path / "float.tflite", data())
    record = compress(model, lambda name, shape: QuantSpec(num_bits=4))
    check(model, record, tmp_path / "m.tflite", data())
    assert kinds(tmp_path / "m.tflite").count("SPLIT") == 2


def test_any_length_and_a_finalized_quantized_layer(tmp_path, near, converted_once):
    spec = QuantSpec(num_bits=2, method="balanced")
    layer = r2keras.layers.QuantizedLSTM(8, kernel_spec=spec, recurrent_spec=spec, return_sequences=True)
    model, record = r2keras.finalize(net(layer, steps=None))
    for steps in (3, 9):
        check(model, record, tmp_path / "m.tflite", data(steps))


def test_the_state_stays_unless_it_is_reset_and_verify_resets_it(tmp_path, near):
    model = net(NETS["lstm"])
    to_litert(model, tmp_path / "m.tflite", recurrent="fused")
    assert verify(model, tmp_path / "m.tflite", data()).passed()
    interpreter = open_interpreter((tmp_path / "m.tflite").read_bytes(), "m.tflite")
    interpreter.allocate_tensors()
    found = []
    for reset in (False, False, True):
        if reset:
            interpreter.reset_all_variables()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], data()[:1])
        interpreter.invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    first, again, after_reset = found
    np.testing.assert_array_equal(first, after_reset)
    assert np.abs(first - again).max() > 1e-3


def handed_on(x):
    """One LSTM starts where another one ended."""
    first = layers.LSTM(4, return_sequences=True, name="first")
    return layers.LSTM(4, name="second")(x, initial_state=[x[:, 0, :4], first(x)[:, -1]])


STATE = QuantSpec(num_bits=3)


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        (lambda x: layers.GRU(4, name="loop")(x), "'loop', which cannot be LiteRT's fused operator: it is a GRU"),
        (
            lambda x: layers.Bidirectional(layers.SimpleRNN(4), name="both")(x),
            "'both', which cannot.*it is a SimpleRNN",
        ),
        (lambda x: layers.RNN(layers.LSTMCell(4))(x), "it is a RNN"),
        (lambda x: layers.LSTM(4, name="loop")(layers.Masking()(x)), "'loop', which cannot.*it gets a mask"),
        (lambda x: layers.Bidirectional(layers.LSTM(4))(layers.Masking()(x)), "it gets a mask"),
        (handed_on, "'second', which cannot.*it gets its first state from another layer"),
        (lambda x: layers.concatenate(layers.LSTM(4, return_state=True)(x)), "it returns its states"),
        (lambda x: layers.LSTM(4, recurrent_activation="hard_sigmoid")(x), "other activations"),
        (lambda x: layers.TimeDistributed(layers.LSTM(4))(layers.Reshape((2, 3, FEATURES))(x)), "a TimeDistributed"),
        (lambda x: r2keras.layers.QuantizedLSTM(4, state_spec=STATE)(x), "a QuantizedLSTM has its own steps"),
        (lambda x: r2keras.layers.QuantizedLSTM(4, normalization="layer")(x), "a QuantizedLSTM has its own steps"),
        (lambda x: layers.Flatten()(x), "has no LSTM"),
    ],
)
def test_what_the_operator_does_not_compute_is_refused(inner, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        to_litert(net(inner), tmp_path / "m.tflite", recurrent="fused")
    assert list(tmp_path.iterdir()) == []


def test_bad_choices(tmp_path):
    model = net(NETS["lstm"])
    with pytest.raises(ValueError, match="recurrent"):
        to_litert(model, tmp_path / "m.tflite", recurrent="unrolled")
    with pytest.raises(ValueError, match="'loop' where activations='int8'"):
        to_litert(model, tmp_path / "m.tflite", recurrent="fused", activations="int8")


def test_a_converter_that_makes_a_loop_is_told(tmp_path, near, monkeypatch):
    plain = fused_lstm._marked
    monkeypatch.setattr(fused_lstm, "_marked", lambda sequences: plain(sequences).python_function)
    with pytest.raises(RuntimeError, match="created 0 operators UNIDIRECTIONAL_SEQUENCE_LSTM for the 1 LSTM"):
        to_litert(net(NETS["lstm"]), tmp_path / "m.tflite", recurrent="fused")
