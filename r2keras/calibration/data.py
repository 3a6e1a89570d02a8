"""Unlabelled data in any of the forms people have it, as a stream of checked batches."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np

from r2keras import _model
from r2keras._errors import invalid
from r2keras._graph import graph_of


def batches(model: keras.Model, data, batch_size: int = 128) -> Iterator[list[np.ndarray]]:
    """Yields batches as lists of arrays, one an input of the model.

    Arrays are shuffled (always the same way): data sorted by class would give batches whose statistics mean nothing.

    Args:
        model: whose inputs the data must fit.
        data: an array, a list of arrays (one an input), a dict of them by the inputs' names, or an iterable of such
            batches.
        batch_size: samples a batch where `data` is arrays; iterables keep their own batches.

    Yields:
        Lists of arrays with equal first axes.

    Raises:
        ValueError: no data, none left, NaN or infinite values, labels, a shape that the model does not take, words
            that an embedding does not know.
        TypeError: `data` is nothing of the kind.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> [len(batch[0]) for batch in batches(model, np.zeros((5, 3)), batch_size=4)]
    [4, 1]
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(invalid("batch_size", "an integer of at least 1", batch_size))
    count, words = 0, _vocabularies(model)
    for batch in _stream(model, data, batch_size):
        check_inputs(model, batch, words)
        count += len(batch[0])
        yield batch
    if not count:
        raise ValueError(invalid("data", "at least one sample", "no samples", "Pass a few hundred training inputs"))


def as_inputs(model: keras.Model, batch: list[np.ndarray]):
    """Returns a batch in the structure that the model takes: an array, a list or a dict.

    >>> as_inputs(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), [np.zeros((5, 3))]).shape
    (5, 3)
    """
    # A Sequential model has no `input` of its own before it has been called on data.
    return batch[0] if isinstance(model, keras.Sequential) else keras.tree.pack_sequence_as(model.input, batch)


def _stream(model: keras.Model, data, batch_size: int) -> Iterator[list[np.ndarray]]:
    """Splits arrays into batches, or passes an iterable's batches on."""
    arrays = _as_arrays(model, data)
    if arrays is None:
        if isinstance(data, (str, bytes)) or not hasattr(data, "__iter__"):
            raise TypeError(
                invalid("data", "an array, a list or dict of arrays, or an iterable of batches", type(data))
            )
        for batch in data:
            yield _as_arrays(model, batch) or [_one_array(model, batch)]
        return
    check_inputs(model, arrays)
    order = np.random.default_rng(0).permutation(len(arrays[0]))
    for start in range(0, len(order), batch_size):
        yield [array[order[start : start + batch_size]] for array in arrays]


def _as_arrays(model: keras.Model, data) -> list[np.ndarray] | None:
    """Returns `data` as a list of arrays if it is an array or one array an input; else None."""
    if isinstance(data, dict):
        return _by_name(model, data)
    if isinstance(data, (list, tuple)):
        if len(data) == len(model.inputs) and all(hasattr(x, "shape") for x in data):
            return [np.asarray(x) for x in data]
        return None
    return [np.asarray(data)] if hasattr(data, "shape") else None


def _by_name(model: keras.Model, data: dict) -> list[np.ndarray]:
    """Returns the arrays of a dict in the order of the model's inputs."""
    structure = None if isinstance(model, keras.Sequential) else model.input
    keys = {name: name for name in structure} if isinstance(structure, dict) else [x.name for x in model.inputs]
    names = keras.tree.flatten(keys)
    if set(names) != set(data) or not all(hasattr(array, "shape") for array in data.values()):
        fix = "With a tf.data.Dataset of pairs pass data.map(lambda x, y: x)"
        raise ValueError(invalid("data", f"one array for each input ({', '.join(names)})", f"a dict of {[*data]}", fix))
    return [np.asarray(data[name]) for name in names]


def _one_array(model: keras.Model, batch) -> np.ndarray:
    """Returns a batch that is no list of arrays as one array: numbers in plain lists."""
    if isinstance(batch, (list, tuple)) and any(hasattr(part, "shape") for part in batch):
        expected = f"batches of one array an input ({len(model.inputs)}), without labels"
        fix = "With a tf.data.Dataset of pairs pass data.map(lambda x, y: x)"
        raise ValueError(invalid("data", expected, f"a {type(batch).__name__} of {len(batch)}", fix))
    return np.asarray(batch)


def check_inputs(model: keras.Model, batch: list[np.ndarray], words: dict[int, int] | None = None) -> None:
    """Raises unless a model takes a batch.

    Args:
        model: whose inputs the batch must fit.
        batch: one array an input.
        words: what `_vocabularies` returned for the model, where many batches are checked; None reads it here.

    Raises:
        ValueError: another shape, NaN or infinite values, words that an embedding does not know, as many samples for
            one input as for no other.

    Example:

    >>> model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2)])
    >>> check_inputs(model, [np.zeros((5, 2))])
    Traceback (most recent call last):
    ...
    ValueError: The data do not fit the input 'x'. Expected batches of shape (samples, 3), without labels. Received: \
shape (5, 2).
    """
    words = _vocabularies(model) if words is None else words
    for place, (array, wanted) in enumerate(zip(batch, model.inputs, strict=True)):
        shape = tuple(wanted.shape)[1:]
        fits = array.ndim == len(shape) + 1 and all(w in (None, n) for w, n in zip(shape, array.shape[1:], strict=True))
        if not fits:
            raise ValueError(
                f"The data do not fit the input {wanted.name!r}. Expected batches of shape (samples, "
                f"{', '.join(map(str, shape))}), without labels. Received: shape {array.shape}."
            )
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise ValueError("The data have NaN or infinite values. Expected finite inputs. Clean them first.")
        if place in words and array.size and not (array.min() >= 0 and array.max() < words[place]):
            raise ValueError(
                f"The data do not fit the input {wanted.name!r}. Expected word numbers from 0 to {words[place] - 1}, "
                f"which its embedding knows. Received: {array.min()} to {array.max()}. Encode them with the vocabulary "
                "that the model was trained with."
            )
    counts = [len(array) for array in batch]
    if len(set(counts)) > 1:
        raise ValueError(invalid("data", "as many samples for every input", counts))


def _vocabularies(model: keras.Model) -> dict[int, int]:
    """Returns, by the place of an input, how many words the embeddings know that take it as it is."""
    layers = [getattr(layer, "layer", layer) for _, layer in _model.leaf_layers(model)]
    if not any(isinstance(layer, keras.layers.Embedding) for layer in layers):
        return {}
    found: dict[int, int] = {}
    for call in graph_of(model).calls:
        layer = getattr(call.layer, "layer", call.layer)  # The bare layer, where one is wrapped for training.
        if isinstance(layer, keras.layers.Embedding) and call.inputs and call.inputs[0][0] < len(model.inputs):
            place = call.inputs[0][0]
            found[place] = min(layer.input_dim, found.get(place, layer.input_dim))
    return found
