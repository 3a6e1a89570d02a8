"""FakeQuantize over every kind of layer: values, gradients, files, masks, policies, losses and inner state."""

import functools
import json
import tempfile

import keras
import numpy as np
import pytest
from keras import layers, ops

from r2keras._models.walk import kernels
from r2keras.layers import FakeQuantize
from r2keras.regularizers import R2Margin
from r2keras.specs import QuantSpec
from tests import reference
from tests.layers.cases import (
    BATCH,
    LAYERS,
    RNG,
    SPEC,
    STILL,
    array,
    call,
    everything,
    fed,
    fill,
    inputs_of,
    plain_output,
    quantized,
    student,
    symbolic_input,
    tokens,
)

pytestmark = pytest.mark.backends


@functools.cache
def trained():
    """A model of every layer after two steps, its inputs, its outputs, and its latent kernels before."""
    keras.utils.set_random_seed(1)
    model, x = everything(), {name: inputs_of(name) for name in LAYERS}
    for wrapper in map(model.get_layer, LAYERS):
        for _, kernel in kernels(wrapper.layer):
            kernel.assign(ops.convert_to_numpy(kernel) * 1.7)
        wrapper.initialize()
    before = {name: {k: array(v).copy() for k, v in kernels(model.get_layer(name).layer)} for name in LAYERS}
    backend = keras.backend.backend()
    # Tracing takes TensorFlow longer than these few steps; `tests/quantizers` trains models with graphs.
    how = {"run_eagerly": backend == "tensorflow", "jit_compile": backend == "jax"}
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss=dict.fromkeys(LAYERS, "mse"), **how)
    # Of `EinsumDense`, Keras may leave sizes open that a call knows.
    targets = {name: RNG.normal(size=out.shape) for name, out in outputs_of(model, x).items()}
    model.fit(fed(x), targets, batch_size=BATCH, epochs=2, verbose=0)
    return model, x, outputs_of(model, x), before


def outputs_of(model, x):
    return {name: array(output) for name, output in model(fed(x)).items()}


@functools.cache
def reloaded():
    """The trained model from a `.keras` file, its outputs, and a new one with the weights of a `.weights.h5` file."""
    model, x, *_ = trained()
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        model.save_weights(f"{folder}/model.weights.h5")
        loaded, fresh = keras.models.load_model(f"{folder}/model.keras"), everything()
        fresh.load_weights(f"{folder}/model.weights.h5")
    return loaded, outputs_of(loaded, x), fresh


@pytest.mark.parametrize("name", LAYERS)
def test_the_output_is_the_plain_layers_with_quantized_weights(name):
    model, x, outputs, _ = trained()
    wrapper = model.get_layer(name)
    np.testing.assert_allclose(outputs[name], plain_output(name, wrapper, x[name]), rtol=0, atol=1e-6)
    values = quantized(wrapper)[1]
    assert all(abs(values[kernel] - array(v)).max() > 1e-3 for kernel, v in kernels(wrapper.layer))


@pytest.mark.parametrize("name", LAYERS)
def test_every_latent_kernel_moves(name):
    model, _, _, before = trained()
    wrapper = model.get_layer(name)
    after = {kernel: array(v) for kernel, v in kernels(wrapper.layer)}
    assert before[name] and set(after) == set(before[name]) == set(wrapper.quantizers)
    for kernel, values in after.items():
        assert np.isfinite(values).all() and (values != before[name][kernel]).any(), kernel
    # The inner layer's weights and nothing else: scales are not trainable weights.
    assert len(wrapper.trainable_weights) == len(wrapper.layer.trainable_weights)


@pytest.mark.parametrize("name", LAYERS)
def test_files_change_nothing(name):
    model, _, outputs, _ = trained()
    loaded, again, fresh = reloaded()
    np.testing.assert_array_equal(again[name], outputs[name])
    for other in (loaded, fresh):
        for first, second in zip(model.get_layer(name).weights, other.get_layer(name).weights, strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(first), ops.convert_to_numpy(second))


@pytest.mark.parametrize("name", LAYERS)
def test_the_recorded_tensors_are_the_grid(name):
    wrapper = trained()[0].get_layer(name)
    latent = dict(kernels(wrapper.layer))
    for kernel, tensor in wrapper.quantized_tensors("path"):
        assert tensor.name == f"path/{kernel}" and tensor.spec == wrapper.specs
        x, limits = array(latent[kernel]), (SPEC.quant_min, SPEC.quant_max)
        np.testing.assert_array_equal(tensor.codes, reference.codes(x, tensor.scale, tensor.zero_point, *limits))
        np.testing.assert_array_equal(
            tensor.values(), reference.dequantize(tensor.codes, tensor.scale, tensor.zero_point)
        )


