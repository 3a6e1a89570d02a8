"""Training and validation data of a search: labeled samples, or text cut into windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import keras
import numpy as np

from r2keras._util.files import read_npz
from r2keras.calibration.data_checks import check_inputs
from r2keras.search.settings import Search

# The arrays of a file that holds text.
TEXT_NAMES = ("train", "valid")
# Share of the samples held out for validation if the file has no validation data.
VALIDATION_SHARE = 0.2

# A single array, or one array per input of the model.
Inputs = np.ndarray | list[np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class SearchData:
    """Inputs and labels for training and validation."""

    x: Inputs
    y: np.ndarray
    x_val: Inputs
    y_val: np.ndarray


def load_data(search: Search, model: keras.Model) -> SearchData:
    """Reads and checks the data of a search.

    Raises:
        ValueError: the file is corrupt, lacks an array or has no samples; samples have another shape or are not
            finite; labels exceed the outputs of the model; text is not a vector of word indices, is too short, or has
            words outside of the model's vocabulary.
        OSError: the file cannot be read.
    """
    arrays = read_npz(search.data)
    if set(TEXT_NAMES) <= set(arrays):
        train, valid = (_windows(arrays[name], name, search) for name in TEXT_NAMES)
        data = SearchData(*train, *valid)
    else:
        data = _samples(arrays, search, model)
    for inputs in (data.x, data.x_val):
        check_inputs(model, inputs if isinstance(inputs, list) else [inputs])
    _check_labels(data, search, model)
    return data


def _windows(words: np.ndarray, name: str, search: Search) -> tuple[np.ndarray, np.ndarray]:
    """Cuts text into windows. The label of a word is the word after it."""
    if words.ndim != 1 or words.dtype.kind not in "iu":
        raise ValueError(
            f"The text `{name}` of {search.data} is not a vector of word indices. Expected integers of shape (words,). "
            f"Received: {words.dtype} {words.shape}."
        )
    count = (len(words) - 1) // search.length
    if count < 1:
        raise ValueError(
            f"The text `{name}` of {search.data} has {len(words)} words. Expected at least {search.length + 1}, one "
            "window and the word after it. Choose a smaller `length`."
        )
    words = words[: count * search.length + 1].astype(np.int32)
    return words[:-1].reshape(count, -1), words[1:].reshape(count, -1)


def _samples(arrays: dict[str, np.ndarray], search: Search, model: keras.Model) -> SearchData:
    """Returns inputs, labels, and the validation data or a random part of the training data."""
    names = [tensor.name for tensor in model.inputs]
    if len(names) == 1 and names[0] not in arrays:
        names = ["x"]
    train_names = [*names, "y"]
    valid_names = [f"{name}_val" for name in train_names]
    has_validation = not set(valid_names).isdisjoint(arrays)
    expected = train_names + valid_names if has_validation else train_names
    absent = [name for name in expected if name not in arrays]
    if absent:
        raise ValueError(
            f"{search.data} lacks the array {_quoted(absent)}. Expected {_quoted(expected)}, or {_quoted(TEXT_NAMES)} "
            f"for text. Received: {_quoted(arrays) or 'nothing'}."
        )
    _check_counts(search, arrays, train_names)
    if has_validation:
        _check_counts(search, arrays, valid_names)
        train, valid = ([arrays[name] for name in part] for part in (train_names, valid_names))
    else:
        order = np.random.default_rng(search.seed).permutation(len(arrays["y"]))
        cut = max(1, round(VALIDATION_SHARE * len(order)))
        train, valid = ([arrays[name][rows] for name in train_names] for rows in (order[cut:], order[:cut]))
    return SearchData(_inputs(train[:-1]), train[-1], _inputs(valid[:-1]), valid[-1])


def _quoted(names: Iterable[str]) -> str:
    """Returns names in quotes, separated by commas."""
    return ", ".join(map(repr, names))


def _inputs(arrays: list[np.ndarray]) -> Inputs:
    """Returns the inputs in the form that Keras expects."""
    return arrays[0] if len(arrays) == 1 else arrays


def _check_counts(search: Search, arrays: dict[str, np.ndarray], names: list[str]) -> None:
    """Raises unless all arrays have the same number of samples, at least two."""
    sizes = {name: len(arrays[name]) if arrays[name].ndim else 0 for name in names}
    if min(sizes.values()) < 2 or len(set(sizes.values())) > 1:
        received = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(
            f"The arrays of {search.data} do not match. Expected the same number of samples, at least 2. "
            f"Received: {received}."
        )


def _check_labels(data: SearchData, search: Search, model: keras.Model) -> None:
    """Raises unless the model has one output per class or word, and the labels fit its range and shape."""
    classes = model.output_shape[-1] if len(model.outputs) == 1 else None
    if classes is None or classes < 2:
        raise ValueError(
            f"The model {model.name!r} cannot be evaluated by {search.metric}. Expected a single output with one value "
            f"per class or word. Received: {model.output_shape}."
        )
    for y in (data.y, data.y_val):
        if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= classes:
            raise ValueError(
                f"The labels of {search.data} do not fit {model.name!r}. Expected integers from 0 to {classes - 1}. "
                f"Received: {y.dtype} from {y.min()} to {y.max()}."
            )
    if len(model.output_shape) != data.y.ndim + 1:
        raise ValueError(
            f"The labels of {search.data} do not fit {model.name!r}. Expected the shape {model.output_shape[:-1]}. "
            f"Received: {data.y.shape}."
        )
