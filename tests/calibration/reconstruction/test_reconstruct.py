"""Block-wise reconstruction: errors against AdaRound's by NumPy, exact records, reproducible runs, refusals."""

from __future__ import annotations

import random
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras.calibration import AdaRoundOptions, ReconstructOptions, adaround, reconstruct
from r2keras.calibration.reconstruction import run
from tests.calibration.nets import chain, images, mean_square, nested, outputs_of, spiced

pytestmark = pytest.mark.backends

FAST = ReconstructOptions(epochs=4, end_to_end_epochs=0, batch_size=32)
ROUNDING = AdaRoundOptions(iterations=100)


def quantized(model: keras.Model, num_bits: int = 2, **more):
    recipe = r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=num_bits, **more))])
    return r2keras.finalize(r2keras.prepare(model, recipe))


def dense_chain() -> keras.Model:
    parts = [layers.Dense(12, "relu", name="a"), layers.Dense(10, "relu", name="b"), layers.Dense(4, name="head")]
    return spiced(keras.Sequential([keras.Input((8,)), *parts]))


def by_hand(model: keras.Model, kernels: dict[str, np.ndarray], x: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of the layers of `dense_chain`, in NumPy, with the kernels of a record and the biases of a model."""
    found = {}
    for name in ("a", "b", "head"):
        bias = keras.ops.convert_to_numpy(model.get_layer(name).bias)
        x = x @ kernels[f"{name}/kernel"] + bias
        found[name] = x = x if name == "head" else np.maximum(x, 0)
    return found


def codes_of(record) -> np.ndarray:
    return np.concatenate([tensor.codes.ravel() for tensor in record.tensors.values()])


def check_exact(small: keras.Model, record) -> None:
    """Raises unless the weights of a model are those of its record, bit for bit."""
    for name, tensor in record.tensors.items():
        layer, _, variable = name.rpartition("/")
        value = keras.ops.convert_to_numpy(getattr(small.get_layer(layer), variable))
        np.testing.assert_array_equal(value, tensor.values())


@pytest.mark.slow_elsewhere
def test_block_errors_are_below_adarounds():
    model, x = dense_chain(), images(256, (8,))
    start, record = adaround(model, *quantized(model), x, options=ROUNDING, progress=False)
    options = ReconstructOptions(epochs=8, end_to_end_epochs=0, code_rate=0.5)
    better, after = reconstruct(model, start, record, x, options=options, progress=False)
    floats = {f"{name}/kernel": keras.ops.convert_to_numpy(model.get_layer(name).kernel) for name in ("a", "b", "head")}
    wanted = by_hand(model, floats, x)
    before, now = (
        by_hand(small, {name: tensor.values() for name, tensor in own.tensors.items()}, x)
        for small, own in ((start, record), (better, after))
    )
    # The blocks are a with b, and head.
    assert np.mean((now["b"] - wanted["b"]) ** 2) < 0.95 * np.mean((before["b"] - wanted["b"]) ** 2)
    np.testing.assert_allclose(now["head"], outputs_of(better, x), rtol=1e-4, atol=1e-5)
    assert (codes_of(after) != codes_of(record)).any()


@pytest.mark.slow_elsewhere
def test_the_record_is_the_model_bit_for_bit_and_the_given_ones_stay():
    model, x = chain(), images(32)
    small, record = quantized(model, symmetric=False)
    before, codes = outputs_of(small, x), codes_of(record)
    better, after = reconstruct(model, small, record, x, options=FAST, progress=False)
    check_exact(better, after)
    assert all(note.startswith("Reconstruction: error of the block") for note in after.notes.values())
    assert set(after.notes) == set(record.tensors)
    np.testing.assert_array_equal(outputs_of(small, x), before)
    np.testing.assert_array_equal(codes_of(record), codes)


@pytest.mark.slow_elsewhere
def test_the_whole_model_comes_nearer_to_its_outputs():
    model, x = nested(), images(64, (6, 4))
    small, record = quantized(model)
    options = ReconstructOptions(epochs=0, end_to_end_epochs=5, batch_size=32)
    weights = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    better, _ = reconstruct(model, small, record, x, options=options, progress=False)
    assert mean_square(better, model, x) < mean_square(small, model, x)
    for weight, before in zip(model.weights, weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), before)


def test_two_runs_are_equal_and_leave_the_random_states():
    model, x = dense_chain(), images(24, (8,))
    small, record = quantized(model)
    options = ReconstructOptions(epochs=1, end_to_end_epochs=1, batch_size=8, drop=0.3, seed=4)
    random.seed(5)
    np.random.seed(5)
    keras.utils.set_random_seed(5)
    wanted = random.random(), np.random.random(), float(keras.random.uniform(()))
    records = []
    for order in (slice(None), slice(None, None, -1)):
        keras.utils.set_random_seed(5)
        records.append(reconstruct(model, small, record, x[order], options=options, progress=False)[1])
        assert (random.random(), np.random.random(), float(keras.random.uniform(()))) == wanted
    for name, tensor in records[0].tensors.items():
        np.testing.assert_array_equal(tensor.codes, records[1].tensors[name].codes)
        np.testing.assert_array_equal(tensor.scale, records[1].tensors[name].scale)


@pytest.mark.slow_elsewhere
def test_calibrate_has_the_step_after_activations_are_quantized():
    model, x = dense_chain(), images(64, (8,))
    steps = ["adaround", "reconstruct"]
    recipe = r2keras.Recipe.uniform(2, None, 8, steps)
    options = {"options": ROUNDING, "reconstruct_options": FAST}
    small, record = r2keras.calibrate(model, recipe, x, integer=True, **options, progress=False)
    assert record.activations and "AdaRound" in record.notes["a/kernel"] and "Reconstr" in record.notes["a/kernel"]
    check_exact(small, record)
    # The biases are whole steps of integer accumulators.
    scale = record.activations["a"].scale * record.tensors["b/kernel"].scale.ravel().astype(np.float64) / 2
    steps_of_bias = keras.ops.convert_to_numpy(small.get_layer("b").bias) / scale
    np.testing.assert_allclose(steps_of_bias, np.round(steps_of_bias), atol=1e-2)
    with pytest.raises(ValueError, match="inputs for the step reconstruct"):
        r2keras.calibrate(model, r2keras.Recipe.uniform(2, None, steps=["reconstruct"]), progress=False)


@pytest.mark.slow_elsewhere
def test_layers_that_cannot_be_learned_stay_and_the_record_says_why():
    inputs, shared = keras.Input((6,)), layers.Dense(6, name="shared")
    x = layers.Dense(6, name="palette")(shared(shared(inputs)))
    model = spiced(keras.Model(inputs, layers.Dense(2, name="head")(x)))
    rules = [("palette", r2keras.PaletteSpec(num_bits=2, min_size=0)), (".*", r2keras.QuantSpec(num_bits=2))]
    small, record = r2keras.finalize(r2keras.prepare(model, r2keras.Recipe(rules)))
    _, after = reconstruct(model, small, record, images(32, (6,)), options=FAST, progress=False)
    assert after.notes["palette/kernel"].endswith("Reconstruction: unchanged, because it has a palette")
    assert after.notes["shared/kernel"] == "Reconstruction: unchanged, because its layer is called 2 times"
    np.testing.assert_array_equal(after.tensors["shared/kernel"].codes, record.tensors["shared/kernel"].codes)
    palettes = r2keras.Recipe([(".*", r2keras.PaletteSpec(num_bits=2, min_size=0))])
    small, record = r2keras.finalize(r2keras.prepare(model, palettes))
    with pytest.raises(ValueError, match="uniform grid that can be learned"):
        reconstruct(model, small, record, images(32, (6,)), progress=False)
    with pytest.raises(ValueError, match="a QuantSpec for some kernel"):
        r2keras.calibrate(model, r2keras.Recipe(palettes.rules, ["reconstruct"]), images(32, (6,)), progress=False)


@pytest.mark.slow_elsewhere
def test_a_block_that_gets_worse_keeps_its_codes():
    model, x = dense_chain(), images(32, (8,))
    small, record = quantized(model, num_bits=8)
    options = ReconstructOptions(epochs=1, end_to_end_epochs=0, learning_rate=300.0, batch_size=8)
    better, after = reconstruct(model, small, record, x, options=options, progress=False)
    np.testing.assert_array_equal(codes_of(after), codes_of(record))
    np.testing.assert_array_equal(outputs_of(better, x), outputs_of(small, x))
    assert after.notes["a/kernel"] == "Reconstruction: error of the block 1.000 of that before"


@pytest.mark.slow_elsewhere
def test_too_much_memory_trains_on_fewer_samples(monkeypatch):
    model, x = dense_chain(), images(40, (8,))
    small, record = quantized(model)
    # 8 inputs and 10 outputs of the first block, 4 bytes each, for each of the two models.
    monkeypatch.setattr(run, "MEMORY_LIMIT", 20 * 2 * 18 * 4)
    with pytest.warns(UserWarning, match="Blocks are trained on 20 of 40 samples"):
        _, after = reconstruct(model, small, record, x, options=FAST, progress=False)
    assert after.notes["a/kernel"].endswith("on 20 samples")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        reconstruct(model, small, record, x[:20], options=FAST, progress=False)


@pytest.mark.parametrize(
    "bad",
    [{"epochs": 0, "end_to_end_epochs": 0}, {"epochs": -1}, {"batch_size": 0}, {"learning_rate": 0.0}, {"drop": 1.0}],
)
def test_bad_options_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        ReconstructOptions(**bad)


def test_models_that_do_not_belong_together_are_refused():
    model, x = dense_chain(), images(8, (8,))
    small, record = quantized(model)
    with pytest.raises(ValueError, match="the float model of the record"):
        reconstruct(chain(), small, record, images(8), progress=False)
    with pytest.raises(TypeError, match="a ReconstructOptions"):
        reconstruct(model, small, record, x, options={"epochs": 1}, progress=False)
