"""The data of a search: samples with labels, or text in windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from r2keras._files import read_npz
from r2keras.calibration.data import check_inputs
from r2keras.search.settings import Search

TEXT = ("train", "valid")
HELD_OUT = 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Inputs and labels, to train on and to judge by; inputs are an array, or a list of one array an input."""

    x: Any
    y: np.ndarray
    x_val: Any
    y_val: np.ndarray


def load_data(search: Search, model: keras.Model) -> Data:
    """Reads and checks the data of a search.

    Raises:
        ValueError: the file is corrupt, lacks an array or has no samples; samples of another shape, or not finite;
            labels that the model has no output for; text that is no vector of word numbers, too short, or of more
            words than the model knows.
        OSError: the file cannot be read.
    """
    arrays = read_npz(search.data)
    if set(TEXT) <= set(arrays):
        data = Data(*(part for name in TEXT for part in _windows(arrays[name], name, search)))
    else:
        data = _samples(arrays, search, model)
    for inputs in (data.x, data.x_val):
        check_inputs(model, inputs if isinstance(inputs, list) else [inputs])
    _check_labels(data, search, model)
    return data


def _windows(words: np.ndarray, name: str, search: Search) -> tuple[np.ndarray, np.ndarray]:
    """Cuts text into windows and, one word on, their labels."""
    if words.ndim != 1 or words.dtype.kind not in "iu":
        raise ValueError(
            f"The text `{name}` of {search.data} is no vector of word numbers. Expected integers of shape (words,). "
            f"Received: {words.dtype} {words.shape}."
        )
    count = (len(words) - 1) // search.length
    if count < 1:
        raise ValueError(
            f"The text `{name}` of {search.data} has {len(words)} words. Expected at least {search.length + 1}, one "
            "window and the word after it. Choose a smaller length."
        )
    words = words[: count * search.length + 1].astype(np.int32)
    return words[:-1].reshape(count, -1), words[1:].reshape(count, -1)


def _samples(arrays: dict[str, np.ndarray], search: Search, model: keras.Model) -> Data:
    """Takes inputs by name, labels, and validation data or a part of the training data."""
    names = [tensor.name for tensor in model.inputs]
    if len(names) == 1 and names[0] not in arrays:
        names = ["x"]
    held = [f"{name}_val" for name in (*names, "y")]
    wanted = [*names, "y", *(held if set(held) & set(arrays) else ())]
    absent = [name for name in wanted if name not in arrays]
    if absent:
        raise ValueError(
            f"{search.data} lacks the array {_quoted(absent)}. Expected {_quoted(wanted)}, or 'train' and 'valid' for "
            f"text. Received: {_quoted(arrays) or 'nothing'}."
        )
    _check_counts(search, arrays, [*names, "y"])
    if len(wanted) > len(names) + 1:
        _check_counts(search, arrays, held)
        parts = [arrays[name] for name in wanted]
    else:
        order = np.random.default_rng(search.seed).permutation(len(arrays["y"]))
        cut = max(1, round(HELD_OUT * len(order)))
        parts = [arrays[name][rows] for rows in (order[cut:], order[:cut]) for name in (*names, "y")]
    *x, y = parts[: len(names) + 1]
    *x_val, y_val = parts[len(names) + 1 :]
    return Data(_packed(x), y, _packed(x_val), y_val)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _packed(arrays: list[np.ndarray]) -> Any:
    return arrays[0] if len(arrays) == 1 else arrays


def _check_counts(search: Search, arrays: dict[str, np.ndarray], names: list[str]) -> None:
    """Raises unless all arrays have equally many samples, at least two."""
    sizes = {name: len(arrays[name]) if arrays[name].ndim else 0 for name in names}
    if min(sizes.values()) < 2 or len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(
            f"The arrays of {search.data} do not go together. Expected equally many samples, at least 2. "
            f"Received: {told}."
        )


def _check_labels(data: Data, search: Search, model: keras.Model) -> None:
    """Raises for labels that the model has no output for, and words that it does not know."""
    classes = model.output_shape[-1] if len(model.outputs) == 1 else None
    if classes is None or classes < 2:
        raise ValueError(
            f"The model {model.name!r} cannot be judged by {search.metric}. Expected one output with a number for each "
            f"class or word. Received: {model.output_shape}."
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