def test_dropout_is_off_in_inference_and_on_in_training():
    model, x, outputs, _ = trained()
    wrapper = model.get_layer("lstm")
    np.testing.assert_array_equal(array(wrapper(x["lstm"], training=False)), outputs["lstm"])
    first, second = (array(wrapper(x["lstm"], training=True)) for _ in range(2))
    assert abs(first - second).max() > 1e-6


def text_model(wrap):
    """Embedding with a mask, feeding an LSTM."""
    x = keras.Input((5,), dtype="int32")
    hidden = wrap(layers.Embedding(10, 4, mask_zero=True, name="words"))(x)
    return keras.Model(x, wrap(layers.LSTM(3, name="lstm"))(hidden))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_masks_reach_the_layers(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model, plain = text_model(lambda layer: FakeQuantize(layer, SPEC)), text_model(lambda layer: layer)
    finally:
        keras.config.set_dtype_policy("float32")
    for wrapper, layer in zip(model.layers[1:], plain.layers[1:], strict=True):
        fill(layer, wrapper, quantized(wrapper)[1])
    expected = array(plain(tokens()))
    np.testing.assert_allclose(array(model(tokens())), expected, atol=1e-6)
    # What follows a zero is not seen, so a shorter row of the same words gives the same.
    shorter = array(text_alone(model, tokens()[1:2, :2]))
    np.testing.assert_allclose(shorter, array(model(tokens()))[1:2], atol=1e-6 if policy == "float32" else 2e-3)


def text_alone(model, words):
    """Runs the layers of a text model on words without padding."""
    for layer in model.layers[1:]:
        words = layer(words)
    return words


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("dense", "mixed_float16"),
        ("conv2d", "mixed_bfloat16"),
        ("lstm", "mixed_bfloat16"),
        ("custom", "mixed_float16"),
    ],
)
def test_mixed_precision(name, policy, tmp_path):
    model, x = student(name, dtype=policy), inputs_of(name)
    wrapper, outputs = model.layers[-1], model(x)
    assert all(v.dtype == "float32" for _, v in kernels(wrapper.layer))
    assert keras.backend.standardize_dtype(outputs.dtype) == policy.removeprefix("mixed_")
    # Of float32 kernels: rounding them to the compute type first would flip codes.
    np.testing.assert_array_equal(array(outputs), plain_output(name, wrapper, x))
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").layers[-1].layer.dtype_policy.name == policy


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.usefixtures("eager")
def test_mixed_precision_trains(policy):
    model, x = student("dense", dtype=policy), inputs_of("dense")
    before = [array(v) for _, v in kernels(model.layers[-1].layer)]
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss="mse")
    model.fit(x, np.ones((BATCH, 4)), verbose=0)
    after = [array(v) for _, v in kernels(model.layers[-1].layer)]
    assert all((a != b).any() and np.isfinite(b).all() for a, b in zip(before, after, strict=True))


def test_regularizers_see_the_latent_kernel():
    model = student("dense", kernel_regularizer=keras.regularizers.L1(0.1))
    kernel = array(model.layers[-1].layer.kernel)
    ((_, tensor),) = model.layers[-1].quantized_tensors("inner")
    assert abs(kernel).sum() != pytest.approx(abs(tensor.values()).sum(), rel=1e-4)
    assert [float(loss) for loss in model.losses] == [pytest.approx(0.1 * abs(kernel).sum(), rel=1e-5)]


@pytest.mark.usefixtures("eager")
def test_a_learned_regularizer_trains_and_is_saved(tmp_path):
    model, x = student("dense", kernel_regularizer=R2Margin(0.5, margin=1.0)), inputs_of("dense")
    margin = model.layers[-1].layer.kernel_regularizer.margin
    start = float(array(margin))
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse")
    model.fit(x, np.ones((BATCH, 4)), verbose=0)
    assert float(array(margin)) != start
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert array(loaded.layers[-1].layer.kernel_regularizer.margin) == array(margin)
    loaded.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse")
    loaded.fit(x, np.ones((BATCH, 4)), verbose=0)
    assert array(loaded.layers[-1].layer.kernel_regularizer.margin) != array(margin)


