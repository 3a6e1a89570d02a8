"""Wider copies: the outputs of trained weights stay, units and filters get the requested numbers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

import r2keras
from r2keras import widen
from tests import nets
from tests import oracles_widening as oracle

pytestmark = pytest.mark.backends

ORACLES = {layers.LSTM: oracle.lstm, layers.GRU: oracle.gru, layers.SimpleRNN: oracle.simple_rnn}


def sequence(time=5, size=3, samples=4):
    return np.random.default_rng(2).normal(size=(samples, time, size)).astype("float32")


def weights(layer):
    return [np.asarray(ops.convert_to_numpy(w), np.float64) for w in layer.weights]


def outputs(model, x):
    return nets.arrays(model(x, training=False))


def recurrent(kind, units=4):
    model = keras.Sequential([keras.Input((5, 3)), kind(units, name="rnn"), layers.Dense(2, name="head")])
    return nets.shaken(model)


def image():
    """Convolution, batch norm, depthwise, a residual sum, flattened into dense layers."""
    x = keras.Input((8, 8, 3))
    stem = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="stem")(x)))
    deep = layers.DepthwiseConv2D(3, padding="same", name="deep")(stem)
    point = layers.Conv2D(4, 1, name="point")(deep)
    total = layers.MaxPooling2D(name="pool")(layers.Add(name="add")([stem, point]))
    hidden = layers.Dense(5, activation="relu", name="hidden")(layers.Flatten(name="flat")(total))
    return nets.shaken(keras.Model(x, layers.Dense(3, name="head")(hidden), name="image"))


def stacked():
    """Embedding, two recurrent layers of which one runs both ways, a dense layer at every step."""
    words = keras.Input((6,), dtype="int32")
    x = layers.Embedding(10, 4, mask_zero=True, name="words")(words)
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True), name="both")(x)
    x = layers.Dropout(0.5)(layers.LSTM(5, return_sequences=True, name="top")(x))
    out = layers.TimeDistributed(layers.Dense(7, name="inner"), name="head")(x)
    return nets.shaken(keras.Model(words, out, name="stacked"))


def encoder_decoder():
    """States of one recurrent layer start another."""
    first, second = keras.Input((5, 3), name="first"), keras.Input((4, 2), name="second")
    _, h, c = layers.LSTM(4, return_state=True, name="encoder")(first)
    x = layers.LSTM(4, name="decoder")(second, initial_state=[h, c])
    return nets.shaken(keras.Model([first, second], layers.Dense(2, name="head")(x), name="pair"))


def separable():
    """Separable, transposed and joined convolutions, a gate over channels as in squeeze and excitation."""
    x = keras.Input((6, 6, 3))
    a = layers.SeparableConv2D(4, 3, depth_multiplier=2, padding="same", name="a")(x)
    b = layers.Conv2DTranspose(3, 3, padding="same", name="b")(a)
    joined = layers.PReLU(shared_axes=[1, 2], name="prelu")(layers.Concatenate(name="join")([a, x, b]))
    pooled = layers.GlobalAveragePooling2D(name="mean")(joined)
    gate = layers.Dense(2, activation="sigmoid", name="gate")(pooled)
    joined = joined * layers.Conv2D(1, 1, name="mask")(joined)
    up = layers.Conv2D(2, 1, name="c")(joined) * layers.Reshape((1, 1, 2), name="shape")(gate)
    return nets.shaken(keras.Model(x, layers.Dense(2, name="head")(layers.Flatten()(up)), name="separable"))


MODELS = {
    "lstm": lambda: recurrent(layers.LSTM),
    "gru": lambda: recurrent(layers.GRU),
    "simple": lambda: recurrent(layers.SimpleRNN),
    "gru_reset_before": lambda: recurrent(lambda units, **k: layers.GRU(units, reset_after=False, **k)),
    "cell": lambda: recurrent(lambda units, **k: layers.RNN(layers.LSTMCell(units), **k)),
    "image": image,
    "stacked": stacked,
    "pair": encoder_decoder,
    "separable": separable,
    "plain": lambda: nets.shaken(nets.plain()),
}


@pytest.mark.parametrize("kind", ORACLES)
@pytest.mark.parametrize("factor", [1.5, 2, 2.6])
@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_wider_recurrent_layer_keeps_the_outputs_of_the_formula(kind, factor, jitter):
    model, x = recurrent(kind), sequence()
    head = weights(model.get_layer("head"))
    expected = ORACLES[kind](x.astype(np.float64), *weights(model.get_layer("rnn")))[:, -1] @ head[0] + head[1]
    wide = widen(model, factor, function_preserving=True, jitter=jitter)
    assert wide.get_layer("rnn").units == round(4 * factor)
    np.testing.assert_allclose(outputs(wide, x)[0], expected, atol=1e-5)


def test_bidirectional_layer_keeps_the_outputs_of_the_formula():
    model = keras.Sequential(
        [keras.Input((5, 3)), layers.Bidirectional(layers.LSTM(4), name="both"), layers.Dense(2, name="head")]
    )
    nets.shaken(model)
    x, both, head = sequence(), weights(model.get_layer("both")), weights(model.get_layer("head"))
    ends = [oracle.lstm(x.astype(np.float64), *both[:3]), oracle.lstm(x[:, ::-1].astype(np.float64), *both[3:])]
    expected = np.concatenate([end[:, -1] for end in ends], -1) @ head[0] + head[1]
    wide = widen(model, 1.5, function_preserving=True)
    assert wide.get_layer("head").kernel.shape == (12, 2)
    np.testing.assert_allclose(outputs(wide, x)[0], expected, atol=1e-5)


def test_wider_convolution_with_batch_norm_keeps_the_outputs_of_the_formula():
    model = nets.shaken(nets.plain())
    x = nets.inputs_of(model)
    conv, norm, head = (weights(model.get_layer(name)) for name in ("conv", "norm", "head"))
    maps = np.maximum(oracle.normalized(oracle.conv(x.astype(np.float64), *conv), *norm), 0)
    expected = maps.reshape(len(x), -1) @ head[0] + head[1]
    wide = widen(model, 2.4, function_preserving=True)
    assert [wide.get_layer("conv").filters, wide.get_layer("head").units] == [7, 4]
    np.testing.assert_allclose(outputs(wide, x)[0], expected, atol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_function_is_preserved(name):
    model = MODELS[name]()
    x = nets.inputs_of(model)
    before, expected = nets.weights_of(model), outputs(model, x)
    for factor in (1, 1.5, 3):
        wide = widen(model, factor, function_preserving=True)
        for old, new in zip(expected, outputs(wide, x), strict=True):
            np.testing.assert_allclose(new, old, atol=1e-5 * max(1.0, np.abs(old).max()))
        assert all(np.array_equal(before[path], value) for path, value in nets.weights_of(model).items())
        assert (wide.count_params() > model.count_params()) == (factor > 1)


def test_even_division_halves_what_goes_out():
    model = recurrent(layers.LSTM)
    kernel = weights(model.get_layer("head"))[0]
    wide = weights(widen(model, 2, function_preserving=True, jitter=0).get_layer("head"))[0]
    np.testing.assert_allclose(wide, np.concatenate([kernel, kernel]) / 2, rtol=1e-6)


def test_copies_part_in_training():
    model = recurrent(layers.LSTM)
    wide = widen(model, 2, function_preserving=True)
    wide.compile("sgd", "mse")
    x = sequence(samples=16)
    wide.fit(x, np.random.default_rng(0).normal(size=(16, 2)), epochs=2, verbose=0)
    kernel = weights(wide.get_layer("rnn"))[0]
    assert np.abs(kernel[:, :4] - kernel[:, 4:8]).max() > 1e-6


@pytest.mark.slow_elsewhere
def test_stack_widens_recurrent_layers_alone():
    wide = widen(stacked(), 2)
    shapes = [tuple(w.shape) for w in wide.weights if w.name in ("embeddings", "kernel", "recurrent_kernel")]
    assert shapes == [(10, 4), (4, 18), (6, 18), (4, 18), (6, 18), (12, 40), (10, 40), (10, 7)]


@pytest.mark.slow_elsewhere
def test_embedding_widens_when_asked_and_the_function_stays():
    model = stacked()
    wide = widen(model, 2, match="words|both|top", function_preserving=True)
    assert wide.get_layer("words").embeddings.shape == (10, 8)
    x = nets.inputs_of(model)
    np.testing.assert_allclose(outputs(wide, x)[0], outputs(model, x)[0], atol=1e-5)


def test_match_takes_some_layers():
    wide = widen(image(), 2, match="hidden")
    assert [wide.get_layer(n).get_config().get("filters") for n in ("stem", "point")] == [4, 4]
    assert wide.get_layer("hidden").units == 10


def test_residual_sum_with_an_input_keeps_its_width():
    x = keras.Input((6,))
    inner = layers.Dense(6, name="back")(layers.Dense(4, name="hidden")(x))
    wide = widen(keras.Model(x, layers.Dense(2)(layers.Add()([x, inner]))), 2)
    assert [wide.get_layer(name).units for name in ("hidden", "back")] == [8, 6]


def test_layer_before_a_nested_model_keeps_its_width():
    block = keras.Sequential([keras.Input((4,)), layers.Dense(5, name="in"), layers.ReLU(name="relu")], name="block")
    sizes = [keras.Input((3,)), layers.Dense(4, name="before"), block, layers.Dense(2, name="head")]
    model = nets.shaken(keras.Sequential(sizes))
    wide = widen(model, 2, function_preserving=True)
    assert wide.get_layer("before").units == 4
    assert wide.get_layer("block").get_layer("in").units == 10
    x = nets.inputs_of(model)
    np.testing.assert_allclose(outputs(wide, x)[0], outputs(model, x)[0], atol=1e-5)


def test_fresh_weights_and_kept_statistics():
    norm = layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 4.0, 4.0])
    adapted = layers.Normalization(name="adapted")
    adapted.adapt(np.arange(12.0).reshape(4, 3))
    model = keras.Sequential([keras.Input((3,)), norm, adapted, layers.Dense(4, name="a"), layers.Dense(2)])
    wide = widen(model, 0.5)
    assert wide.get_layer("a").units == 2
    np.testing.assert_allclose(weights(wide.get_layer("adapted"))[0], weights(adapted)[0])
    same = widen(model, 1)
    assert np.abs(weights(same.get_layer("a"))[0] - weights(model.get_layer("a"))[0]).max() > 1e-3


def test_compile_settings_and_names_stay():
    model = recurrent(layers.LSTM)
    model.compile(keras.optimizers.SGD(0.5), "mse")
    wide = widen(model, 2)
    assert float(wide.optimizer.learning_rate) == pytest.approx(0.5)
    assert [layer.name for layer in wide.layers] == ["rnn", "head"]


def tied():
    words = keras.Input((5,), dtype="int32")
    embedding = layers.ReversibleEmbedding(10, 4, name="words")
    x = layers.LSTM(4, return_sequences=True, name="lstm")(embedding(words))
    return keras.Model(words, embedding(x, reverse=True))


def attention():
    x = keras.Input((5, 4))
    h = layers.Dense(4, name="hidden")(x)
    return keras.Model(x, layers.Dense(2)(layers.MultiHeadAttention(2, 2, name="attend")(h, h)))


def layer_norm():
    return keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.LayerNormalization(name="n"), layers.Dense(2)])


def dense_only():
    return keras.Sequential([keras.Input((4,)), layers.Dense(4, name="hidden"), layers.Dense(2, name="head")])


def prepared():
    return r2keras.prepare(dense_only(), r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=4))]))


def rounded():
    spec = r2keras.QuantSpec(num_bits=2, method="lsq")
    return recurrent(lambda units, name: r2keras.layers.QuantizedLSTM(units, recurrent_spec=spec, name=name))


def normalized():
    cell = r2keras.layers.QuantizedGRU(4, normalization="layer")
    return keras.Sequential([keras.Input((5, 3)), layers.Bidirectional(cell, name="ways"), layers.Dense(2)])


BAD = [
    (dense_only, 0.1, {}, r"a width of at least 1 for 'hidden', which has 4.*factor=0.1.*factor=0.25"),
    (dense_only, 0, {}, "`factor`. Expected a number above 0"),
    (dense_only, float("nan"), {}, "a number above 0"),
    (dense_only, 0.5, {"function_preserving": True}, "at least 1 with function_preserving"),
    (dense_only, 2, {"match": "lstm"}, "Expected a layer that 'lstm' matches.*nothing to widen.*hidden, head"),
    (dense_only, 2, {"match": "head"}, "has to keep its width"),
    (dense_only, 2, {"match": "("}, "regular expression"),
    (dense_only, 2, {"jitter": 1.0}, "`jitter`"),
    (tied, 2, {}, "The embedding 'words' is tied to the softmax"),
    (attention, 2, {}, "'attend' is a MultiHeadAttention.*fed by hidden.*`match`"),
    (layer_norm, 1.5, {"function_preserving": True}, "some would have more copies"),
    (prepared, 2, {}, "prepared for compression"),
    (rounded, 2, {"function_preserving": True}, "'rnn' quantizes or normalizes.*Widen the float model"),
    (normalized, 2, {"function_preserving": True}, "'ways' quantizes or normalizes"),
]


@pytest.mark.parametrize(("make", "factor", "options", "words"), BAD, ids=[f"{b[0].__name__}-{b[3][:15]}" for b in BAD])
def test_mistakes_are_told_in_one_sentence(make, factor, options, words):
    with pytest.raises(ValueError, match=words):
        widen(make(), factor, **options)


def test_quantized_layers_without_specs_keep_the_function_and_others_start_afresh():
    model = recurrent(r2keras.layers.QuantizedLSTM)
    x = nets.inputs_of(model)
    wide = widen(model, 1.5, function_preserving=True)
    np.testing.assert_allclose(outputs(wide, x)[0], outputs(model, x)[0], atol=1e-5)
    assert widen(rounded(), 1.5).get_layer("rnn").units == 6


@pytest.mark.parametrize("factor", ["2", True])
def test_factor_is_a_number(factor):
    with pytest.raises(TypeError, match="Expected a number"):
        widen(dense_only(), factor)


def test_layer_norm_takes_whole_factors():
    model = nets.shaken(layer_norm())
    x = nets.inputs_of(model)
    np.testing.assert_allclose(
        outputs(widen(model, 2, function_preserving=True), x)[0], outputs(model, x)[0], atol=1e-5
    )


def test_grouped_convolution_keeps_its_filters_and_what_feeds_it_is_refused():
    model = keras.Sequential(
        [
            *(keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name="stem")),
            *(layers.Conv2D(4, 3, groups=2, name="grouped"), layers.Flatten(), layers.Dense(2)),
        ]
    )
    with pytest.raises(ValueError, match=r"'grouped' is a grouped convolution\. It is fed by stem"):
        widen(model, 2)
