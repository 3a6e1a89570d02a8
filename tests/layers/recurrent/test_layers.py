"""The quantized recurrent layers: equal to Keras' without specs, to the formulas with them; files, bad input."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

from r2keras import ActivationSpec, PaletteSpec, QuantSpec
from r2keras.layers import QuantizedGRU, QuantizedLSTM, QuantizedSimpleRNN
from tests import oracles_recurrent as oracles

pytestmark = pytest.mark.backends

RNG = np.random.default_rng(5)
X = RNG.normal(size=(3, 5, 4)).astype("float32")
MASK = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, 1], [0, 0, 1, 1, 1]], bool)
UNITS = 6
PAIRS = {
    "simple_rnn": (QuantizedSimpleRNN, layers.SimpleRNN, {}, oracles.simple_rnn, 1),
    "lstm": (QuantizedLSTM, layers.LSTM, {}, oracles.lstm, 4),
    "gru": (QuantizedGRU, layers.GRU, {}, oracles.gru, 3),
    "gru_reset_before": (QuantizedGRU, layers.GRU, {"reset_after": False}, None, 3),
}
W2 = QuantSpec(num_bits=2)
KERNELS = {
    "balanced": QuantSpec(num_bits=2, method="balanced"),
    "alternating": QuantSpec(num_bits=2, method="alternating"),
    "ternary_per_gate": QuantSpec(num_bits=2, method="ternary", granularity="per_gate"),
    "wrpn": QuantSpec(num_bits=4, method="wrpn"),
    "lsq": QuantSpec(num_bits=2, method="lsq"),
    "palette": PaletteSpec(num_bits=2, min_size=0),
}
STATES = {
    "uniform": (QuantSpec(num_bits=3), lambda h: np.rint(h * 3) / 3),
    "mid_rise": (W2, lambda h: (np.clip(np.rint(h * 2 - 0.5), -2, 1) + 0.5) / 2),
    "alternating": (
        QuantSpec(num_bits=2, method="alternating"),
        lambda h: np.stack([oracles.alternating(row, 2) for row in h]),
    ),
}


def array(tensor):
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))


def fill(source, target):
    """Gives a layer the weights of another one, biases that are not zero, and ranges that fit."""
    for ours, theirs in zip(target.cell.weights, source.cell.weights, strict=False):
        value = array(theirs)
        ours.assign(RNG.normal(0, 0.3, value.shape) if not value.any() else value)
        theirs.assign(ours)
    if hasattr(target, "initialize"):
        target.initialize()


def both(name, **options):
    """Our layer and Keras' with the same weights."""
    ours, theirs, more, _, _ = PAIRS[name]
    pair = ours(UNITS, seed=7, **more, **options), theirs(UNITS, seed=7, **more, **options)
    for layer in pair:
        layer.build(X.shape)
    fill(pair[1], pair[0])
    return pair


def assert_alike(first, second, atol=1e-6):
    for a, b in zip(keras.tree.flatten(first), keras.tree.flatten(second), strict=True):
        np.testing.assert_allclose(array(a), array(b), rtol=0, atol=atol)


