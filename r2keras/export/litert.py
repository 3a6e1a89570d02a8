"""Export to LiteRT: a float `.tflite`, or one that really holds the codes of a record."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np

from r2keras._files import atomic_write_bytes
from r2keras._model import leaf_layers
from r2keras.export import packages
from r2keras.export.assign import Place, assign
from r2keras.export.builder import write
from r2keras.export.check import Written, check_backend, check_model, check_record, check_written, kernel_shapes
from r2keras.export.containers import store
from r2keras.export.convert import convert
from r2keras.export.flatbuffer import SEPARATOR, constants, parse
from r2keras.export.rewrite import rewrite
from r2keras.export.sizes import FileSizes, measure, measure_float
from r2keras.export.slim import slim
from r2keras.record import CompressionRecord


def to_litert(model: keras.Model, path: str | os.PathLike, record: CompressionRecord | None = None) -> FileSizes:
    """Writes a model as a `.tflite` file, its recorded weights as 2-, 4- or 8-bit integers.

    The model is converted to float first. Then each recorded weight's constant, found by its values, is replaced by
    the record's codes and an operator that computes `scale * (code - zero_point)` from them, whatever operator
    uses the weight; a folded batch normalization goes into the scales. Outputs differ from Keras' by float rounding
    only. Codes of 1-2 bits are stored in 2, of 3-4 bits in 4, of 5-8 bits in 8 bits. Every stored code is read back
    and compared with the record before anything is written.

    Args:
        model: a built Functional or Sequential model on the TensorFlow backend, with the values of `record`.
        path: the file to write, whole or not at all.
        record: what `finalize` or `calibrate` returned with the model; None writes a float file.

    Returns:
        The sizes of the file and of each weight in it.

    Raises:
        ImportError: TensorFlow or ai-edge-litert is not installed.
        RuntimeError: Keras runs on another backend, or TensorFlow's converter refuses the model.
        TypeError: a subclassed model.
        ValueError: the model is not built, still wrapped for training, computes in half precision, or has NaN or
            infinite weights; the record does not belong to it; a recorded weight is not in the converted file.
        OSError: the file cannot be written.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> file = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> [row.name for row in to_litert(model, file).tensors]
    ['head/kernel']
    """
    check_backend()
    check_model(model)
    packages.schema()
    if record is None:
        file = convert(model)
        slim(file, set())
        data = write(file)
        num_values = sum(int(np.prod(v.shape)) for _, layer in leaf_layers(model) for v in layer.weights)
        found = measure_float(kernel_shapes(model), num_values, data)
    else:
        check_record(model, record)
        data, file = _compressed(convert(model), record)
        found = measure(record, file, data, str(path))
    atomic_write_bytes(path, data)
    return found


def _compressed(file: Any, record: CompressionRecord) -> tuple[bytes, Any]:
    """Puts the record's codes into the float `file`; returns its bytes and what was read back from them, checked."""
    where = list(constants(file))
    values = {name: tensor.values() for name, tensor in record.tensors.items()}
    places, missing = assign(values, [constant for _, _, constant in where])
    if missing:
        raise ValueError(
            f"The converted file holds no constant with the values of {', '.join(map(repr, missing))}, so the codes "
            "cannot be stored. Leave the layer out of the recipe, so that it stays float. Nothing was written."
        )
    written = [_put(file, where[place.constant], place, record) for place in places]
    slim(file, {(item.subgraph, tensor) for item in written for tensor in item.named})
    data = write(file)
    file = parse(data)
    check_written(file, written)
    return data, file


def _put(file: Any, where: tuple[int, int, np.ndarray], place: Place, record: CompressionRecord) -> Written:
    """Stores one weight in the place of its constant."""
    subgraph, tensor, constant = where
    owner = record.tensors[place.owner]
    match = place.matches[place.owner]
    constant = constant.copy()
    stored = store(owner, match, constant)
    named = rewrite(file, subgraph, tensor, stored, SEPARATOR.join(place.matches))
    return Written(subgraph, tuple(named), tensor, owner, match, stored, constant)