@pytest.mark.parametrize("weighted", [0.25, 0.0])
@pytest.mark.usefixtures("eager")
def test_activity_losses_survive(weighted):
    model, x = student("dense", STILL, activity_regularizer=keras.regularizers.L2(weighted)), inputs_of("dense")
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    outputs = array(model(x))
    loss = model.evaluate(x, outputs, batch_size=BATCH, verbose=0)
    assert loss == pytest.approx(weighted * (outputs**2).sum() / BATCH, rel=1e-4, abs=1e-8)
    history = model.fit(x, outputs, batch_size=BATCH, verbose=0).history["loss"][0]
    assert history == pytest.approx(loss, rel=1e-4, abs=1e-8)


@pytest.mark.usefixtures("eager")
def test_inner_statistics_are_updated_in_training_only():
    model, x = student("composite", STILL), inputs_of("composite")
    block = model.layers[-1].layer
    ((_, tensor),) = model.layers[-1].quantized_tensors("inner")
    hidden = x @ tensor.values()
    model(x, training=False)
    model.predict(x, verbose=0)
    assert not array(block.norm.moving_mean).any()
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    model.fit(x, np.zeros((BATCH, 5)), batch_size=BATCH, epochs=2, verbose=0)
    np.testing.assert_allclose(array(block.norm.moving_mean), 0.75 * hidden.mean(axis=0), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(array(block.norm.moving_variance), 0.25 + 0.75 * hidden.var(axis=0), rtol=1e-3)


@pytest.mark.usefixtures("eager")
def test_seeds_move_on():
    model, x = student("composite"), inputs_of("composite")
    state = model.layers[-1].layer.drop.seed_generator.state
    before = np.array(ops.convert_to_numpy(state))
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    model.fit(x, np.zeros((BATCH, 5)), batch_size=BATCH, verbose=0)
    assert (ops.convert_to_numpy(state) != before).any()


def test_states_pass_through_recurrent_layers(tmp_path):
    x = keras.Input((5, 3))
    _, *states = FakeQuantize(layers.LSTM(4, return_state=True, name="encoder"), SPEC)(x)
    y = FakeQuantize(layers.LSTM(4, return_sequences=True, name="decoder"), SPEC)(x, initial_state=states)
    model = keras.Model(x, y)
    data = RNG.normal(size=(BATCH, 5, 3)).astype("float32")
    unstarted = array(model.layers[-1](data))
    assert abs(array(model(data)) - unstarted).max() > 1e-4
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(keras.models.load_model(tmp_path / "model.keras")(data)), array(model(data)))


def test_a_layer_called_twice_has_one_kernel():
    wrapper, x = FakeQuantize(layers.Dense(6), SPEC), keras.Input((6,))
    model = keras.Model(x, wrapper(wrapper(x)))
    data = inputs_of("dense")
    ((_, tensor),) = wrapper.quantized_tensors("inner")
    np.testing.assert_allclose(array(model(data)), data @ tensor.values() @ tensor.values(), rtol=1e-4, atol=1e-5)
    assert len(model.trainable_weights) == 2


def test_specs_by_name_leave_the_rest_float():
    eight = QuantSpec(num_bits=8, range="min_max")
    layer = layers.LSTM(4, name="inner")
    wrapper = FakeQuantize(layer, {"lstm_cell/recurrent_kernel": eight})
    x = RNG.normal(size=(BATCH, 5, 3)).astype("float32")
    wrapper(x)
    assert [(name, t.spec) for name, t in wrapper.quantized_tensors("")] == [("lstm_cell/recurrent_kernel", eight)]
    plain, values = quantized(wrapper)
    plain(x)
    fill(plain, wrapper, {"lstm_cell/kernel": array(layer.cell.kernel), **values})
    np.testing.assert_allclose(array(wrapper(x)), array(plain(x)), atol=1e-6)


@pytest.mark.parametrize("specs", [SPEC, {"kernel": SPEC}])
def test_config_round_trip(specs):
    wrapper = FakeQuantize(layers.Dense(4, name="head"), specs)
    config = json.loads(json.dumps(wrapper.get_config()))
    again = FakeQuantize.from_config(config)
    assert again.name == "head" and again.specs == specs and again.get_config() == wrapper.get_config()


def test_a_built_layer_is_wrapped_with_its_weights():
    layer = layers.Dense(4)
    layer.build((None, 6))
    wrapper = FakeQuantize(layer, QuantSpec(num_bits=8))
    assert wrapper.built
    x = inputs_of("dense")
    np.testing.assert_allclose(array(wrapper(x)), array(layer(x)), atol=0.05)


