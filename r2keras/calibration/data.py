"""Checked batches of unlabeled data from every supported form."""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import check_int, invalid, invalid_part
from r2keras._util.numeric import as_int
from r2keras.calibration.data_checks import (
    NO_LABELS,
    Batch,
    as_array,
    check_shapes,
    check_values,
    vocabulary_sizes_of,
)
from r2keras.calibration.samples import Samples

# Unlabeled data as users pass them: one array, arrays by input, or an iterable of batches such as a tf.data.Dataset.
Data = np.ndarray | Mapping[str, np.ndarray] | Iterable[Any]
# Samples that are read from an iterable that does not say how many it has.
MAX_SAMPLES = 16_384
# Bytes of an iterable's samples that are held in memory at once.
MAX_BYTES = 2**30
# Samples of an array that are checked at once, which bounds the size of temporary arrays.
CHUNK = 1024


def batches(
    model: keras.Model | ModelView, data: Data, batch_size: int = 128, max_samples: int | None = None
) -> Iterator[Batch]:
    """Yields batches as lists of arrays, one per input of the model, for functions that need each batch once.

    The samples are put into an order that follows from their values, and into batches of at most `batch_size` whose
    sizes differ by one at most. One array, the same data in batches of any size, and in another order, thus give the
    same batches. Of a longer iterable, 16,384 samples or 1 GiB at a time are ordered and yielded.

    Args:
        model: the model whose inputs the data must fit, or its view.
        data: an array, a list of arrays (one per input), a dict of arrays by the inputs' names, or an iterable of such
            batches: a list, a generator, a `tf.data.Dataset`, a `keras.utils.PyDataset`.
        batch_size: samples per batch.
        max_samples: the number of samples to use: of arrays a random choice, of an iterable the first ones. None uses
            all, but 16,384 of an iterable that does not say how many batches it has.

    Yields:
        Lists of arrays with equal first axes.

    Raises:
        ValueError: the data are empty, are an exhausted iterator, have no end, contain labels, NaN or infinite values,
            do not fit the model's inputs, or have word indices outside an embedding's vocabulary.
        TypeError: `data` has another type, or is not made of numbers.

    Warns:
        UserWarning: samples were left out, because the data do not say how many there are.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> [len(batch[0]) for batch in batches(model, np.zeros((5, 3)), batch_size=4)]
    [2, 3]
    """
    for samples in _Reader(view_of(model), data, batch_size, max_samples).chunks():
        yield from samples.batches(batch_size)


def kept_batches(
    model: keras.Model | ModelView, data: Data, batch_size: int = 128, max_samples: int | None = None
) -> list[Batch]:
    """Returns all batches as a list, for functions that need them several times.

    Args:
        model: as in `batches`.
        data: as in `batches`.
        batch_size: as in `batches`.
        max_samples: as in `batches`; None also reads no more than 1 GiB of an iterable.

    Warns:
        UserWarning: samples were left out.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> len(kept_batches(model, (np.zeros((2, 3)) for _ in range(5)), batch_size=5))
    2
    """
    reader = _Reader(view_of(model), data, batch_size, max_samples)
    samples = reader.first(None if max_samples is not None else MAX_BYTES)
    return list(samples.batches(batch_size))


def labelled_samples(
    model: keras.Model | ModelView, data: Data, labels: np.ndarray | None, max_samples: int | None = None
) -> Samples:
    """Returns the samples that `kept_batches` would batch, each with its label as one more array.

    Args:
        model: as in `batches`.
        data: as in `batches`; arrays if there are labels.
        labels: one per sample, or None for none.
        max_samples: as in `kept_batches`.

    Raises:
        ValueError: as in `batches`; labels of another length, or for data that are not arrays.
    """
    reader = _Reader(view_of(model), data, 1, max_samples)
    if labels is None:
        return reader.first(None if max_samples is not None else MAX_BYTES)
    labels = np.asarray(labels)
    if reader.arrays is None:
        fix = "Concatenate the batches, or leave labels out"
        raise ValueError(invalid_part("data", "arrays, because there are labels", str(type(data)), fix))
    if labels.shape[:1] != (len(reader.arrays[0]),):
        expected = f"one label per sample ({len(reader.arrays[0])})"
        raise ValueError(invalid_part("labels", expected, f"labels of shape {labels.shape}"))
    return reader.first(None, labels)


