"""Recurrent models in files: equal outputs, few-bit weights, states on grids, one sample per run."""

import signal
from functools import partial

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras import ActivationSpec, PaletteSpec, QuantSpec
from r2keras.export import LiteRTModel, expand, sizes, to_litert, to_tflm, verify
from r2keras.export.conversion import isolated_process
from r2keras.export.tflite.constant_values import kind_of
from r2keras.export.tflite.interpreter import read
from tests.export.palettize import compress

OUTPUT_TOLERANCE = 1e-6
SPECS = (QuantSpec(num_bits=8), QuantSpec(num_bits=4), QuantSpec(num_bits=2), PaletteSpec(num_bits=3))
STEPS, FEATURES, WORDS = 6, 5, 24


NETS = {
    "lstm": lambda x: layers.LSTM(8)(x),
    "gru": lambda x: layers.GRU(8)(x),
    "bidirectional": lambda x: layers.Bidirectional(layers.LSTM(8, return_sequences=True))(x),
    "masked": lambda x: layers.LSTM(8)(layers.Masking()(x)),
    "stacked": lambda x: layers.GRU(8)(layers.LSTM(8, return_sequences=True)(x)),
    "sequences": lambda x: layers.LSTM(8, return_sequences=True)(x),
    "backwards": lambda x: layers.SimpleRNN(8, go_backwards=True, return_sequences=True)(x),
}


def net(kind):
    """Returns a model of one kind of recurrent layers with a dense layer behind."""
    keras.utils.set_random_seed(2)
    inputs = keras.Input((STEPS, FEATURES), name="in")
    return keras.Model(inputs, layers.Dense(4, name="head")(NETS[kind](inputs)), name=kind)


def language_model(recurrent=layers.LSTM, mask_zero=False, **options):
    """Returns embedding, recurrent layer and dense layer."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((STEPS,), name="tokens")
    # Words that differ by much: states of 3 bits would stay at zero beside small ones.
    start = keras.initializers.RandomUniform(-3.0, 3.0)
    x = layers.Embedding(WORDS, 8, name="words", mask_zero=mask_zero, embeddings_initializer=start)(inputs)
    x = recurrent(12, return_sequences=True, name="loop", **options)(x)
    return keras.Model(inputs, layers.Dense(WORDS, name="head")(x), name="language_model")


def data(model, count=3):
    """Returns random inputs; some of the last steps are padding."""
    rng = np.random.default_rng(0)
    if model.inputs[0].name == "tokens":
        return rng.integers(0, WORDS, (count, STEPS)).astype(np.float32)
    x = rng.normal(size=(count, STEPS, FEATURES)).astype(np.float32)
    x[0, -2:] = 0
    return x


def difference(model, path, x, xnnpack):
    """Returns the largest difference of the file from Keras, as a share of the outputs' range."""
    expected = keras.ops.convert_to_numpy(model(x))
    return np.abs(LiteRTModel(path, xnnpack=xnnpack).predict(x) - expected).max() / np.ptp(expected)


def check(model, record, path, tolerance=OUTPUT_TOLERANCE, **options):
    """Exports, and asserts that the file computes what Keras does with and without XNNPACK."""
    found = to_litert(model, path, record, **options)
    for xnnpack in (True, False):
        assert difference(model, path, data(model), xnnpack) <= tolerance
    return found


def mixed(first):
    """Returns a choice of specs that gives every kernel another one, beginning with the spec number `first`."""
    given = {}

    def choose(name, shape):
        return given.setdefault(name, SPECS[(first + len(given)) % len(SPECS)])

    return choose


@pytest.mark.parametrize(("kind", "first"), [("bidirectional", 1), ("masked", 2), ("stacked", 1), ("backwards", 2)])
def test_files_of_few_bits_compute_what_keras_computes(kind, first, tmp_path, near):
    model = net(kind)
    record = compress(model, mixed(first))
    found = check(model, record, tmp_path / "m.tflite")
    assert sizes(record, tmp_path / "m.tflite") == found
    assert {row.name for row in found.tensors} == set(record.tensors)


