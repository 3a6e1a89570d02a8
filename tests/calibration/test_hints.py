"""Hints of `calibrate`: containers wider than the bits, and few bits without steps; each logged once."""

import logging
import warnings

import keras
import numpy as np
import pytest

from r2keras import PaletteSpec, QuantSpec, Recipe, calibrate
from r2keras.calibration.hints import hints, log_once

MODEL = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(4, name="b")])
X = np.ones((4, 8), np.float32)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe.int8(), []),
        (Recipe([(".*", QuantSpec(4))]), []),
        (Recipe([(".*", QuantSpec(3))], ["correct_bias"]), ["3-bit weights in 4-bit containers"]),
        (Recipe([(".*", QuantSpec(3))]), ["3-bit weights in 4-bit containers", '["adaround", "correct_bias"]']),
        (Recipe([(".*", QuantSpec(2))]), ["Weights below 4 bits"]),
        (Recipe([("a", QuantSpec(6)), ("b", QuantSpec(8))]), ["6-bit weights in 8-bit containers"]),
        (Recipe([(".*", PaletteSpec(num_bits=3, min_size=0))]), ["3-bit weights in 4-bit containers"]),
    ],
)
def test_hints_by_recipe(recipe, words):
    found = hints(recipe, calibrate(MODEL, recipe, X, progress=False)[1])
    assert len(found) == len(words)
    assert all(word in hint for word, hint in zip(words, found, strict=True))


def test_a_hint_is_logged_once_and_is_no_warning(caplog):
    log_once.cache_clear()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, "r2keras"):
        warnings.simplefilter("error", UserWarning)
        for _ in range(2):
            calibrate(MODEL, Recipe([(".*", QuantSpec(2))]), X)
    assert [record.name for record in caplog.records] == ["r2keras"]
