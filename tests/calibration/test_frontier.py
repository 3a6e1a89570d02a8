"""The frontier: the part behind it computes what the whole model does, and it moves where it can."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from r2keras._models.cuts import parts_between_cuts
from r2keras.calibration import frontier as frontiers
from r2keras.calibration.frontier import Frontier
from r2keras.calibration.taps import Tapped

pytestmark = pytest.mark.backends


def dense(name):
    return layers.Dense(6, activation="relu", name=name)


def residual():
    inputs = keras.Input((6,))
    x = dense("a")(inputs)
    x = layers.Add()([dense("b")(x), x])
    return keras.Model(inputs, dense("d")(dense("c")(x))), ["a", "b", "c", "d"]


def in_another_order():
    a, b, c, d = map(dense, "abcd")
    inputs = keras.Input((6,))
    x = c(inputs)
    return keras.Model(inputs, d(a(layers.Add()([b(x), x])))), ["a", "b", "c", "d"]


def with_a_skip_from_the_input():
    inputs = keras.Input((6,))
    x = layers.Concatenate()([dense("b")(dense("a")(inputs)), inputs])
    return keras.Model(inputs, dense("d")(dense("c")(x))), ["a", "b", "c", "d"]


def in_a_row():
    return keras.Sequential([keras.Input((6,)), *map(dense, "abcd")]), ["a", "b", "c", "d"]


def called_twice():
    a = dense("a")
    inputs = keras.Input((6,))
    return keras.Model(inputs, dense("c")(dense("b")(a(a(inputs))))), ["a", "b", "c"]


def two_inputs():
    inputs = [keras.Input((6,), name="first"), keras.Input((6,), name="second")]
    x = layers.Add()([dense("a")(inputs[0]), dense("b")(inputs[1])])
    return keras.Model(inputs, [dense("d")(dense("c")(x)), layers.ReLU()(x)]), ["a", "b", "c", "d"]


def masked_in_a_nested_model():
    """Word 0 is padding, which the recurrent layers skip; only a whole model hands the mask on."""
    words = keras.Sequential([keras.Input((6,)), layers.Embedding(9, 6, mask_zero=True)], name="words")
    inputs = keras.Input((6,))
    x = layers.GRU(6, return_sequences=True)(dense("a")(words(inputs)))
    return keras.Model(inputs, dense("c")(layers.GRU(6)(dense("b")(x)))), ["a", "b", "c"]


@pytest.mark.parametrize(
    ("make", "moves"),
    [
        (residual, True),
        (in_another_order, True),
        (with_a_skip_from_the_input, True),
        (in_a_row, True),
        (two_inputs, True),
        (called_twice, False),
        (masked_in_a_nested_model, False),
    ],
)
def test_inputs_behind_the_frontier_are_those_of_the_whole_model(make, moves):
    keras.utils.set_random_seed(0)
    model, paths = make()
    random = np.random.default_rng(0)
    whole = [[random.integers(0, 9, size=(4, 6)).astype("float32") for _ in model.inputs] for _ in range(2)]
    tapped = Tapped(model, paths)
    frontier = Frontier(tapped, whole, paths)
    has_moved = False
    for path in paths:
        part, inputs = frontier.inputs_of(path)
        has_moved |= part.inputs[0] is not tapped.model.inputs[0]
        for given, batch in zip(inputs, whole, strict=True):
            ((found, _),) = tapped.listen(part, path, given)[:1]
            packed = batch[0] if len(batch) == 1 else batch
            ((expected, _),) = tapped.listen(tapped.until(path), path, packed)[:1]
            found, expected = keras.ops.convert_to_numpy(found), keras.ops.convert_to_numpy(expected)
            assert np.array_equal(found, expected)
        kernel = tapped.layer(path).kernel
        kernel.assign(keras.ops.round(kernel * 2) / 2)
        frontier.finish(path)
    assert has_moved is moves


def test_memory_has_a_limit(monkeypatch):
    monkeypatch.setattr(frontiers, "MOST_BYTES", 10)
    model, paths = in_a_row()
    moving = Frontier(Tapped(model, paths), [[np.zeros((4, 6), np.float32)]], paths)
    for path in paths:
        moving.finish(path)
    assert moving.inputs_of(paths[-1])[0].inputs[0] is moving.tapped.model.inputs[0]


def test_parts_end_where_one_tensor_is_needed():
    model, _ = residual()
    parts = parts_between_cuts(model)
    assert [part.layers[0] for part in parts] == ["a", "b", "c", "d"]
    assert (len(parts[1].layers), parts[-1].output) == (2, None)
