"""Streaming models: single steps give what the whole sequence gives, in Keras and in the file."""

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras import PaletteSpec, QuantSpec
from r2keras.export import LiteRTStream, streaming, to_litert
from r2keras.export.tflite.constant_values import kind_of
from r2keras.export.tflite.interpreter import read
from tests.export.palettize import compress
from tests.export.quantize import quantize

FEATURES, STEPS, WORDS = 3, 7, 30
OUTPUT_TOLERANCE = 1e-6
INNER = {
    "stacked": lambda x: layers.SimpleRNN(5)(layers.LSTM(6, return_sequences=True)(x)),
    "stateful": lambda x: layers.LSTM(6, return_sequences=True, stateful=True)(x),
    "with_states": lambda x: layers.concatenate(layers.LSTM(6, return_state=True)(x)),
    "normalised": lambda x: layers.GRU(6, dropout=0.5)(layers.LayerNormalization()(layers.Dense(4)(x))),
}


def signal_model(kind):
    """Returns a model of a sequence of vectors."""
    keras.utils.set_random_seed(4)
    inputs = keras.Input((STEPS, FEATURES), batch_size=1 if kind == "stateful" else None, name="signal")
    return keras.Model(inputs, layers.Dense(4, name="head")(INNER[kind](inputs)), name=kind)


def language_model():
    """Returns a model of two recurrent layers over words, the first with a quantized state."""
    keras.utils.set_random_seed(5)
    spec = QuantSpec(num_bits=2, method="balanced")
    inputs = keras.Input((None,), name="tokens")
    x = layers.Embedding(WORDS, 8, name="words")(inputs)
    x = r2keras.layers.QuantizedLSTM(
        12, kernel_spec=spec, recurrent_spec=spec, state_spec=QuantSpec(num_bits=3), return_sequences=True, name="first"
    )(x)
    x = layers.GRU(10, return_sequences=True, name="second")(x)
    return keras.Model(inputs, layers.Dense(WORDS, activation="softmax", name="head")(x), name="language_model")


def perplexity(probabilities, text):
    """Returns the perplexity of words that follow one another."""
    return float(np.exp(-np.log(probabilities[np.arange(len(text) - 1), text[1:]]).mean()))


@pytest.mark.parametrize("kind", INNER)
def test_single_steps_of_the_file_are_the_whole_sequence_in_keras(kind, tmp_path, near):
    model = signal_model(kind)
    record = quantize(model, lambda name: QuantSpec(num_bits=4))
    to_litert(streaming(model), tmp_path / "m.tflite", record)
    x = np.random.default_rng(0).normal(size=(STEPS, FEATURES)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(model(x[None]))[0]
    for xnnpack in (True, False):
        stream = LiteRTStream(tmp_path / "m.tflite", xnnpack=xnnpack)
        got = stream.run(x)
        got = got if expected.ndim == 2 else got[-1]
        assert np.abs(got - expected).max() <= OUTPUT_TOLERANCE * np.ptp(expected)
        stream.reset()
        again = stream.run(x)
        np.testing.assert_array_equal(got, again if expected.ndim == 2 else again[-1])


def test_the_step_has_no_loop_and_the_models_names(tmp_path, near):
    model = signal_model("stacked")
    record = compress(model, lambda name, shape: PaletteSpec(num_bits=3) if "recurrent" in name else None)
    step = streaming(model)
    assert [tuple(t.shape) for t in step.inputs] == [(1, 1, FEATURES), (1, 6), (1, 6), (1, 5)]
    assert [t.name for t in step.inputs] == ["signal", "state_0", "state_1", "state_2"]
    assert [w.path for w in step.weights] == [w.path for w in model.weights]
    to_litert(step, tmp_path / "m.tflite", record)
    file = read(tmp_path / "m.tflite")
    assert "WHILE" not in [kind_of(file, op) for op in file.subgraphs[0].operators]


def test_perplexity_of_a_trained_language_model_is_that_of_keras(tmp_path, near):
    model = language_model()
    rng = np.random.default_rng(0)
    text = np.cumsum(rng.integers(1, 4, 120)) % WORDS
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(text[None, :6], text[None, 1:7])
    # As after many steps: words of unlike probabilities.
    model.get_layer("words").embeddings.assign(rng.normal(size=(WORDS, 8)))
    model.get_layer("head").kernel.assign(rng.normal(scale=2.0, size=(10, WORDS)))
    recipe = r2keras.Recipe([("words|head|second", QuantSpec(num_bits=4))])
    small, record = r2keras.finalize(r2keras.prepare(model, recipe))
    to_litert(streaming(small), tmp_path / "m.tflite", record)
    expected = perplexity(keras.ops.convert_to_numpy(small(text[None].astype(np.float32)))[0], text)
    got = perplexity(LiteRTStream(tmp_path / "m.tflite").run(text), text)
    assert got == pytest.approx(expected, rel=1e-3) and abs(got - WORDS) > 1


def test_two_inputs_two_outputs(tmp_path, near):
    first, second = keras.Input((None, 2), name="a"), keras.Input((None, 3), name="b")
    x = layers.LSTM(4, return_sequences=True)(layers.concatenate([first, second]))
    model = keras.Model([first, second], [layers.Dense(2)(x), layers.GRU(3)(x)])
    to_litert(streaming(model), tmp_path / "m.tflite")
    arrays = [np.random.default_rng(0).normal(size=(5, size)).astype(np.float32) for size in (2, 3)]
    expected = [keras.ops.convert_to_numpy(y)[0] for y in model([x[None] for x in arrays])]
    got = LiteRTStream(tmp_path / "m.tflite").run(arrays)
    np.testing.assert_allclose(got[0], expected[0], atol=1e-6)
    np.testing.assert_allclose(got[1][-1], expected[1], atol=1e-6)


def sequential(*inner):
    """Returns a Sequential model with a GRU at the end."""
    return keras.Sequential([keras.Input((STEPS, FEATURES)), *inner, layers.GRU(4, return_sequences=True)], name="net")


def looped_state():
    """Returns a model in which one layer hands its state to another."""
    inputs = keras.Input((STEPS, FEATURES))
    _, *states = layers.LSTM(4, return_state=True)(inputs)
    return keras.Model(inputs, layers.LSTM(4, name="decoder")(inputs, initial_state=states))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(2)]), "has no recurrent layer"),
        (lambda: sequential(layers.Conv1D(4, 3, padding="same")), "other outputs step by step"),
        (
            lambda: sequential(layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both")),
            "'both': it is inside another layer",
        ),
        (lambda: sequential(layers.LSTM(4, return_sequences=True, go_backwards=True)), "it runs backwards"),
        (lambda: sequential(layers.RNN(layers.LSTMCell(4), return_sequences=True)), "it is not an LSTM"),
        (lambda: sequential(layers.Conv1D(4, 3)), "does not run on single steps"),
        (looped_state, "'decoder' gets its state from another layer"),
        (lambda: keras.Model(i := keras.Input((4, 2), name="state_x"), layers.GRU(2)(i)), "is reserved for states"),
    ],
)
def test_what_has_no_step_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        streaming(make())


def test_a_file_without_states_is_refused(exported):
    with pytest.raises(ValueError, match="takes no states"):
        LiteRTStream(exported[2])
