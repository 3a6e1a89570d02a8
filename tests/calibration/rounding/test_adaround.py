"""AdaRound against exhaustive search and nearest rounding; its notes in the record; resuming."""

from __future__ import annotations

import functools
import itertools
import sys

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras.calibration import AdaRoundOptions, adaround
from r2keras.calibration.rounding.moments import Moments
from r2keras.calibration.rounding.up_or_down import optimize
from tests.calibration.nets import branched, chain, images, mean_square, nested, outputs_of, spiced

FAST = AdaRoundOptions(iterations=200)


def quantized(model: keras.Model, num_bits: int = 3, **more):
    recipe = r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=num_bits, **more))])
    return r2keras.finalize(r2keras.prepare(model, recipe))


@functools.cache
def quantized_chain():
    """A net, its quantized copy and the record, for tests of what is refused."""
    model = chain()
    return model, *quantized(model)


@pytest.fixture
def problem():
    """Eight weights, two outputs, correlated inputs with a drift."""
    random = np.random.default_rng(3)
    mixing = random.normal(size=(3, 8))
    float_inputs = random.normal(size=(200, 3)) @ mixing + 0.2 * random.normal(size=(200, 8))
    inputs = float_inputs + 0.1 * random.normal(size=(200, 8))
    weights = random.normal(size=(1, 8, 2)).astype("float32")
    drift = (inputs - float_inputs) @ weights[0]
    moments = Moments(
        (inputs.T @ inputs)[None], (inputs.T @ drift)[None], (drift**2).sum(0)[None, None], rows=len(inputs)
    )
    low = np.floor(weights / 0.8).astype("float32") * np.float32(0.8)
    return inputs, float_inputs, weights, low, low + np.float32(0.8), (weights - low) / np.float32(0.8), moments


def error(problem, up) -> np.ndarray:
    inputs, float_inputs, weights, low, high, _, _ = problem
    return np.mean((inputs @ np.where(up, high, low)[0] - float_inputs @ weights[0]) ** 2, axis=0)


def test_moments_give_the_output_error(problem):
    *_, weights, low, high, start, moments = problem
    up = start >= 0.5
    found = moments.error(np.where(up, high, low) - weights)
    np.testing.assert_allclose(found[0, 0], error(problem, up), rtol=1e-6)


def test_optimum_is_close_to_exhaustive_search(problem):
    *_, weights, low, high, start, moments = problem
    every = [np.array(bits).reshape(1, 8, 1) for bits in itertools.product([False, True], repeat=8)]
    best = np.min([error(problem, np.broadcast_to(bits, weights.shape)) for bits in every], axis=0)
    nearest = error(problem, start >= 0.5)
    found = error(problem, optimize(weights, low, high, start, moments, AdaRoundOptions()))
    assert (found <= nearest).all()
    assert (found - best).sum() <= 0.3 * (nearest - best).sum()


@pytest.mark.parametrize("model", [branched, chain])
def test_outputs_come_nearer(model):
    model, data = model(), images(64)
    small, record = quantized(model)
    better, after = adaround(model, small, record, data, options=FAST, progress=False)
    assert mean_square(better, model, data) < 0.8 * mean_square(small, model, data)
    assert set(after.notes) == set(record.tensors)
    assert all(note.startswith("AdaRound: output error") for note in after.notes.values())


def test_record_is_the_model_and_without_rounds_scales_stay():
    model, options = branched(), AdaRoundOptions(iterations=200, rounds=0)
    small, record = quantized(model)
    before = outputs_of(small, images())
    better, after = adaround(model, small, record, images(), options=options, progress=False)
    moved = 0
    for name, tensor in after.tensors.items():
        layer, _, variable = name.rpartition("/")
        np.testing.assert_array_equal(getattr(better.get_layer(layer), variable), tensor.values())
        np.testing.assert_array_equal(tensor.scale, record.tensors[name].scale)
        change = np.abs(tensor.codes.astype(int) - record.tensors[name].codes)
        assert change.max() <= 1
        moved += int(change.sum())
    assert moved > 0
    np.testing.assert_array_equal(outputs_of(small, images()), before)


@pytest.mark.parametrize(
    "grid",
    [
        {"num_bits": 2},
        {"num_bits": 3, "symmetric": False},
        {"num_bits": 4, "granularity": "per_tensor", "range": "min_max"},
        {"num_bits": 8},
    ],
)
def test_every_grid(grid):
    model, data = chain(), images(32)
    small, record = quantized(model, **grid)
    better, _ = adaround(model, small, record, data, options=FAST, progress=False)
    assert mean_square(better, model, data) < mean_square(small, model, data)


def test_nested_models():
    model, data = nested(), images(32, (6, 4))
    small, record = quantized(model)
    better, after = adaround(model, small, record, data, options=FAST, progress=False)
    assert mean_square(better, model, data) < mean_square(small, model, data)
    assert {"inner/conv/kernel", "block/dense/kernel", "head/kernel"} == set(after.tensors)