OPTIONS = {
    "states": {"return_state": True, "go_backwards": True},
    "stateful": {"stateful": True, "return_sequences": True},
    "unrolled": {"unroll": True, "use_bias": False},
    "both_dropouts": {"dropout": 0.4, "recurrent_dropout": 0.3, "return_sequences": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", PAIRS)
def test_without_specs_it_is_the_layer_of_keras(name, options):
    ours, theirs = both(name, **options)
    for call in ({}, {"mask": ops.convert_to_tensor(MASK)}, {"training": True}):
        # Twice: a stateful layer goes on from where it was.
        for _ in range(2 if "stateful" in options else 1):
            assert_alike(ours(X, **call), theirs(X, **call))


@pytest.mark.parametrize("name", ["simple_rnn", "lstm", "gru"])
def test_an_initial_state_is_taken_as_it_is(name):
    ours, theirs = both(name)
    states = [ops.convert_to_tensor(RNG.normal(size=(3, UNITS)).astype("float32")) for _ in theirs.state_size]
    assert_alike(ours(X, initial_state=states), theirs(X, initial_state=states))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ["simple_rnn", "lstm", "gru"])
def test_the_state_is_quantized_inside_the_loop(name, state):
    spec, quantize = STATES[state]
    layer = PAIRS[name][0](UNITS, return_sequences=True, state_spec=spec)
    layer.build(X.shape)
    w, u, b = map(array, layer.cell.weights)
    expected = PAIRS[name][3](X, w, u, b, quantize=quantize)
    # A float32 state next to a boundary may round the other way.
    assert (np.abs(array(layer(X)) - expected) < 1e-5).mean() > 0.95


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_are_those_of_the_record(kernel):
    spec = KERNELS[kernel]
    layer = QuantizedLSTM(UNITS, kernel_spec=spec, recurrent_spec=spec, return_sequences=True)
    layer.build(X.shape)
    layer.initialize()
    compressed = layer.parts.compressors
    pairs = [(compressed[name], getattr(layer.cell, name)) for name in ("kernel", "recurrent_kernel")]
    w, u = (made.tensor("lstm/kernel", v.value, array(v)).values() for made, v in pairs)
    if kernel == "ternary_per_gate":
        assert [len(np.unique(gate)) for gate in np.split(w, 4, -1)] == [3] * 4 and len(np.unique(np.abs(w))) == 5
    assert np.abs(w - array(layer.cell.kernel)).max() > 1e-3
    np.testing.assert_allclose(array(layer(X)), oracles.lstm(X, w, u, array(layer.cell.bias)), atol=1e-5)


@pytest.mark.parametrize("name", ["simple_rnn", "lstm", "gru"])
def test_normalized_pre_activations(name):
    cls, _, _, formula, gates = PAIRS[name]
    for kind in ("layer", "weight"):
        layer = cls(UNITS, normalization=kind, return_sequences=True)
        layer.build(X.shape)
        for gain in list(layer.cell.gains.values()):
            gain.assign(array(gain) * RNG.uniform(0.5, 1.5, gain.shape))
        w, u, b = map(array, layer.cell.weights[:3])
        gains = [array(gain) for gain in layer.cell.gains.values()]
        if kind == "layer":
            norms = [lambda z, g=gain: oracles.layer_norm(z, gates, g) for gain in gains]
        else:
            lengths = [np.linalg.norm(kernel, axis=0) for kernel in (w, u)]
            norms = [lambda z, f=gain / length: z * f for gain, length in zip(gains, lengths, strict=True)]
        np.testing.assert_allclose(array(layer(X)), formula(X, w, u, b, norms=norms), atol=1e-4)


@pytest.mark.parametrize("spec", [QuantSpec(num_bits=1, method="binary"), KERNELS["ternary_per_gate"]], ids=str)
@pytest.mark.parametrize("kind", ["layer", "weight"])
def test_normalized_signs(kind, spec):
    """Hou et al.: binary and ternary kernels under normalized pre-activations; the oracle takes the grid's values."""
    layer = QuantizedLSTM(UNITS, kernel_spec=spec, recurrent_spec=spec, normalization=kind, return_sequences=True)
    layer.build(X.shape)
    for gain in layer.cell.gains.values():
        gain.assign(array(gain) * RNG.uniform(0.5, 1.5, gain.shape))
    gains = [array(gain) for gain in layer.cell.gains.values()]
    parts = [(layer.parts.compressors[name], getattr(layer.cell, name)) for name in ("kernel", "recurrent_kernel")]
    w, u = (made.tensor(v.name, v.value, array(v)).values() for made, v in parts)
    assert all(len(np.unique(np.abs(kernel[:, 0]))) <= spec.num_bits for kernel in (w, u))
    if kind == "layer":
        norms = [lambda z, g=gain: oracles.layer_norm(z, 4, g) for gain in gains]
    else:
        lengths = [np.linalg.norm(kernel, axis=0) for kernel in (w, u)]
        norms = [lambda z, f=gain / length: z * f for gain, length in zip(gains, lengths, strict=True)]
    formula = oracles.lstm(X, w, u, array(layer.cell.bias), norms=norms)
    np.testing.assert_allclose(array(layer(X)), formula, atol=1e-4)


@pytest.mark.parametrize("name", ["simple_rnn", "lstm", "gru"])
def test_both_directions_without_specs_are_keras_own(name):
    ours, theirs, *_ = PAIRS[name]
    pair = [layers.Bidirectional(cls(UNITS, return_sequences=True)) for cls in (ours, theirs)]
    for layer in pair:
        layer.build(X.shape)
    for value, source in zip(pair[0].weights, pair[1].weights, strict=True):
        value.assign(array(source))
    assert_alike(pair[0](X), pair[1](X), atol=1e-6)


def test_weight_normalization_starts_as_the_layer_without():
    layer, plain = QuantizedLSTM(UNITS, normalization="weight"), layers.LSTM(UNITS)
    layer.build(X.shape), plain.build(X.shape)
    for ours, theirs in zip(plain.weights, layer.cell.weights, strict=False):
        ours.assign(array(theirs))
    assert_alike(layer(X), plain(X), atol=1e-5)


def model_of():
    """Stacked, bidirectional, masked, with every kind of spec."""
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(12, 4, mask_zero=True, name="embedding")(inputs)
    options = {"kernel_spec": W2, "input_spec": ActivationSpec(num_bits=4), "dropout": 0.2, "seed": 1}
    lstm = QuantizedLSTM(
        UNITS, recurrent_spec=KERNELS["palette"], state_spec=QuantSpec(num_bits=3), normalization="layer", **options
    )
    lstm.return_sequences = True
    gru = QuantizedGRU(
        3, recurrent_spec=KERNELS["alternating"], state_spec=ActivationSpec(num_bits=4, method="ewgs"), name="gru"
    )
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Bidirectional(gru, name="both")(lstm(x))))