@pytest.mark.parametrize(
    "spec",
    [*(pytest.param(spec, marks=pytest.mark.slow) for spec in SPECS[:3]), SPECS[3]],
    ids=lambda spec: f"{type(spec).__name__}-{spec.num_bits}",
)
def test_a_masked_language_model_of_every_width(spec, tmp_path, near):
    model = language_model(mask_zero=True)
    record = compress(model, lambda name, shape: spec)
    for row in check(model, record, tmp_path / "m.tflite").tensors:
        assert row.packed_bytes <= row.ideal_bytes * (8 if row.num_bits == 2 else 4)


def test_the_loop_decodes_uniform_codes_itself_and_reads_palettes_from_call_once(tmp_path, near):
    model = net("gru")
    record = compress(model, lambda name, shape: SPECS[3] if "recurrent" in name else SPECS[2])
    check(model, record, tmp_path / "m.tflite")
    file = read(tmp_path / "m.tflite")
    main, loop = ([kind_of(file, op) for op in file.subgraphs[g].operators] for g in (0, 2))
    assert "CALL_ONCE" in main and "WHILE" in main
    assert "DEQUANTIZE" in loop and "READ_VARIABLE" in loop and "GATHER" in loop
    assert loop.count("GATHER") == 1  # of the input, step by step


def test_tables_a_row_and_every_form(tmp_path, near, converted_once):
    model = net("lstm")
    per_row = PaletteSpec(num_bits=2, granularity="per_group", group_size=1)
    record = compress(model, lambda name, shape: per_row)
    for form in ("size", "memory"):
        check(model, record, tmp_path / "m.tflite", optimize=form)


@pytest.mark.slow
def test_a_large_model_is_near_its_ideal_size(tmp_path, near, converted_once):
    inputs = keras.Input((4,))
    x = layers.LSTM(64)(layers.Embedding(500, 32, name="words")(inputs))
    model = keras.Model(inputs, layers.Dense(8, name="head")(x))
    bytes_of = {}
    for bits in (4, 2):
        record = compress(model, lambda name, shape, bits=bits: QuantSpec(num_bits=bits, granularity="per_tensor"))
        bytes_of[bits] = to_litert(model, tmp_path / "m.tflite", record)
    floats = to_litert(model, tmp_path / "f.tflite").file_bytes
    assert bytes_of[4].file_bytes < 0.22 * floats and bytes_of[2].file_bytes < 0.17 * floats
    assert sum(row.packed_bytes - row.ideal_bytes for row in bytes_of[2].tensors) < 300


def prepared():
    """Returns a model whose kernels `prepare` compressed, `finalize`d, and its record."""
    recipe = r2keras.Recipe([(".*", QuantSpec(num_bits=2))])
    return r2keras.finalize(r2keras.prepare(language_model(), recipe))


def own_specs(recurrent, **options):
    """Returns a finalized model with a quantized recurrent layer, and its record."""
    weights = QuantSpec(num_bits=2, method="balanced")
    options = {"kernel_spec": weights, "recurrent_spec": weights, "state_spec": QuantSpec(num_bits=3)} | options
    return r2keras.finalize(language_model(recurrent, **options))


ALTERNATING = QuantSpec(num_bits=2, method="alternating")
FINALIZED = {
    "prepare": prepared,
    "gru": lambda: own_specs(r2keras.layers.QuantizedGRU, state_spec=QuantSpec(num_bits=4)),
    "simple_rnn": lambda: own_specs(r2keras.layers.QuantizedSimpleRNN, mask_zero=True),
    "alternating": lambda: own_specs(
        r2keras.layers.QuantizedLSTM, kernel_spec=ALTERNATING, recurrent_spec=ALTERNATING, state_spec=ALTERNATING
    ),
    "learned_state": lambda: own_specs(r2keras.layers.QuantizedLSTM, state_spec=ActivationSpec(num_bits=4)),
    "normalised": lambda: own_specs(r2keras.layers.QuantizedLSTM, normalization="layer", state_spec=None),
}


@pytest.mark.parametrize("kind", [pytest.param("prepare", marks=pytest.mark.slow), *list(FINALIZED)[1:]])
def test_finalized_models_with_states_on_grids(kind, tmp_path, near):
    # A state within float rounding of a tie may go either way: of these data, none does.
    model, record = FINALIZED[kind]()
    assert any("recurrent_kernel" in name for name in record.tensors)
    check(model, record, tmp_path / "m.tflite")
    found = verify(model, tmp_path / "m.tflite", data(model))
    assert found.agreement is None or found.agreement > 0.95


