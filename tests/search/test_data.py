"""Data of a search: splits, windows of text, and data that do not fit."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from r2keras.search.data import load_data


@pytest.fixture
def load(search, folder, tmp_path):
    def load(name="m.keras", settings=None, **arrays):
        np.savez(tmp_path / "d.npz", **arrays)
        return load_data(search(data=tmp_path / "d.npz", **(settings or {})), keras.models.load_model(folder / name))

    return load


X, Y = np.arange(60.0).reshape(10, 6).astype("float32"), np.arange(10) % 3


def test_a_fifth_is_held_out_each_sample_once(load):
    data = load(x=X, y=Y)
    assert [len(data.x), len(data.x_val)] == [8, 2]
    assert sorted(np.concatenate([data.x, data.x_val])[:, 0]) == sorted(X[:, 0])
    assert [Y[int(row[0]) // 6] for row in data.x_val] == data.y_val.tolist()


def test_given_validation_data_are_taken(load):
    data = load(x=X, y=Y, x_val=X[:3] + 1, y_val=Y[:3])
    np.testing.assert_array_equal(data.x, X)
    np.testing.assert_array_equal(data.x_val, X[:3] + 1)


def test_text_is_cut_into_windows_that_look_one_word_ahead(load):
    data = load("text.keras", {"length": 3}, train=np.arange(8), valid=np.arange(4))
    assert data.x.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert data.y.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert data.x_val.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("name", "arrays", "words"),
    [
        ("m.keras", {"x": X}, r"lacks the array 'y'"),
        ("m.keras", {"x": X, "y": Y, "x_val": X}, r"lacks the array 'y_val'"),
        ("m.keras", {"x": X, "y": Y[:4]}, "Received: x 10, y 4"),
        ("m.keras", {"x": X[:0], "y": Y[:0]}, "at least 2"),
        ("m.keras", {"x": X[:, :5], "y": Y}, r"batches of shape \(samples, 6\).* Received: an array of shape \(8, 5\)"),
        ("m.keras", {"x": X * np.nan, "y": Y}, "NaN or infinite"),
        ("m.keras", {"x": X, "y": Y, "x_val": X[:3, :4], "y_val": Y[:3]}, r"Received: an array of shape \(3, 4\)"),
        ("m.keras", {"x": X, "y": Y + 1}, "integers from 0 to 2. Received: int64 from 1 to 3"),
        ("m.keras", {"x": X, "y": Y.astype(float)}, "Received: float64"),
        ("m.keras", {"x": X, "y": np.eye(3, dtype=int)[Y]}, "Expected the shape"),
        (
            "text.keras",
            {"train": np.arange(5), "valid": np.arange(90)},
            "`train` of .* has 5 words. Expected at least 31",
        ),
        ("text.keras", {"train": np.zeros((2, 50), int), "valid": np.arange(90)}, "not a vector of word indices"),
        (
            "text.keras",
            {"train": np.arange(60), "valid": np.zeros(60, int)},
            "word indices from 0 to 8.* Received: 0 to 29",
        ),
    ],
)
def test_data_that_do_not_fit_are_told(load, name, arrays, words):
    with pytest.raises(ValueError, match=words):
        load(name, **arrays)


def test_labels_beyond_the_softmax_are_told_where_the_embedding_knows_them(load, folder):
    words = keras.Input((None,), dtype="int32")
    table = keras.layers.Embedding(9, 4)(words)
    keras.Model(words, keras.layers.Dense(5)(table)).save(folder / "narrow.keras")
    with pytest.raises(ValueError, match=r"integers from 0 to 4\. Received: int32 from 0 to 8"):
        load("narrow.keras", train=np.arange(60) % 9, valid=np.arange(60) % 9)
