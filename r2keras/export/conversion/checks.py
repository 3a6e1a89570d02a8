"""Checks of the backend, the model and the record before an export."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np

from r2keras._models.either_keras import SourceModel, read_model
from r2keras._models.float32 import OTHER_FLOATS, in_float32
from r2keras._models.keras_internals import parts_of
from r2keras._models.tf_keras_layers import is_a
from r2keras._models.values import check_finite, to_numpy
from r2keras._util.errors import invalid, invalid_part
from r2keras.record import CompressionRecord

if TYPE_CHECKING:
    from r2keras._models.either_keras import Model

TFMOT_WRAPPERS = ("QuantizeWrapper", "QuantizeAnnotate")


def check_backend() -> None:
    """Raises RuntimeError unless Keras runs on TensorFlow, whose converter writes the file."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"Export to LiteRT needs another Keras backend. Expected tensorflow. Received: {backend}. Save the model "
            "as .keras, then run `KERAS_BACKEND=tensorflow r2keras-convert` on it."
        )


def checked_source(model: Model) -> SourceModel:
    """Returns the model to export: a Keras 3 model of another precision is copied to float32, in which files compute.

    Raises:
        TypeError: not a model, or a subclassed one.
        ValueError: the model is not built, a layer is not plain or has no float32 form, or a weight is not finite.
    """
    source = read_model(model)
    _check_plain(source)
    if not source.is_tf_keras:
        view = in_float32(source.view)
        source = source if view is source.view else read_model(view.model)
    _check_precision(source)
    for name, variable in source.weights:
        if keras.backend.is_float_dtype(variable.dtype):
            check_finite(name, to_numpy(variable))
    return source


def _check_plain(source: SourceModel) -> None:
    """Raises ValueError for a layer that is still wrapped for training."""
    for path, layer in source.layers:
        is_of_tfmot = is_a(layer, *TFMOT_WRAPPERS)
        is_wrapper = getattr(layer, "is_r2keras_wrapper", False) and not getattr(layer, "is_dynamic_input", False)
        if is_of_tfmot or is_wrapper:
            finalize = "r2keras.tfmot.finalize" if is_of_tfmot else "r2keras.finalize"
            received = f"the layer {path!r}, which still trains under compression"
            fix = f"Call {finalize} first, and export the model and record that it returns"
            raise ValueError(invalid_part("model", "an ordinary Keras model", received, fix))


def _check_precision(source: SourceModel) -> None:
    """Raises ValueError for a layer that does not compute in float32."""
    # Input layers come last: they have the dtype policy too, and another layer's name is more helpful.
    for path, layer in sorted(source.layers, key=lambda item: is_a(item[1], "InputLayer")):
        precisions = [part.compute_dtype for part in parts_of(layer) if part.compute_dtype in OTHER_FLOATS]
        if precisions:
            received = f"the layer {path!r}, which computes in {precisions[0]}"
            fix = (
                "Build the model again with dtype='float32' and the same names of layers, and copy the weights with "
                "set_weights"
            )
            raise ValueError(invalid_part("model", "layers that compute in float32, as LiteRT does", received, fix))


def check_record_type(record: CompressionRecord | None) -> None:
    """Raises TypeError for what is neither a record nor None."""
    if record is not None and not isinstance(record, CompressionRecord):
        raise TypeError(invalid("record", "an r2keras.CompressionRecord or None", type(record)))


def check_record(source: SourceModel, record: CompressionRecord) -> None:
    """Raises unless `record` is a record, and its values are the model's, bit for bit."""
    check_record_type(record)
    weights = dict(source.weights)
    expected = f"the record that came with the model {source.name!r}"
    for name, tensor in record.tensors.items():
        if name not in weights:
            received = f"a record that does not belong to the model, which has no weight {name!r}"
            raise ValueError(invalid_part("record", expected, received, "Pass the record that came with this model"))
        if not np.array_equal(to_numpy(weights[name]), tensor.values()):
            received = (
                f"a record that does not belong to the model, in which {name!r} has other values or another shape"
            )
            fix = "Pass the record that came with this model, and do not train in between"
            raise ValueError(invalid_part("record", expected, received, fix))
