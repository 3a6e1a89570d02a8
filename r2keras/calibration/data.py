"""Checked batches of unlabeled data from every supported form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import invalid, invalid_part
from r2keras._util.numeric import as_int

# One array per input of the model, with equal first axes.
Batch = list[np.ndarray]
# Unlabeled data as users pass them: one array, arrays by input, or an iterable of batches such as a tf.data.Dataset.
Data = np.ndarray | Mapping[str, np.ndarray] | Iterable[Any]


def batches(model: keras.Model | ModelView, data: Data, batch_size: int = 128) -> Iterator[Batch]:
    """Yields batches as lists of arrays, one per input of the model.

    Arrays are shuffled, with the same seed in every call, because batches of data sorted by class would have misleading
    statistics.

    Args:
        model: the model whose inputs the data must fit, or its view.
        data: an array, a list of arrays (one per input), a dict of arrays by the inputs' names, or an iterable of such
            batches.
        batch_size: samples per batch if `data` is arrays; iterables keep their own batches.

    Yields:
        Lists of arrays with equal first axes.

    Raises:
        ValueError: the data are empty, are an exhausted iterator, contain labels, NaN or infinite values, do not fit
            the model's inputs, or have word indices outside an embedding's vocabulary.
        TypeError: `data` has another type.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> [len(batch[0]) for batch in batches(model, np.zeros((5, 3)), batch_size=4)]
    [4, 1]
    """
    if (as_int(batch_size) or 0) < 1:
        raise ValueError(invalid("batch_size", "an integer of at least 1", batch_size))
    view = view_of(model)
    model = view.model
    count = 0
    vocabulary_sizes = _vocabulary_sizes(view)
    for batch in _stream(model, data, batch_size, vocabulary_sizes):
        check_inputs(model, batch, vocabulary_sizes)
        count += len(batch[0])
        yield batch
    if not count:
        raise ValueError(
            invalid_part("data", "at least one sample", "no samples", "Pass a few hundred training inputs")
        )


def as_inputs(model: keras.Model, batch: Batch) -> Any:
    """Returns a batch in the structure of the model's inputs: an array, a list or a dict.

    >>> as_inputs(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), [np.zeros((5, 3))]).shape
    (5, 3)
    """
    # A Sequential model may have no `input` before it is called on data.
    return batch[0] if isinstance(model, keras.Sequential) else keras.tree.pack_sequence_as(model.input, batch)


def _stream(model: keras.Model, data: Data, batch_size: int, vocabulary_sizes: dict[int, int]) -> Iterator[Batch]:
    """Yields batches: parts of arrays, or the batches of an iterable as lists of arrays."""
    arrays = _as_arrays(model, data)
    if arrays is None:
        if isinstance(data, (str, bytes)) or not hasattr(data, "__iter__"):
            raise TypeError(
                invalid("data", "an array, a list or dict of arrays, or an iterable of batches", type(data))
            )
        for batch in data:
            yield _as_arrays(model, batch) or [_one_array(model, batch)]
        return
    check_inputs(model, arrays, vocabulary_sizes)
    order = np.random.default_rng(0).permutation(len(arrays[0]))
    for start in range(0, len(order), batch_size):
        yield [array[order[start : start + batch_size]] for array in arrays]


def _as_arrays(model: keras.Model, data: Any) -> list[np.ndarray] | None:
    """Returns `data` as a list of arrays if it is an array or has one array per input; else None."""
    if isinstance(data, dict):
        return _by_name(model, data)
    if isinstance(data, (list, tuple)):
        if len(data) == len(model.inputs) and all(hasattr(x, "shape") for x in data):
            return [np.asarray(x) for x in data]
        return None
    return [np.asarray(data)] if hasattr(data, "shape") else None


def _by_name(model: keras.Model, data: dict[str, Any]) -> list[np.ndarray]:
    """Returns the arrays of a dict in the order of the model's inputs."""
    structure = None if isinstance(model, keras.Sequential) else model.input
    keys = {name: name for name in structure} if isinstance(structure, dict) else [x.name for x in model.inputs]
    names = keras.tree.flatten(keys)
    if set(names) != set(data) or not all(hasattr(array, "shape") for array in data.values()):
        fix = "With a tf.data.Dataset of pairs pass data.map(lambda x, y: x)"
        raise ValueError(
            invalid_part("data", f"one array for each input ({', '.join(names)})", f"a dict of {[*data]}", fix)
        )
    return [np.asarray(data[name]) for name in names]


def _one_array(model: keras.Model, batch: Any) -> np.ndarray:
    """Returns a batch of numbers in plain lists as one array."""
    if isinstance(batch, (list, tuple)) and any(hasattr(part, "shape") for part in batch):
        expected = f"batches of one array per input ({len(model.inputs)}), without labels"
        fix = "With a tf.data.Dataset of pairs pass data.map(lambda x, y: x)"
        raise ValueError(invalid_part("data", expected, f"a {type(batch).__name__} of {len(batch)}", fix))
    return np.asarray(batch)


def check_inputs(model: keras.Model, batch: Batch, vocabulary_sizes: dict[int, int] | None = None) -> None:
    """Raises unless a batch fits the inputs of a model.

    Args:
        model: the model whose inputs the batch must fit.
        batch: one array per input.
        vocabulary_sizes: the result of `_vocabulary_sizes` for the model, to read it once for many batches; None reads
            it here.

    Raises:
        ValueError: another shape, NaN or infinite values, word indices outside an embedding's vocabulary, or inputs
            with different numbers of samples.

    Example:

    >>> model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2)])
    >>> check_inputs(model, [np.zeros((5, 2))])
    Traceback (most recent call last):
    ...
    ValueError: Invalid value for argument `data`. Expected batches of shape (samples, 3) for the input 'x', without \
labels. Received: an array of shape (5, 2).
    """
    if vocabulary_sizes is None:
        vocabulary_sizes = _vocabulary_sizes(view_of(model))
    for index, (array, model_input) in enumerate(zip(batch, model.inputs, strict=True)):
        shape = tuple(model_input.shape)[1:]
        if not _fits(array.shape[1:], shape):
            sizes = ", ".join(["samples", *map(str, shape)])
            expected = f"batches of shape ({sizes}) for the input {model_input.name!r}, without labels"
            raise ValueError(invalid_part("data", expected, f"an array of shape {array.shape}"))
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            received = f"NaN or infinite values for the input {model_input.name!r}"
            raise ValueError(invalid_part("data", "finite values", received, "Clean the data first"))
        size = vocabulary_sizes.get(index)
        if size is not None and array.size and not (array.min() >= 0 and array.max() < size):
            expected = f"word indices from 0 to {size - 1} for the input {model_input.name!r}, as its embedding has"
            fix = "Encode the words with the vocabulary that the model was trained with"
            raise ValueError(invalid_part("data", expected, f"{array.min()} to {array.max()}", fix))
    counts = [len(array) for array in batch]
    if len(set(counts)) > 1:
        raise ValueError(invalid("data", "as many samples for every input", counts))


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    """Whether a shape equals the expected one, in which None stands for any size."""
    if len(shape) != len(expected):
        return False
    return all(needed in (None, size) for needed, size in zip(expected, shape, strict=True))


def _vocabulary_sizes(view: ModelView) -> dict[int, int]:
    """Returns the vocabulary sizes of embeddings that take an input directly, by the index of the input."""
    # A layer that is wrapped for training holds the bare layer as `layer`.
    layers = [getattr(layer, "layer", layer) for _, layer in view.layers]
    if not any(isinstance(layer, keras.layers.Embedding) for layer in layers):
        return {}
    sizes: dict[int, int] = {}
    for call in view.graph.calls:
        layer = getattr(call.layer, "layer", call.layer)
        if isinstance(layer, keras.layers.Embedding) and call.inputs and call.inputs[0][0] < len(view.model.inputs):
            index = call.inputs[0][0]
            sizes[index] = min(layer.input_dim, sizes.get(index, layer.input_dim))
    return sizes