def split(data: list[Batch], batch_size: int) -> Iterator[Batch]:
    """Yields checked batches as smaller ones.

    >>> [len(batch[0]) for batch in split([[np.zeros((5, 3))]], 2)]
    [2, 2, 1]
    """
    for batch in data:
        for start in range(0, len(batch[0]), batch_size):
            yield [array[start : start + batch_size] for array in batch]


def as_inputs(model: keras.Model, batch: Batch) -> Any:
    """Returns a batch in the structure of the model's inputs: an array, a list or a dict.

    >>> as_inputs(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), [np.zeros((5, 3))]).shape
    (5, 3)
    """
    # A Sequential model may have no `input` before it is called on data.
    return batch[0] if isinstance(model, keras.Sequential) else keras.tree.pack_sequence_as(model.input, batch)


class _Reader:
    """Reads data of any form in checked parts.

    Args:
        view: the model whose inputs the data must fit.
        data: the data.
        batch_size: checked here, because it comes from the same caller.
        max_samples: as in `batches`.
    """

    def __init__(self, view: ModelView, data: Data, batch_size: int, max_samples: int | None) -> None:
        if (as_int(batch_size) or 0) < 1:
            raise ValueError(invalid("batch_size", "an integer of at least 1", batch_size))
        if max_samples is not None:
            check_int("max_samples", max_samples, 1, None)
        self.model = view.model
        self.vocabulary_sizes = vocabulary_sizes_of(view)
        self.max_samples = max_samples
        self.dtypes = [keras.backend.standardize_dtype(tensor.dtype) for tensor in self.model.inputs]
        self.arrays = _as_arrays(self.model, data, whole=True)
        self.given = data
        self.data = _Indexed(data) if isinstance(data, keras.utils.PyDataset) else data
        # Batches in a list are in memory already.
        self.is_list = isinstance(data, list)
        if self.arrays is None:
            self._check_iterable()

    def chunks(self) -> Iterator[Samples]:
        """Yields all samples: those of arrays at once, those of an iterable as many at a time as memory allows."""
        if self.arrays is not None:
            yield self._of_arrays(self.arrays)
            return
        samples = Samples(self.dtypes)
        for part in self._parts():
            if len(samples) >= MAX_SAMPLES or samples.num_bytes >= MAX_BYTES:
                yield samples
                samples = Samples(self.dtypes)
            samples.add(part)
        # The last chunk is empty only if there was no sample at all.
        _check_some(samples)
        yield samples

    def first(self, max_bytes: int | None, labels: np.ndarray | None = None) -> Samples:
        """Returns the samples to keep in memory; those of arrays with their labels, if there are any."""
        if self.arrays is not None:
            return self._of_arrays(self.arrays, [] if labels is None else [labels])
        samples = Samples(self.dtypes)
        for part in self._parts():
            if max_bytes is not None and not self.is_list and samples.num_bytes >= max_bytes:
                _warn_left_out(f"the first {len(samples):,} samples, {max_bytes / 2**30:g} GiB,")
                break
            samples.add(part)
        _check_some(samples)
        return samples

    def _of_arrays(self, arrays: Batch, further: Sequence[np.ndarray] = ()) -> Samples:
        """Returns the samples of whole arrays, and of further ones that are not inputs."""
        check_shapes(self.model, arrays)
        samples = Samples(self.dtypes)
        for start in range(0, len(arrays[0]), CHUNK):
            part = [array[start : start + CHUNK] for array in arrays]
            check_values(self.model, part, self.vocabulary_sizes)
            samples.add([*part, *(array[start : start + CHUNK] for array in further)])
        _check_some(samples)
        samples.keep(self.max_samples)
        return samples

    def _check_iterable(self) -> None:
        """Raises unless the data can be read batch by batch, and end."""
        if isinstance(self.data, (str, bytes)) or not hasattr(self.data, "__iter__"):
            expected = "an array, a list or dict of arrays, or an iterable of batches"
            is_path = isinstance(self.data, (str, bytes, os.PathLike))
            fix = "Load the file first, with numpy.load for example" if is_path else ""
            raise TypeError(invalid("data", expected, self.data if is_path else type(self.data), fix))
        if self.max_samples is None and _num_batches(self.data) == math.inf:
            fix = "Pass max_samples=1000, say, or take some batches of it: data.take(8)"
            received = f"a {type(self.given).__name__} that repeats without end"
            raise ValueError(invalid_part("data", "data that end, or max_samples=", received, fix))

    def _parts(self) -> Iterator[Batch]:
        """Yields the checked batches of an iterable, up to the limit of samples."""
        limit = self.max_samples
        if limit is None and _num_batches(self.data) is None:
            limit = MAX_SAMPLES
        count = 0
        for item in self.data:
            if limit is not None and count >= limit:
                if self.max_samples is None:
                    _warn_left_out(f"the first {limit:,} samples")
                return
            # A generator may use the memory of one array for all batches.
            batch = [array if self.is_list else np.array(array) for array in _as_batch(self.model, item)]
            check_shapes(self.model, batch)
            if limit is not None:
                batch = [array[: limit - count] for array in batch]
            check_values(self.model, batch, self.vocabulary_sizes)
            count += len(batch[0])
            yield batch


