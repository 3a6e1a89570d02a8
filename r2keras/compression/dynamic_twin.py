"""The Keras model that computes what a file with `activations="dynamic"` computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Container

import keras
import numpy as np

from r2keras._models.layer_copies import copy_layer
from r2keras._models.rebuild import copy_bidirectional, rebuild
from r2keras._models.row_products import input_axis, rounding_layers
from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import invalid, invalid_part
from r2keras.compression.recurrent import QUANTIZED, halves_of, with_dynamic_products
from r2keras.layers.dynamic_input import DynamicInput
from r2keras.layers.recurrent.layers import QuantizedRNN
from r2keras.record import CompressionRecord, PalettizedTensor, sign_planes, tables_of

# The largest code of a product's weight.
LARGEST = 127


def dynamic_twin(model: keras.Model, record: CompressionRecord) -> keras.Model:
    """Returns a copy of a model that rounds to 8 bits what a file with `activations="dynamic"` rounds.

    Recorded kernels of `Dense`, `EinsumDense` (along its last input axis), pointwise `Conv1D` and `Conv2D`, `LSTM`,
    `GRU`, `SimpleRNN` and of these in a `Bidirectional` get inputs that `ops.dynamic_quantize` has rounded row by row.
    Other layers (separable convolutions, an `EinsumDense` over two axes) and kernels inside layers of layers
    (`MultiHeadAttention`, `TimeDistributed`) compute as they are, though the file rounds their inputs too where it can.
    `verify(dynamic_twin(model, record), path, x)` compares the file with the copy.

    Under `activation_method="dynamic"` the model itself computes so, and the copy equals it.

    Args:
        model: what `finalize` or `calibrate` returned.
        record: returned with it.

    Returns:
        A model with the same layer names and weights. It can be trained: the gradient through the rounding is 1.

    Raises:
        TypeError: `record` is not a record.
        ValueError: no kernel of the record is one that such a file takes.

    Example:

    >>> import r2keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> recipe = r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=4, granularity="per_channel"))])
    >>> small, record = r2keras.calibrate(model, recipe, np.ones((8, 4), np.float32), progress=False)
    >>> type(dynamic_twin(small, record).get_layer("head")).__name__
    'DynamicInput'
    """
    if not isinstance(record, CompressionRecord):
        raise TypeError(invalid("record", "the CompressionRecord that came with the model", record))
    twin = with_rounding(view_of(model), record)
    if not rounding_layers(twin):
        expected = "a record with a symmetric kernel or a small palette of a Dense, recurrent or pointwise layer"
        received = f"the record of {', '.join(map(repr, record.tensors)) or 'no weight'}"
        raise ValueError(invalid_part("record", expected, received))
    return twin.model


def with_rounding(view: ModelView, record: CompressionRecord) -> ModelView:
    """Returns a copy of a model that rounds rows in front of the kernels of a record.

    Args:
        view: a finalized model. Layers that round rows already stay as they are.
        record: its record. If it has kernels of `activation_method="dynamic"`, only these count.
    """
    chosen = record.dynamic_kernels or tuple(record.tensors)
    record = dataclasses.replace(record, tensors={name: record.tensors[name] for name in chosen})
    return view_of(rebuild(view, lambda path, layer: _twin(path, layer, record)))


def with_rounding_at(view: ModelView, paths: Container[str]) -> ModelView:
    """Returns a copy of a model in which the products and recurrent layers at some paths round rows."""
    return view_of(rebuild(view, lambda path, layer: _rounding(layer) if path in paths else None))


def _rounding(layer: keras.Layer) -> keras.Layer:
    """Returns the form of a product or a recurrent layer that rounds rows."""
    return with_dynamic_products(layer) if halves_of(layer) else DynamicInput(copy_layer(layer))


def _twin(path: str, layer: keras.Layer, record: CompressionRecord) -> keras.Layer | None:
    """Returns the layer that rounds its input; None for a layer that stays as it is."""
    if type(layer) is keras.layers.Bidirectional:
        halves = (layer.forward_layer, layer.backward_layer)
        forward, backward = (_twin(f"{path}/{half.name}", half, record) for half in halves)
        if forward is None or backward is None:
            return None
        return copy_bidirectional(layer, forward, backward)
    if isinstance(layer, QuantizedRNN) or type(layer) in QUANTIZED:
        return _recurrent(path, layer, record)
    axis = input_axis(layer)
    if axis is None or not _takes(record, f"{path}/kernel", axis):
        return None
    return _rounding(layer)


def _recurrent(path: str, layer: keras.Layer, record: CompressionRecord) -> keras.Layer | None:
    """Returns the quantized form of a recurrent layer whose two kernels take rounded rows."""
    names = [f"{path}/{layer.cell.name}/{name}" for name in ("kernel", "recurrent_kernel")]
    if not all(_takes(record, name, 0) for name in names):
        return None
    return _rounding(layer)


def _takes(record: CompressionRecord, name: str, axis: int) -> bool:
    """Whether products take the codes of a weight: a grid around zero or planes of signs, the same along an axis."""
    tensor = record.tensors.get(name)
    if tensor is None or np.shape(tensor.scale)[axis] > 1:
        return False
    if isinstance(tensor, PalettizedTensor):
        return sign_planes(tensor) is not None and not np.ptp(tables_of(tensor), axis=axis).any()
    zero_point, codes = np.asarray(tensor.zero_point), tensor.codes.astype(np.int16)
    if np.all(zero_point == -0.5):
        codes = 2 * codes + 1
    elif np.any(zero_point):
        return False
    return bool(np.abs(codes).max(initial=0) <= LARGEST)