def test_other_layers_keep_nearest_rounding_and_the_record_says_so(tmp_path):
    parts = [layers.LSTM(3, name="lstm"), layers.Dense(2, name="head")]
    model = spiced(keras.Sequential([keras.Input((4, 3)), *parts]))
    small, record = quantized(model)
    _, after = adaround(model, small, record, images(16, (4, 3)), options=FAST, progress=False)
    assert "AdaRound does not support LSTM" in after.notes["lstm/lstm_cell/kernel"]
    np.testing.assert_array_equal(
        after.tensors["lstm/lstm_cell/kernel"].codes, record.tensors["lstm/lstm_cell/kernel"].codes
    )
    after.save(tmp_path / "a.npz")
    assert r2keras.CompressionRecord.load(tmp_path / "a.npz").notes == after.notes


def test_a_shared_layer_counts_every_call():
    inputs, dense = keras.Input((12,)), layers.Dense(12, name="shared", activation="tanh")
    model, data = spiced(keras.Model(inputs, dense(dense(inputs)))), images(64, (12,))
    small, record = quantized(model, 2)
    better, _ = adaround(model, small, record, data, options=FAST, progress=False)
    assert mean_square(better, model, data) < mean_square(small, model, data)


def test_a_dead_channel_is_no_obstacle():
    model = chain()
    kernel = model.get_layer("first").get_weights()[0]
    kernel[..., 1] = 0
    model.get_layer("first").kernel.assign(kernel)
    small, record = quantized(model)
    _, after = adaround(model, small, record, images(), options=FAST, progress=False)
    assert (after.tensors["first/kernel"].codes[..., 1] == 0).all()
    words = "1 of 6 output channels are all zero"
    assert words in record.notes["first/kernel"] and "second/kernel" not in record.notes
    assert words in after.notes["first/kernel"] and "error" in after.notes["first/kernel"]


def test_a_run_that_was_cut_off_goes_on(tmp_path, monkeypatch):
    model, data = chain(), images()
    small, record = quantized(model)
    _, whole = adaround(model, small, record, data, options=FAST, progress=False)
    adaround(model, small, record, data, options=FAST, progress=False, folder=tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == sorted(f"{name.replace('/', '.')}.npz" for name in record.tensors)
    for name in ("second.kernel.npz", "hidden.kernel.npz", "head.kernel.npz"):
        (tmp_path / name).unlink()
    calls = []

    module = sys.modules["r2keras.calibration.rounding.adaround"]
    real = module.optimize
    monkeypatch.setattr(module, "optimize", lambda *args: calls.append(1) or real(*args))
    _, resumed = adaround(model, small, record, data, options=FAST, progress=False, folder=tmp_path)
    assert len(calls) == 3
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(resumed.tensors[name].codes, tensor.codes)
        np.testing.assert_array_equal(resumed.tensors[name].scale, tensor.scale)
    assert resumed.notes == whole.notes
    with pytest.raises(ValueError, match="layers of another run"):
        adaround(model, small, record, data[:8], options=FAST, progress=False, folder=tmp_path)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (np.zeros((0, 8, 8, 3), "float32"), "at least one sample"),
        (np.full((4, 8, 8, 3), np.nan, "float32"), "NaN or infinite"),
        (np.zeros((4, 8, 8), "float32"), "without labels"),
        ([(np.zeros((4, 8, 8, 3), "float32"), np.zeros(4))], "labels"),
    ],
)
def test_bad_data_are_refused(data, match):
    with pytest.raises(ValueError, match=match):
        adaround(*quantized_chain(), data, options=FAST, progress=False)


def test_models_that_do_not_belong_together_are_refused():
    model, small, record = quantized_chain()
    with pytest.raises(ValueError, match="no kernel 'first/kernel'"):
        adaround(nested(), small, record, images(), progress=False)
    with pytest.raises(TypeError, match="record"):
        adaround(model, small, None, images(), progress=False)
    with pytest.raises(TypeError, match="options"):
        adaround(model, small, record, images(), options={"iterations": 3}, progress=False)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"iterations": 0}, "iterations"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"factor": -1}, "factor"),
        ({"warm_up": 1.0}, "warm_up"),
        ({"rounds": -1}, "rounds"),
    ],
)
def test_bad_options_are_refused(bad, match):
    with pytest.raises(ValueError, match=match):
        AdaRoundOptions(**bad)


def test_layers_with_too_many_inputs_keep_nearest_rounding(monkeypatch):
    monkeypatch.setattr("r2keras.calibration.rounding.adaround.MEMORY_LIMIT", 500)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(9, name="few"), layers.Dense(4, name="many")])
    small, record = quantized(model)
    _, rounded = adaround(model, small, record, np.random.default_rng(0).normal(size=(64, 6)), options=FAST)
    assert "9 inputs are too many for their second moments" in rounded.notes["many/kernel"]
    np.testing.assert_array_equal(rounded.tensors["many/kernel"].codes, record.tensors["many/kernel"].codes)
    assert "too many" not in rounded.notes.get("few/kernel", "")