class _Indexed:
    """The batches of a dataset that is read by index.

    Args:
        dataset: the dataset.
    """

    def __init__(self, dataset: keras.utils.PyDataset):
        self._dataset = dataset

    def cardinality(self) -> int:
        """Returns the number of batches, -1 without end, as a tf.data.Dataset does."""
        count = self._dataset.num_batches
        return -1 if count is None else count

    def __iter__(self) -> Iterator[Any]:
        count = self._dataset.num_batches
        return (self._dataset[i] for i in (itertools.count() if count is None else range(count)))


def _num_batches(data: Any) -> float | None:
    """Returns the number of batches of an iterable, infinity if it has no end, None if it does not say."""
    if callable(getattr(data, "cardinality", None)):
        count = int(data.cardinality())
        return {-1: math.inf, -2: None}.get(count, count)
    try:
        return len(data)
    except TypeError:
        return None


def _check_some(samples: Samples) -> None:
    """Raises if there are no samples."""
    if not len(samples):
        raise ValueError(
            invalid_part("data", "at least one sample", "no samples", "Pass a few hundred training inputs")
        )


def _warn_left_out(used: str) -> None:
    """Warns that only a part of an iterable is used."""
    warnings.warn(
        f"Calibration uses {used} of `data` and leaves out the rest. Expected data that fit into memory and say how "
        "many batches they have. Pass max_samples= to set the number.",
        UserWarning,
        stacklevel=2,
    )


def _as_arrays(model: keras.Model, data: Any, *, whole: bool) -> Batch | None:
    """Returns `data` as a list of arrays if it is an array or has one array per input; else None.

    Args:
        model: the model.
        data: all data, or one batch of an iterable.
        whole: whether it is all data, of which a list may also be a list of batches.
    """
    inputs = model.inputs
    if isinstance(data, Mapping):
        return _by_name(model, data)
    if isinstance(data, (list, tuple)):
        is_arrays = [hasattr(part, "shape") for part in data]
        if len(data) == len(inputs) and all(is_arrays):
            return [as_array(part, tensor) for part, tensor in zip(data, inputs, strict=True)]
        if isinstance(data, tuple) if whole else _has_parts(data):
            expected = f"one array per input ({len(inputs)}), without labels"
            expected = expected if whole else f"batches of {expected}"
            fix = "Pass the inputs alone, or a list of batches" if whole else NO_LABELS
            raise ValueError(invalid_part("data", expected, f"a {type(data).__name__} of {len(data)}", fix))
        return None
    return [as_array(data, inputs[0])] if hasattr(data, "shape") else None


def _has_parts(batch: list | tuple) -> bool:
    """Whether a list holds arrays or containers by name, not plain numbers."""
    return any(hasattr(part, "shape") or isinstance(part, Mapping) or part is None for part in batch)


def _as_batch(model: keras.Model, item: Any) -> Batch:
    """Returns one item of an iterable as arrays; plain lists of numbers are one array."""
    return _as_arrays(model, item, whole=False) or [as_array(item, model.inputs[0])]


def _by_name(model: keras.Model, data: Mapping[str, Any]) -> Batch:
    """Returns the arrays of a dict in the order of the model's inputs."""
    structure = None if isinstance(model, keras.Sequential) else model.input
    keys = {name: name for name in structure} if isinstance(structure, dict) else [x.name for x in model.inputs]
    names = keras.tree.flatten(keys)
    if set(names) != set(data):
        expected = f"one array for each input ({', '.join(names)})"
        raise ValueError(invalid_part("data", expected, f"a dict of {[*data]}", NO_LABELS))
    return [as_array(data[name], tensor) for name, tensor in zip(names, model.inputs, strict=True)]
