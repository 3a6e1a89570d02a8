"""Checks around an export: the model and the record before it, the bytes of the file after it."""

from __future__ import annotations

import keras
import numpy as np

from r2keras._models.either_keras import SourceModel
from r2keras._models.tf_keras_layers import is_a
from r2keras._models.values import check_finite, to_numpy
from r2keras._util.errors import invalid
from r2keras.record import CompressionRecord

TFMOT_WRAPPERS = ("QuantizeWrapper", "QuantizeAnnotate")


def check_backend() -> None:
    """Raises RuntimeError unless Keras runs on TensorFlow, whose converter makes the file."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"Export to LiteRT needs Keras on TensorFlow, and this process runs it on {backend}. Save the model "
            "as .keras, then run `KERAS_BACKEND=tensorflow r2keras-convert` on it."
        )


def check_model(source: SourceModel) -> None:
    """Raises ValueError unless all layers of a model are plain and compute in float32, and its weights are finite."""
    # Inputs last: a dtype policy sets theirs too, and the name of a layer says more.
    for path, layer in sorted(source.layers, key=lambda item: is_a(item[1], "InputLayer")):
        is_of_tfmot = is_a(layer, *TFMOT_WRAPPERS)
        if is_of_tfmot or getattr(layer, "is_r2keras_wrapper", False):
            finalize = "r2keras.tfmot.finalize" if is_of_tfmot else "r2keras.finalize"
            raise ValueError(
                f"The layer {path!r} still trains under compression. Expected an ordinary Keras model. "
                f"Call {finalize} first, and export the model and record that it returns."
            )
        if layer.compute_dtype in ("float16", "bfloat16", "float64"):
            raise ValueError(
                f"The layer {path!r} computes in {layer.compute_dtype}. Expected float32, which LiteRT runs. Build the "
                "model again under keras.config.set_dtype_policy('float32') and copy the weights with set_weights."
            )
    for name, variable in source.weights:
        if keras.backend.is_float_dtype(variable.dtype):
            check_finite(name, to_numpy(variable))


def check_record(source: SourceModel, record: CompressionRecord) -> None:
    """Raises unless `record` is a record, and its values are the model's, bit for bit."""
    if not isinstance(record, CompressionRecord):
        raise TypeError(invalid("record", "an r2keras.CompressionRecord or None", type(record)))
    weights = dict(source.weights)
    for name, tensor in record.tensors.items():
        if name not in weights:
            raise ValueError(
                f"The record does not belong to the model {source.name!r}, which has no weight {name!r}. "
                "Pass the record that came with this model."
            )
        if not np.array_equal(to_numpy(weights[name]), tensor.values()):
            raise ValueError(
                f"The record does not belong to the model {source.name!r}: the weight {name!r} has other values or "
                "another shape. Pass the record that came with this model, and do not train in between."
            )