@pytest.mark.usefixtures("eager")
def test_trains_and_comes_back_from_a_file(tmp_path):
    model, tokens = model_of(), np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8], [9, 1, 0, 0, 0]])
    before = [array(v) for v in model.trainable_weights]
    model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=keras.backend.backend() == "jax")
    model.fit(tokens, RNG.normal(size=(3, 2)), epochs=2, verbose=0)
    still = [v.path for v, old in zip(model.trainable_weights, before, strict=True) if (array(v) == old).all()]
    assert still == []
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(again(tokens)), array(model(tokens)))


@pytest.mark.parametrize("cls", [QuantizedSimpleRNN, QuantizedLSTM, QuantizedGRU])
def test_config_round_trip(cls):
    options = {"kernel_spec": KERNELS["palette"], "recurrent_spec": W2, "normalization": "weight", "dropout": 0.1}
    layer = cls(UNITS, state_spec=W2, input_spec=ActivationSpec(num_bits=4), return_sequences=True, **options)
    config = json.loads(json.dumps(layer.get_config()))
    again = cls.from_config(config)
    assert again.get_config() == layer.get_config()
    assert again.specs == layer.specs and again.normalization == "weight" and again.return_sequences


def test_a_regularizer_stays_the_users_own():
    regularizer = keras.regularizers.L2(0.1)
    assert QuantizedLSTM(UNITS, kernel_spec=W2, kernel_regularizer=regularizer).kernel_regularizer is regularizer


def test_mixed_precision_flips_no_codes():
    layer = QuantizedLSTM(UNITS, kernel_spec=W2, recurrent_spec=W2, dtype="mixed_bfloat16")
    layer.build(X.shape)
    seen = []
    layer.parts.compressors["kernel"].call = lambda weight, training: seen.append(weight.dtype) or weight
    assert keras.backend.standardize_dtype(layer(X).dtype) == "bfloat16"
    assert [keras.backend.standardize_dtype(dtype) for dtype in seen] == ["float32"]


BAD = {
    "units": ({"units": 0}, ValueError, "units.*at least 1"),
    "fraction": ({"units": 2.5}, TypeError, "units.*at least 1"),
    "kernel": ({"kernel_spec": ActivationSpec()}, TypeError, "kernel_spec.*a QuantSpec, a PaletteSpec or None"),
    "bits": ({"recurrent_spec": 2}, TypeError, "recurrent_spec.*a QuantSpec, a PaletteSpec or None"),
    "palette": ({"state_spec": PaletteSpec()}, TypeError, "state_spec.*a QuantSpec, an ActivationSpec or None"),
    "lsq": ({"state_spec": KERNELS["lsq"]}, ValueError, "state_spec.*method.*ActivationSpec"),
    "one_bit": ({"state_spec": QuantSpec(num_bits=1)}, ValueError, "state_spec.*2 bits or more"),
    "input": ({"input_spec": W2}, ValueError, r"input_spec.*ActivationSpec\(num_bits=2\)"),
    "relu": ({"state_spec": W2, "activation": "relu"}, ValueError, "activation.*with state_spec.*relu"),
    "norm": ({"normalization": "batch"}, ValueError, "normalization.*'layer', 'weight'"),
    "cudnn": ({"kernel_spec": W2, "use_cudnn": True}, ValueError, "use_cudnn"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    options, kind, words = BAD[case]
    with pytest.raises(kind, match=words):
        QuantizedLSTM(**{"units": 4, **options})


@pytest.mark.parametrize("shapes", [[(3, 5)] * 2, [(3, UNITS)], [(UNITS,)] * 2])
def test_a_state_of_another_shape(shapes):
    layer = QuantizedLSTM(UNITS, state_spec=W2, name="memory")
    with pytest.raises(ValueError, match=r"initial state of the layer 'memory' does not fit.*\(batch, 6\)"):
        layer(X, initial_state=[ops.zeros(shape) for shape in shapes])


def test_gates_of_a_layer_without_gates():
    from r2keras.layers import FakeQuantize

    with pytest.raises(ValueError, match=r"granularity.*not a kernel of an LSTM"):
        FakeQuantize(layers.Dense(2), KERNELS["ternary_per_gate"])(X)