def test_the_file_takes_one_sample_or_the_models_own_batch_and_any_length(tmp_path, near):
    inputs = keras.Input((None, FEATURES))
    model = keras.Model(inputs, layers.GRU(4, return_sequences=True)(inputs))
    to_litert(model, tmp_path / "m.tflite")
    for steps in (3, 9):
        x = np.random.default_rng(0).normal(size=(2, steps, FEATURES)).astype(np.float32)
        got = LiteRTModel(tmp_path / "m.tflite").predict(x)
        np.testing.assert_allclose(got, model(x), atol=1e-6)
    fixed = keras.Input((STEPS, FEATURES), batch_size=3)
    model = keras.Model(fixed, layers.GRU(4)(fixed))
    to_litert(model, tmp_path / "m.tflite")
    assert LiteRTModel(tmp_path / "m.tflite").input_shapes == [(3, STEPS, FEATURES)]
    x = np.random.default_rng(0).normal(size=(3, STEPS, FEATURES)).astype(np.float32)
    np.testing.assert_allclose(LiteRTModel(tmp_path / "m.tflite").predict(x), model(x), atol=1e-6)


def test_expand_makes_a_float_file_of_a_loop(tmp_path, near):
    model = net("lstm")
    record = compress(model, mixed(2))
    check(model, record, tmp_path / "m.tflite")
    (tmp_path / "float.tflite").write_bytes(expand(tmp_path / "m.tflite"))
    assert difference(model, tmp_path / "float.tflite", data(model), True) <= OUTPUT_TOLERANCE


def test_a_gru_whose_recurrent_kernel_the_converter_splits_is_refused(tmp_path, monkeypatch, near, converted_once):
    monkeypatch.setitem(NETS, "before", lambda x: layers.GRU(8, reset_after=False, name="loop")(x))
    model = net("before")
    record = compress(model, lambda name, shape: SPECS[1])
    for write in (to_litert, partial(to_tflm, check=False)):
        with pytest.raises(
            ValueError, match=r"'loop' with reset_after=False.*leave 'loop/gru_cell/recurrent_kernel' out"
        ):
            write(model, tmp_path / "m.tflite", record)
    assert list(tmp_path.iterdir()) == []
    record = compress(model, lambda name, shape: None if "recurrent" in name else SPECS[1])
    to_litert(model, tmp_path / "m.tflite", record)
    assert difference(model, tmp_path / "m.tflite", data(model), True) <= OUTPUT_TOLERANCE


def test_integer_operators_are_refused(tmp_path):
    model = net("bidirectional")
    record = compress(model, lambda name, shape: SPECS[0])
    with pytest.raises(
        ValueError, match=r"'bidirectional.*' is recurrent, and LiteRT has no loop of integer operators"
    ):
        to_litert(model, tmp_path / "m.tflite", record, activations="int8")
    assert list(tmp_path.iterdir()) == []


def test_stateful_layers_are_sent_to_streaming(tmp_path):
    inputs = keras.Input((STEPS, FEATURES), batch_size=2)
    model = keras.Model(inputs, layers.LSTM(4, stateful=True, name="loop")(inputs))
    with pytest.raises(ValueError, match=r"'loop', which is stateful.*r2keras.export.streaming"):
        to_litert(model, tmp_path / "m.tflite")


def test_the_converter_runs_in_a_process_of_its_own(tmp_path):
    model = net("sequences")
    check(model, compress(model, lambda name, shape: SPECS[1]), tmp_path / "m.tflite")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (f"import os; os.kill(os.getpid(), {int(signal.SIGABRT)})", "its process ended with SIGABRT and wrote no file"),
        ("import sys; sys.exit(3)", "its process ended with exit status 3 and wrote no file"),
        ("import sys, pathlib; pathlib.Path(sys.argv[1], 'error').write_text('no such loop')", "no such loop"),
    ],
)
def test_a_converter_that_crashes_or_refuses_is_told(script, words, tmp_path, monkeypatch):
    monkeypatch.setattr(isolated_process, "SCRIPT", script)
    with pytest.raises(RuntimeError, match=f"could not convert the model 'lstm'.*{words}"):
        to_litert(net("lstm"), tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []
