"""Calibration data: every supported form, and errors for the others."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras.calibration import data as calibration_data
from r2keras.calibration.data import as_inputs, batches, kept_batches
from tests import nets

pytestmark = pytest.mark.backends

X = np.arange(40, dtype="float32").reshape(10, 4)


def single():
    return keras.Sequential([keras.Input((4,)), layers.Dense(2)])


def rows(found):
    """All rows, in a fixed order."""
    return sorted(tuple(row) for batch in found for row in batch[0].tolist())


@pytest.mark.parametrize(
    "data",
    [
        X,
        X.astype("float64"),
        X.astype("uint8"),
        X[::-1],
        [X],
        keras.ops.convert_to_tensor(X),
        [X[:3], X[3:]],
        (X[start : start + 5] for start in (5, 0)),
        (X[start : start + 1] for start in range(10)),
        [[X[:6]], [X[6:]]],
        [X[:6].tolist(), X[6:].tolist()],
    ],
    ids=[
        *("array", "float64", "uint8", "reversed", "list", "tensor", "batches", "generator", "one by one"),
        *("lists of one", "plain lists"),
    ],
)
def test_forms_of_one_input_give_the_same_batches(data):
    found = list(batches(single(), data, batch_size=4))
    assert [len(batch[0]) for batch in found] == [3, 3, 4] and all(len(batch) == 1 for batch in found)
    assert rows(found) == rows([[X]])
    for (batch,), (expected,) in zip(found, batches(single(), X, batch_size=4), strict=True):
        np.testing.assert_array_equal(batch, expected)


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
    "a batch of another kind": (iter([X, None]), TypeError, "arrays of numbers"),
    "numbers": ([1.0, 2.0], ValueError, r"\(samples, 4\).*\(\)"),
    "labels of the same shape": ((X, X), ValueError, "without labels.*a tuple of 2.*a list of batches"),
    "labels and weights": ((X, X, np.ones(10)), ValueError, "without labels.*a tuple of 3"),
    "pairs of one shape": ([(X, X)], ValueError, "without labels.*a tuple of 2.*lambda x, y: x"),
    "pairs of lists": ([([X], X)], ValueError, "without labels.*a tuple of 2"),
    "a list with None": ([[X, None]], ValueError, "without labels.*a list of 2"),
    "strings": (X.astype(str), TypeError, "arrays of numbers for the input.*<U"),
    "objects": (X.astype(object), TypeError, "arrays of numbers.*object"),
    "complex numbers": (X.astype(complex), TypeError, "arrays of numbers.*complex128"),
    "dates": (X.astype("datetime64[s]"), TypeError, "arrays of numbers.*datetime64"),
    "ragged rows": ([[[1.0, 2.0, 3.0, 4.0], [1.0]]], TypeError, "arrays of numbers.*Pad ragged rows"),
    "batches of generators": ([(row for row in X)], TypeError, "arrays of numbers.*a generator"),
    "a dict with None": ({"keras_tensor": None}, ValueError, "one array for each input"),
    "beyond float32": (np.full((3, 4), 1e300), ValueError, "NaN or infinite"),
    "a path": ("images.npz", TypeError, "`data`.*images.npz.*Load the file"),
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


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (np.zeros((4, 6)), r"each of the 2 inputs \(.*, .*\).*1 array of shape \(4, 6\)"),
        ([np.zeros((4, 6))], "each of the 2 inputs"),
        ([np.zeros((4, 6))] * 3, "each of the 2 inputs"),
        (((np.zeros((4, 6)) for _ in range(2)),), "without labels.*a tuple of 1"),
        (iter([([np.zeros((4, 6))] * 2, np.zeros(4))]), "without labels.*a tuple of 2"),
    ],
    ids=["array", "list of one", "list of three", "tuple of a generator", "pairs"],
)
def test_two_inputs_need_two_arrays(data, match):
    with pytest.raises(ValueError, match=match):
        list(batches(nets.branched(), data))


def test_an_input_of_scalars_takes_vectors_only():
    inputs = keras.Input(())
    model = keras.Model(inputs, layers.Rescaling(2.0)(inputs))
    assert len(next(batches(model, np.zeros(5)))[0]) == 5
    with pytest.raises(ValueError, match=r"\(samples\).*an array of shape \(\)"):
        list(batches(model, [np.float32(1.0)]))


def test_max_samples():
    assert [len(batch[0]) for batch in batches(single(), X, 4, max_samples=5)] == [2, 3]
    assert rows(batches(single(), X, max_samples=5)) == rows(batches(single(), X[::-1], max_samples=5))
    assert rows(batches(single(), iter([X[:4], X[4:]]), max_samples=5)) == rows([[X[:5]]])
    assert rows(kept_batches(single(), itertools.repeat(X), max_samples=20)) == rows([[X]] * 2)
    for bad, error in ((0, ValueError), (2.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"`max_samples`.*at least 1"):
            list(batches(single(), X, max_samples=bad))


@pytest.mark.parametrize("read", [batches, kept_batches])
def test_data_without_end_meet_a_bound(read, monkeypatch):
    monkeypatch.setattr(calibration_data, "MAX_SAMPLES", 25)
    with pytest.warns(UserWarning, match="the first 25 samples.*max_samples="):
        found = list(read(single(), itertools.repeat(X)))
    assert sum(len(batch[0]) for batch in found) == 25


def test_what_is_kept_in_memory_meets_a_bound(monkeypatch):
    monkeypatch.setattr(calibration_data, "MAX_BYTES", 2 * X.nbytes)

    class Batches:
        """Data that say how many batches they have."""

        def __iter__(self):
            return iter([X] * 5)

        def __len__(self):
            return 5

    with pytest.warns(UserWarning, match="the first 20 samples.*max_samples="):
        assert sum(len(batch[0]) for batch in kept_batches(single(), Batches())) == 20
    for whole in (kept_batches(single(), [X] * 5), kept_batches(single(), Batches(), max_samples=50)):
        assert sum(len(batch[0]) for batch in whole) == 50
    # Data that are read once pass in chunks.
    assert rows(batches(single(), Batches())) == rows([[X]] * 5)


class Rows(keras.utils.PyDataset):
    """Rows of an array in batches of 4, with or without an end."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    num_batches = property(lambda self: self.count)

    def __getitem__(self, index):
        return X[4 * (index % 2) : 4 * (index % 2) + 4]


