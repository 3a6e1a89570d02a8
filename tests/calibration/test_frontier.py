"""What is before a frontier runs once; inputs, and so the results of steps, are those of the whole model."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from r2keras._models.cuts import parts_between_cuts
from r2keras._models.walk import view_of
from r2keras.calibration import frontier
from r2keras.calibration.frontier import Frontier
from r2keras.calibration.taps import Tapped

pytestmark = pytest.mark.backends
X = np.random.default_rng(0).normal(size=(10, 6)).astype("float32")


def residual():
    inputs = keras.Input((6,))
    x = layers.Dense(6, activation="relu", name="a")(inputs)
    x = layers.Add(name="sum")([layers.Dense(6, name="c")(layers.Dense(5, activation="tanh", name="b")(x)), x])
    return keras.Model(inputs, layers.Dense(2, name="d")(x))


def chain():
    return keras.Sequential([keras.Input((6,)), *(layers.Dense(4, activation="relu", name=name) for name in "abcd")])


def inputs_of(model, paths, data, front=True):
    """Returns the inputs of each layer, whose kernel is doubled before the next layer is looked at."""
    tapped = Tapped(model, paths)
    moving = Frontier(tapped, data, paths)
    found, started = {}, []
    for path in paths:
        part, batches = moving.inputs_of(path) if front else (tapped.until(path), [batch[0] for batch in data])
        started.append(moving._next)
        calls = [tapped.listen(part, path, batch) for batch in batches]
        found[path] = np.concatenate([keras.ops.convert_to_numpy(x) for call in calls for x, _ in call])
        kernel = tapped.layer(path).kernel
        kernel.assign(2 * kernel)
        moving.finish(path)
    return found, started


@pytest.mark.parametrize(("build", "starts"), [(residual, [0, 1, 1, 2]), (chain, [0, 1, 2, 3])])
def test_inputs_are_those_of_the_whole_model(build, starts):
    model = build()
    data = [[X[:4]], [X[4:]]]
    found, started = inputs_of(model, list("abcd"), data)
    expected, _ = inputs_of(model, list("abcd"), data, front=False)
    for path in "abcd":
        np.testing.assert_allclose(found[path], expected[path], rtol=1e-5, atol=1e-6)
    assert started == starts


def test_memory_has_a_limit(monkeypatch):
    monkeypatch.setattr(frontier, "MOST_BYTES", 10)
    _, started = inputs_of(chain(), list("abcd"), [[X]])
    assert started == [0, 0, 0, 0]


@pytest.mark.parametrize("kind", ["shared", "nested", "masked"])
def test_models_that_cannot_be_cut_run_whole(kind):
    inputs = keras.Input((6,))
    if kind == "shared":
        shared = layers.Dense(6, name="a")
        model = keras.Model(inputs, layers.Dense(2, name="b")(shared(shared(inputs))))
    elif kind == "nested":
        block = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="a")], name="block")
        model = keras.Model(inputs, layers.Dense(2, name="b")(block(inputs)))
    else:
        inputs = keras.Input((6, 1))
        model = keras.Model(
            inputs, layers.Dense(2, name="b")(layers.Masking(name="mask")(layers.Dense(6, name="a")(inputs)))
        )
    paths = [kernel.path for kernel in view_of(model).kernels]
    moving = Frontier(Tapped(model, paths), [[X if kind != "masked" else X[..., None]]], paths)
    for path in paths:
        moving.finish(path)
    assert moving._next == 0


def test_parts_end_where_one_tensor_is_needed():
    parts = parts_between_cuts(residual())
    assert [part.layers for part in parts] == [("a",), ("b", "c", "sum"), ("d",)]
    assert parts[-1].output is None
