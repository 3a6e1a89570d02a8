"""The hint of `calibrate` on what AdaRound costs and brings, and its lines on containers; each logged once."""

import logging
import warnings

import keras
import numpy as np
import pytest

from r2keras import PaletteSpec, QuantSpec, Recipe, calibrate, prepare
from r2keras._models.walk import view_of
from r2keras._util import hints
from r2keras.calibration.hints import cost_hint
from r2keras.compression.weight_plan import plan_of

MODEL = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(4, name="b")])
X = np.ones((4, 8), np.float32)


@pytest.fixture(autouse=True)
def nothing_logged():
    hints.forget()


def hint_of(recipe, data):
    view = view_of(MODEL)
    return cost_hint(view, recipe, plan_of(view, recipe), data)


def test_the_cost_follows_weights_and_samples():
    recipe = Recipe([("a", QuantSpec(4)), ("b", QuantSpec(8))])
    found = hint_of(recipe, [[X], [X]])
    assert (
        "At 4 bits" in found and "takes about 5 seconds (32 weights, 8 samples)" in found and "0 to 11 points" in found
    )
    # 4e-8 s per weight and sample are 128 s for 32 weights and 10^8 samples.
    many = np.broadcast_to(X[:1], (10**8, 8))
    assert "about 2 minutes" in hint_of(recipe, [[many]])
    assert "needs unlabeled data" in hint_of(recipe, None)
    assert "24 to 40 points" in hint_of(Recipe([(".*", QuantSpec(2))]), [[X]])


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe.int8(),
        Recipe([(".*", QuantSpec(4))], ["correct_bias"]),
        Recipe([(".*", QuantSpec(4))], "auto"),
        Recipe([(".*", PaletteSpec(num_bits=2, min_size=0))]),
    ],
)
def test_no_hint_where_steps_are_given_or_rounding_is_fine(recipe):
    assert hint_of(recipe, [[X]]) is None


def test_a_hint_is_logged_once_and_is_no_warning(caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, "r2keras"):
        warnings.simplefilter("error", UserWarning)
        for samples in (X, X[:2]):
            calibrate(MODEL, Recipe([(".*", QuantSpec(3))]), samples)
        prepare(MODEL, Recipe([(".*", QuantSpec(3))]))
    assert [record.name for record in caplog.records] == ["r2keras", "r2keras"]
    first, second = caplog.messages
    assert "3-bit weights in 4-bit containers" in first and "2." in first and "At 3 bits" in second
