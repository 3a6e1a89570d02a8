"""`calibrate` without steps and with `steps="auto"`: repairs, their choice, and the warning of strange data."""

import logging
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import PaletteSpec, QuantSpec, Recipe, calibrate
from r2keras._models.walk import view_of
from r2keras._util import hints
from r2keras.calibration import AdaRoundOptions, bias, correct_bias, reestimate_batch_norm
from r2keras.calibration.data_fit import divergences
from r2keras.calibration.step_choice import steps_of
from r2keras.compression.weight_plan import plan_of
from tests import nets

pytestmark = pytest.mark.backends

RNG = np.random.default_rng(4)
X = RNG.normal(0.5, 1.0, (64, 12)).astype("float32")
FAST = AdaRoundOptions(iterations=20, rounds=1)


def net(normalized=True):
    """Two hidden layers and a head, trained-looking; with batch norms whose statistics are those of X."""
    keras.utils.set_random_seed(3)
    parts = []
    for place in range(2):
        parts += [layers.Dense(16, name=f"dense{place}"), layers.BatchNormalization(name=f"norm{place}"), layers.ReLU()]
    if not normalized:
        parts = [part for part in parts if not isinstance(part, layers.BatchNormalization)]
    model = keras.Sequential([keras.Input((12,)), *parts, layers.Dense(4, name="head")])
    reestimate_batch_norm(model, X)
    return model


def recipe(num_bits=2, steps=()):
    return Recipe([(".*", QuantSpec(num_bits))], steps)


def outputs(model, x=X):
    return nets.arrays(model(x))[0]


def error(model, small):
    return float(np.square(outputs(model) - outputs(small)).mean())


@pytest.mark.slow_elsewhere
def test_without_norms_the_default_is_bias_correction_if_it_helps():
    model = net(normalized=False)
    small, _ = calibrate(model, recipe(), X)
    wanted, _ = calibrate(model, recipe(steps=["correct_bias"]), X)
    plain, _ = calibrate(model, recipe(), None)
    assert error(model, small) < error(model, plain)
    np.testing.assert_allclose(outputs(small), outputs(wanted), atol=1e-6)


def test_with_norms_the_head_is_corrected_after_the_statistics():
    model = net()
    small, _ = calibrate(model, recipe(3), X)
    alone, _ = calibrate(model, recipe(3, ["reestimate_batch_norm"]), X)
    assert error(model, small) < error(model, alone)
    # The head follows the last activation, and its mean output is the float model's.
    np.testing.assert_allclose(outputs(small).mean(axis=0), outputs(model).mean(axis=0), atol=1e-5)
    for name in ("dense0", "dense1"):
        np.testing.assert_array_equal(*[nets.arrays(m.get_layer(name).bias)[0] for m in (small, alone)])
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]


def test_a_correction_that_makes_the_outputs_worse_is_left_out(monkeypatch):
    model = net(normalized=False)
    monkeypatch.setattr(bias, "_without_shift", lambda layer, shift: nets.arrays(layer.bias)[0] + 100)
    small, _ = calibrate(model, recipe(), X)
    np.testing.assert_array_equal(*[nets.arrays(m.get_layer("head").bias)[0] for m in (small, model)])


def test_eight_bits_only_re_estimate():
    model = net()
    small, alone = (calibrate(model, recipe(8, steps), X)[0] for steps in ((), ["reestimate_batch_norm"]))
    np.testing.assert_array_equal(outputs(small), outputs(alone))


def test_one_run_corrects_as_many_do(monkeypatch):
    model = net(normalized=False)
    small, _ = calibrate(model, recipe(), None)
    found = correct_bias(model, small, X)
    monkeypatch.setattr(bias.Tapped, "is_called_once", lambda self, path: False)
    wanted = correct_bias(model, small, X)
    np.testing.assert_allclose(outputs(found), outputs(wanted), atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "has_data", "steps"),
    [
        (QuantSpec(8), True, ("reestimate_batch_norm",)),
        (QuantSpec(5), True, ("reestimate_batch_norm",)),
        (QuantSpec(4), True, ("adaround", "reestimate_batch_norm")),
        (PaletteSpec(num_bits=4, min_size=0), True, ("sensitivity", "reestimate_batch_norm")),
        (QuantSpec(2, method="alternating"), True, ("reestimate_batch_norm",)),
        (QuantSpec(4), False, ("correct_bias",)),
    ],
)
def test_auto_follows_bits_and_data(spec, has_data, steps):
    view, rules = view_of(net()), Recipe([(".*", spec)], "auto")
    assert steps_of(rules, view, plan_of(view, rules), has_data) == steps


def test_auto_does_nothing_without_data_and_norms():
    view = view_of(net(normalized=False))
    assert steps_of(recipe(steps="auto"), view, plan_of(view, recipe()), has_data=False) == ()


@pytest.mark.parametrize("normalized", [True, False])
def test_auto_beats_the_default_and_says_what_it_chose(normalized, caplog):
    hints.forget()
    model = net(normalized)
    with caplog.at_level(logging.WARNING, "r2keras"):
        small, record = calibrate(model, recipe(2, "auto"), X, options=FAST, progress=False)
    messages = list(caplog.messages)
    default, _ = calibrate(model, recipe(2), X)
    assert error(model, small) < error(model, default)
    assert set(record.notes) == {"dense0/kernel", "dense1/kernel", "head/kernel"}
    (chosen,) = [text for text in messages if "auto" in text]
    assert chosen.startswith('steps="auto" chose: adaround')


def test_auto_without_data_uses_the_statistics():
    model = net()
    with pytest.warns(UserWarning, match="keep their bias"):
        small, _ = calibrate(model, recipe(3, "auto"))
    plain, _ = calibrate(model, recipe(3), batch_norm="keep")
    assert error(model, small) < error(model, plain)


@pytest.mark.parametrize("steps", [(), ["adaround", "correct_bias"]])
def test_data_that_do_not_fit_are_told_with_the_worst_layer(steps):
    model = net()
    with pytest.warns(UserWarning, match=r"training data: the batch-norm layer 'norm0' sees .* nats.*Scale the data"):
        calibrate(model, recipe(2, steps), 255 * X, options=FAST, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        calibrate(model, recipe(2, steps), X[:32], options=FAST, progress=False)


def test_divergence_is_that_of_normal_distributions():
    norm = layers.BatchNormalization(epsilon=0.0, name="norm")
    view = view_of(keras.Sequential([keras.Input((2,)), norm]))
    measured = [(np.array([1.0, 0.0]), np.array([1.0, 4.0]))]
    assert divergences(view, measured) == {}  # as created
    norm.moving_mean.assign([0.0, 1.0])
    # The expectation of log(p / q) under p, by a sum over a fine grid.
    grid = np.linspace(-30, 30, 200_001)
    wanted = []
    for (mean, variance), old in zip(zip(*measured[0], strict=True), (0.0, 1.0), strict=True):
        log_p = -np.square(grid - mean) / (2 * variance) - np.log(variance) / 2
        log_q = -np.square(grid - old) / 2
        p = np.exp(log_p) / np.exp(log_p).sum()
        wanted.append((p * (log_p - log_q)).sum())
    assert divergences(view, measured)["norm"] == pytest.approx(np.mean(wanted), rel=1e-6)