def test_a_dataset_read_by_index_gives_the_batches_of_its_array():
    found = [*batches(single(), Rows(2), 3)]
    for a, b in zip(found, batches(single(), X[:8], 3), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
    with pytest.raises(ValueError, match="a Rows that repeats without end"):
        kept_batches(single(), Rows(None))
    assert sum(len(x) for (x,) in kept_batches(single(), Rows(None), max_samples=6)) == 6


def test_a_generator_may_use_its_memory_again():
    def parts():
        buffer = np.empty((5, 4), "float32")
        for start in (0, 5):
            buffer[:] = X[start : start + 5]
            yield buffer

    assert rows(batches(single(), parts())) == rows([[X]])


def test_samples_of_different_sizes_do_not_share_a_batch():
    model = keras.Sequential([keras.Input((None, 4)), layers.Dense(2)])
    data = [np.zeros((3, 7, 4)), np.ones((2, 5, 4)), np.ones((4, 7, 4))]
    assert sorted(batch[0].shape for batch in batches(model, data)) == [(2, 5, 4), (7, 7, 4)]


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


def test_fractions_are_not_words():
    assert len(list(batches(words(), np.full((3, 5), 2.0)))) == 1
    with pytest.raises(ValueError, match=r"word indices from 0 to 6.*fractions such as 2\.5"):
        list(batches(words(), np.full((3, 5), 2.5)))


def test_words_of_a_prepared_model_are_checked_too():
    student = r2keras.prepare(words(), r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=4))]))
    with pytest.raises(ValueError, match="from 0 to 6"):
        list(batches(student, np.full((3, 5), 7)))
    assert len(list(batches(student, np.full((3, 5), 6)))) == 1
