"""The Keras model that computes what a file with `activations="dynamic"` computes."""

from __future__ import annotations

import keras
import numpy as np

from r2keras._models.layer_copies import config_of, copy_layer, recreate
from r2keras._models.rebuild import copy_bidirectional, rebuild
from r2keras._util.errors import invalid, invalid_part
from r2keras.compression.recurrent import QUANTIZED
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
    twins = []

    def replace(path: str, layer: keras.Layer) -> keras.Layer | None:
        new = _twin(path, layer, record)
        twins.extend([] if new is None else [path])
        return new

    twin = rebuild(model, replace)
    if not twins:
        expected = "a record with a symmetric kernel or a small palette of a Dense, recurrent or pointwise layer"
        received = f"the record of {', '.join(map(repr, record.tensors)) or 'no weight'}"
        raise ValueError(invalid_part("record", expected, received))
    return twin


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
    axis = _input_axis(layer)
    if axis is None or not _takes(record, f"{path}/kernel", axis):
        return None
    return DynamicInput(copy_layer(layer))


def _recurrent(path: str, layer: keras.Layer, record: CompressionRecord) -> keras.Layer | None:
    """Returns the quantized form of a recurrent layer whose two kernels take rounded rows."""
    names = [f"{path}/{layer.cell.name}/{name}" for name in ("kernel", "recurrent_kernel")]
    if not all(_takes(record, name, 0) for name in names):
        return None
    config = {**config_of(layer), "dynamic_products": True}
    return recreate(layer, config, QUANTIZED.get(type(layer), type(layer)))


def _input_axis(layer: keras.Layer) -> int | None:
    """Returns the axis of a kernel that a product over the last axis of the input sums over; None without one."""
    if type(layer) is keras.layers.EinsumDense:
        left, right = layer.equation.replace(" ", "").split("->")
        source, kernel = left.split(",")
        is_row = source[-1] in kernel and source[-1] not in right and not set(source[:-1].strip(".")) & set(kernel)
        return kernel.index(source[-1]) if is_row else None
    if type(layer) in (keras.layers.Conv1D, keras.layers.Conv2D):
        sizes = (*layer.kernel_size, *layer.strides, *layer.dilation_rate, layer.groups)
        return layer.rank if set(sizes) == {1} and layer.data_format == "channels_last" else None
    return 0 if type(layer) is keras.layers.Dense else None


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
