"""Calibration data: every supported form, and errors for the others."""

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras.calibration.data import as_inputs, batches
from tests import nets

pytestmark = pytest.mark.backends

X = np.arange(40, dtype="float32").reshape(10, 4)


def single():
    return keras.Sequential([keras.Input((4,)), layers.Dense(2)])


def rows(found):
    """All rows, in a fixed order."""
    return sorted(tuple(row) for batch in found for row in batch[0].tolist())


@pytest.mark.parametrize(
    ("data", "sizes"),
    [
        (X, [4, 4, 2]),
        ([X], [4, 4, 2]),
        (keras.ops.convert_to_tensor(X), [4, 4, 2]),
        ([X[:3], X[3:]], [3, 7]),
        ((X[start : start + 5] for start in (0, 5)), [5, 5]),
        ([[X[:6]], [X[6:]]], [6, 4]),
        ([X[:6].tolist(), X[6:].tolist()], [6, 4]),
    ],
    ids=["array", "list", "tensor", "batches", "generator", "lists of one", "plain lists"],
)
def test_forms_of_one_input(data, sizes):
    found = list(batches(single(), data, batch_size=4))
    assert [len(batch[0]) for batch in found] == sizes and all(len(batch) == 1 for batch in found)
    assert rows(found) == rows([[X]])


@pytest.mark.parametrize("form", ["arrays", "tuple", "batches", "generator"])
def test_forms_of_two_inputs(form):
    first = np.arange(60, dtype="float32").reshape(10, 6)
    pairs = [(first[:5], -first[:5]), (first[5:], -first[5:])]
    data = {"arrays": [first, -first], "tuple": (first, -first), "batches": pairs, "generator": iter(pairs)}[form]
    found = list(batches(nets.branched(), data, batch_size=5))
    assert [len(batch) for batch in found] == [2, 2] and rows(found) == rows([[first]])
    assert all((batch[0] == -batch[1]).all() for batch in found)


@pytest.mark.parametrize("form", ["arrays", "batches"])
@pytest.mark.parametrize("takes", ["a list", "a dict"])
def test_inputs_by_name(takes, form):
    """Of a dict the order is that of its names: `a` comes first in the model's inputs, whatever was written first."""
    inputs = [keras.Input((4,), name=name) for name in ("b", "a")]
    outputs = layers.Subtract()(inputs)
    model = keras.Model(dict(zip("ba", inputs, strict=True)) if takes == "a dict" else inputs, outputs)
    whole = {"a": X, "b": 3 * X}
    data = whole if form == "arrays" else [{name: x[:6] for name, x in whole.items()}]
    (batch,) = batches(model, data, batch_size=10)
    values = keras.ops.convert_to_numpy(model(as_inputs(model, batch)))
    assert len(values) == (10 if form == "arrays" else 6) and set(values.ravel()) <= set(2 * X.ravel())


def test_a_model_of_named_inputs_is_calibrated():
    inputs = {"b": keras.Input((4,), name="b"), "a": keras.Input((4,), name="a")}
    hidden = layers.Dense(3, activation="relu")(layers.Concatenate()([inputs["a"], inputs["b"]]))
    model = keras.Model(inputs, layers.Dense(2)(hidden))
    recipe = r2keras.Recipe(
        [(".*", r2keras.QuantSpec(num_bits=4, activation_bits=8))], steps=["adaround", "correct_bias"]
    )
    small, record = r2keras.calibrate(model, recipe, [{"a": X, "b": -X}])
    assert len(record.tensors) == 2
    assert keras.ops.convert_to_numpy(small({"a": X, "b": -X})).shape == (10, 2)


def test_unknown_sizes_fit_any():
    model = keras.Sequential([keras.Input((None, 4)), layers.Dense(2)])
    assert [batch[0].shape for batch in batches(model, np.zeros((3, 7, 4)))] == [(3, 7, 4)]


def test_integers_are_taken():
    assert len(list(batches(nets.text(), np.zeros((3, 5), "int32")))) == 1


NAN = np.where(X == 7, np.nan, X)
BAD = {
    "empty": (X[:0], ValueError, "at least one sample"),
    "no batches": ([], ValueError, "at least one sample"),
    "nan": (NAN, ValueError, "NaN or infinite"),
    "nan in a batch": ([X, NAN], ValueError, "NaN or infinite"),
    "infinite": (X + np.inf, ValueError, "NaN or infinite"),
    "too wide": (np.zeros((3, 5)), ValueError, r"\(samples, 4\).*without labels.*\(3, 5\)"),
    "one sample": (X[0], ValueError, r"\(samples, 4\).*\(4,\)"),
    "a number": (np.float32(1.0), ValueError, r"\(samples, 4\).*\(\)"),
    "x and y": ((X, np.zeros(10)), ValueError, "without labels"),
    "pairs": ([(X, np.zeros(10))], ValueError, "without labels.*a tuple of 2.*lambda x, y: x"),
    "a dict of other names": ({"z": X}, ValueError, r"one array for each input \(keras_tensor.*a dict of \['z'\]"),
    "dicts of other names": ([{"x": X, "y": X}], ValueError, r"a dict of \['x', 'y'\].*lambda x, y: x"),
    "text": ("images", TypeError, "`data`.*str"),
    "nothing of the kind": (3, TypeError, "`data`.*iterable of batches"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_refused(name):
    data, error, match = BAD[name]
    with pytest.raises(error, match=match):
        list(batches(single(), data))


def test_inputs_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"as many samples for every input.*\[4, 3\]"):
        list(batches(nets.branched(), [np.zeros((4, 6)), np.zeros((3, 6))]))


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True, None])
def test_bad_batch_sizes_are_refused(batch_size):
    with pytest.raises(ValueError, match=r"`batch_size`.*at least 1"):
        list(batches(single(), X, batch_size))


def words():
    ids = keras.Input((5,), dtype="int32", name="ids")
    return keras.Model(ids, layers.GlobalAveragePooling1D()(layers.Embedding(7, 3)(ids)))


@pytest.mark.parametrize("bad", [7, -1])
@pytest.mark.parametrize("form", ["array", "batches"])
def test_words_that_the_embedding_does_not_know_are_told(bad, form):
    ids = np.zeros((3, 5), "int32")
    ids[1, 2] = bad
    told = f"word indices from 0 to 6 for the input 'ids'.* Received: {min(bad, 0)} to {max(bad, 0)}"
    with pytest.raises(ValueError, match=told):
        list(batches(words(), ids if form == "array" else iter([ids])))


def test_words_of_a_prepared_model_are_checked_too():
    student = r2keras.prepare(words(), r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=4))]))
    with pytest.raises(ValueError, match="from 0 to 6"):
        list(batches(student, np.full((3, 5), 7)))
    assert len(list(batches(student, np.full((3, 5), 6)))) == 1
