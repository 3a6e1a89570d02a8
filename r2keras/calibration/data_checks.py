"""Checks that arrays fit the inputs of a model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import invalid, invalid_part

# One array per input of the model, with equal first axes.
Batch = list[np.ndarray]
NO_LABELS = "With a tf.data.Dataset of pairs pass data.map(lambda x, y: x)"


def as_array(value: Any, model_input: keras.KerasTensor) -> np.ndarray:
    """Returns numbers of any form as an array: integers, booleans or floats; strings for an input of strings.

    Args:
        value: an array, a tensor of any backend, or plain lists.
        model_input: the input of the model.

    Raises:
        TypeError: strings, objects, complex numbers, or anything else that is not made of numbers.

    Example:

    >>> as_array([["a", "b"]], keras.Input((2,), name="x"))
    Traceback (most recent call last):
    ...
    TypeError: Invalid value for argument `data`. Expected arrays of numbers for the input 'x'. Received: values of \
type <U1. Encode them as the model was trained.
    """
    name = model_input.name
    try:
        array = np.asarray(keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        received = f"a {type(value).__name__} that is not an array of numbers ({str(error).splitlines()[0]})"
        fix = "Pad ragged rows and make sparse ones dense"
        raise TypeError(invalid_part("data", f"arrays of numbers for the input {name!r}", received, fix)) from error
    if array.dtype.kind in ("SUO" if model_input.dtype == "string" else "biuf"):
        return array
    if array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    kind = f"a {type(value).__name__}" if array.ndim == 0 and array.dtype == object else f"values of type {array.dtype}"
    fix = "Encode them as the model was trained"
    raise TypeError(invalid_part("data", f"arrays of numbers for the input {name!r}", kind, fix))


def check_inputs(model: keras.Model, batch: Batch, vocabulary_sizes: dict[int, int] | None = None) -> None:
    """Raises unless a batch fits the inputs of a model.

    Args:
        model: the model whose inputs the batch must fit.
        batch: one array per input.
        vocabulary_sizes: the result of `vocabulary_sizes` for the model, to read it once for many batches; None reads
            it here.

    Raises:
        ValueError: another number of arrays, another shape, NaN or infinite values, word indices that are fractions or
            outside an embedding's vocabulary, or inputs with different numbers of samples.

    Example:

    >>> model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2)])
    >>> check_inputs(model, [np.zeros((5, 2))])
    Traceback (most recent call last):
    ...
    ValueError: Invalid value for argument `data`. Expected batches of shape (samples, 3) for the input 'x', without \
labels. Received: an array of shape (5, 2).
    """
    check_shapes(model, batch)
    check_values(model, batch, vocabulary_sizes_of(view_of(model)) if vocabulary_sizes is None else vocabulary_sizes)


def check_shapes(model: keras.Model, batch: Batch) -> None:
    """Raises unless there is one array per input of a model, of its shape, and all have as many samples."""
    if len(batch) != len(model.inputs):
        names = ", ".join(tensor.name for tensor in model.inputs)
        expected = f"one array for each of the {len(model.inputs)} inputs ({names}), without labels"
        received = f"{len(batch)} array{'s' * (len(batch) > 1)} of shape {', '.join(str(x.shape) for x in batch)}"
        raise ValueError(invalid_part("data", expected, received, "Pass a list of arrays, or a dict by name"))
    for array, model_input in zip(batch, model.inputs, strict=True):
        shape = tuple(model_input.shape)[1:]
        if not array.ndim or not _fits(array.shape[1:], shape):
            sizes = ", ".join(["samples", *map(str, shape)])
            expected = f"batches of shape ({sizes}) for the input {model_input.name!r}, without labels"
            raise ValueError(invalid_part("data", expected, f"an array of shape {array.shape}"))
    counts = [len(array) for array in batch]
    if len(set(counts)) > 1:
        raise ValueError(invalid("data", "as many samples for every input", counts))


def check_values(model: keras.Model, batch: Batch, vocabulary_sizes: dict[int, int]) -> None:
    """Raises for NaN or infinite values, and for word indices that an embedding does not have."""
    for index, (array, model_input) in enumerate(zip(batch, model.inputs, strict=True)):
        # float64 values beyond float32 are infinite for the model.
        with np.errstate(over="ignore"):
            is_finite = array.dtype.kind != "f" or np.isfinite(array.astype(np.float32, copy=False)).all()
        if not is_finite:
            received = f"NaN or infinite values for the input {model_input.name!r}"
            raise ValueError(invalid_part("data", "finite values", received, "Clean the data first"))
        size = vocabulary_sizes.get(index)
        if size is not None and array.size:
            _check_words(array, size, model_input.name)


def _check_words(array: np.ndarray, size: int, name: str) -> None:
    """Raises unless an array has whole numbers from 0 to `size - 1`."""
    expected = f"word indices from 0 to {size - 1} for the input {name!r}, as its embedding has"
    fix = "Encode the words with the vocabulary that the model was trained with"
    if array.dtype.kind == "f" and (array != np.floor(array)).any():
        fraction = array[array != np.floor(array)].flat[0]
        raise ValueError(invalid_part("data", expected, f"fractions such as {fraction:g}", fix))
    if not (array.min() >= 0 and array.max() < size):
        raise ValueError(invalid_part("data", expected, f"{array.min():g} to {array.max():g}", fix))


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    """Whether a shape equals the expected one, in which None stands for any size."""
    if len(shape) != len(expected):
        return False
    return all(needed in (None, size) for needed, size in zip(expected, shape, strict=True))


def vocabulary_sizes_of(view: ModelView) -> dict[int, int]:
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