@pytest.mark.parametrize("how", ["built", "set", "set inside"])
def test_a_frozen_layer_keeps_its_range(how):
    model, x = student("dense", trainable=how != "built"), inputs_of("dense")
    if how != "built":
        (model.layers[-1] if how == "set" else model.layers[-1].layer).trainable = False
    outputs = array(model(x))
    assert model.trainable_weights == []
    np.testing.assert_array_equal(array(model(x, training=True)), outputs)


def test_nan_weights_are_named():
    wrapper = FakeQuantize(layers.Dense(4), SPEC)
    wrapper(inputs_of("dense"))
    wrapper.layer.kernel.assign(np.full((6, 4), np.nan))
    with pytest.raises(ValueError, match="stem/kernel has 24 NaN or infinite values of 24"):
        wrapper.quantized_tensors("stem")


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: FakeQuantize(layers.Dense(4), "4 bits"), TypeError, "`specs`.*QuantSpec"),
        (lambda: FakeQuantize(layers.Dense(4), {"kernel": 4}), TypeError, "`specs`.*QuantSpec"),
        (lambda: FakeQuantize("dense", SPEC), TypeError, "`layer`.*'dense'"),
        (lambda: FakeQuantize(keras.Sequential([layers.Dense(4)]), SPEC), TypeError, "r2keras.prepare"),
        (lambda: FakeQuantize(FakeQuantize(layers.Dense(4), SPEC), SPEC), TypeError, "already wrapped"),
        (
            lambda: FakeQuantize(layers.Dense(4, name="head"), {"bias": SPEC})(np.ones((1, 6))),
            ValueError,
            "'head'.*bias",
        ),
    ],
)
def test_bad_arguments_are_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize("symbolic", [True, False])
def test_a_layer_that_writes_its_own_kernel_is_refused_by_name(symbolic):
    wrapper = FakeQuantize(layers.SpectralNormalization(layers.Dense(4), name="spectral"), SPEC)
    with pytest.raises(ValueError, match=r"'spectral' \(SpectralNormalization\) writes to its own weight"):
        wrapper(keras.Input((6,)) if symbolic else inputs_of("dense"))


class Watched(layers.Dense):
    """A layer of the caller's own, which counts the calls in training mode."""

    trained_calls = 0

    def call(self, inputs, training=None):
        self.trained_calls += bool(training)
        return super().call(inputs)


def test_only_a_layer_that_might_write_its_kernel_is_tried_in_training_mode(monkeypatch):
    own = FakeQuantize(Watched(4), STILL)
    own(keras.Input((6,)))
    assert own.layer.trained_calls >= 1
    monkeypatch.setattr(layers.Dense, "call", lambda self, inputs, training=None: pytest.fail("a call was traced"))
    assert FakeQuantize(layers.Dense(4), STILL)(keras.Input((6,))).shape == (None, 4)


@pytest.mark.parametrize("name", LAYERS)
def test_the_shape_of_the_output_is_the_plain_layers(name):
    make, x = LAYERS[name][0], symbolic_input(name)
    plain, wrapped = (call(layer, name, x) for layer in (make(), FakeQuantize(make(), STILL)))
    assert [(t.shape, t.dtype) for t in keras.tree.flatten(wrapped)] == [
        (t.shape, t.dtype) for t in keras.tree.flatten(plain)
    ]


def test_masks_and_options_reach_attention():
    def attention_model(wrap):
        x = keras.Input((5,), dtype="int32")
        hidden = wrap(layers.Embedding(10, 6, mask_zero=True, name="words"))(x)
        return keras.Model(x, wrap(layers.MultiHeadAttention(2, 3, name="mha"))(hidden, hidden, use_causal_mask=True))

    model, plain = attention_model(lambda layer: FakeQuantize(layer, SPEC)), attention_model(lambda layer: layer)
    for wrapper, layer in zip(model.layers[1:], plain.layers[1:], strict=True):
        fill(layer, wrapper, quantized(wrapper)[1])
    np.testing.assert_allclose(array(model(tokens())), array(plain(tokens())), atol=1e-6)
    changed = tokens()
    changed[1, 1] = 7
    first, second = array(model(tokens())), array(model(changed))
    np.testing.assert_allclose(first[1, 0], second[1, 0], atol=1e-6)
    assert abs(first[1, 1] - second[1, 1]).max() > 1e-4
