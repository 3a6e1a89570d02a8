"""The Keras model that computes what a file with `activations="dynamic"` computes."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping

import keras
import numpy as np

from r2keras._models.keras_internals import parts_of
from r2keras._models.layer_copies import copy_layer
from r2keras._models.rebuild import copy_bidirectional, rebuild
from r2keras._models.row_products import products, rounding_layers
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

    Recorded kernels of `Dense`, `EinsumDense`, pointwise `Conv1D` and `Conv2D`, `LSTM`, `GRU`, `SimpleRNN` and of these
    recurrent layers in a `Bidirectional` get inputs that `ops.dynamic_quantize` has rounded row by row, along all axes
    that an `EinsumDense` sums over. So do the projections in `MultiHeadAttention` and `GroupQueryAttention`, the
    products in a `TimeDistributed`, and the pointwise half of a separable convolution. Layers that are not Keras' own
    compute as they are, though the file rounds rows in them too where it can.
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

    Warns:
        UserWarning: kernels in front of which the copy and the file may round other rows, by name: those of layers that
            are not Keras' own, and those that several layers use.

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
    view = view_of(model)
    twin = with_rounding(view, record)
    if not rounding_layers(twin):
        expected = "a record with a symmetric kernel or a small palette of a Dense, recurrent or pointwise layer"
        received = f"the record of {', '.join(map(repr, record.tensors)) or 'no weight'}"
        raise ValueError(invalid_part("record", expected, received))
    _warn_of_others(view, twin, record)
    return twin.model


def with_rounding(view: ModelView, record: CompressionRecord) -> ModelView:
    """Returns a copy of a model that rounds rows in front of the kernels of a record.

    Args:
        view: a finalized model. Layers that round rows already stay as they are.
        record: its record. If it has kernels of `activation_method="dynamic"`, only these count.
    """
    record = _packed(record)
    return view_of(rebuild(view, lambda path, layer: _twin(path, layer, record)))


def with_rounding_at(view: ModelView, layers: Mapping[str, keras.Layer]) -> ModelView:
    """Returns a copy of a model in which layers at some paths round the rows that other layers round, by path."""

    def replace(path: str, layer: keras.Layer) -> keras.Layer | None:
        return _rounding(layer, getattr(layers[path], "kernels", None)) if path in layers else None

    return view_of(rebuild(view, replace))


def _packed(record: CompressionRecord) -> CompressionRecord:
    """Returns the part of a record whose codes products take: its dynamic kernels, or all if it has none."""
    chosen = record.dynamic_kernels or tuple(record.tensors)
    return dataclasses.replace(record, tensors={name: record.tensors[name] for name in chosen})


def _rounding(layer: keras.Layer, kernels: tuple[str, ...] | None = None) -> keras.Layer:
    """Returns the form of a layer that rounds rows: of a recurrent layer, or in front of some kernels of another."""
    return with_dynamic_products(layer) if halves_of(layer) else DynamicInput(copy_layer(layer), kernels)


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
    known = products(layer)
    taken = tuple(name for name, product in known.items() if _takes(record, f"{path}/{name}", product.kernel_axes))
    if not taken:
        return None
    return _rounding(layer, taken if len(taken) < len(known) else None)


def _recurrent(path: str, layer: keras.Layer, record: CompressionRecord) -> keras.Layer | None:
    """Returns the quantized form of a recurrent layer whose two kernels take rounded rows."""
    names = [f"{path}/{layer.cell.name}/{name}" for name in ("kernel", "recurrent_kernel")]
    if not all(_takes(record, name, (0,)) for name in names):
        return None
    return _rounding(layer)


def _takes(record: CompressionRecord, name: str, axes: tuple[int, ...]) -> bool:
    """Whether products take the codes of a weight: a grid around zero or planes of signs, the same along some axes."""
    tensor = record.tensors.get(name)
    if tensor is None or any(np.shape(tensor.scale)[axis] > 1 for axis in axes):
        return False
    if isinstance(tensor, PalettizedTensor):
        return sign_planes(tensor) is not None and not np.ptp(tables_of(tensor), axis=axes).any()
    zero_point, codes = np.asarray(tensor.zero_point), tensor.codes.astype(np.int16)
    if np.all(zero_point == -0.5):
        codes = 2 * codes + 1
    elif np.any(zero_point):
        return False
    return bool(np.abs(codes).max(initial=0) <= LARGEST)


def _warn_of_others(view: ModelView, twin: ModelView, record: CompressionRecord) -> None:
    """Warns of kernels in front of which the twin and the file may round other rows."""
    names = [*_others(view, twin, _packed(record))]
    if names:
        warnings.warn(
            f"The twin and the file may round other rows in front of {', '.join(names)}: r2keras knows the products of "
            "Keras' own layers, of recurrent layers that the model calls directly, and of weights that one layer uses. "
            "Leave these kernels float, or use activation_method='dynamic' for the others alone.",
            UserWarning,
            stacklevel=3,
        )


def _others(view: ModelView, twin: ModelView, record: CompressionRecord) -> Iterator[str]:
    """Yields the kernels whose products the twin does not know, or that several layers use."""
    rounding, shared = rounding_layers(twin), {id(v) for tie in view.ties for v in tie.variables}
    for path, layer in view.layers:
        known = products(layer)
        for kernel in view.kernels_in(path):
            name = kernel.full_name
            if kernel.name in known:
                is_other = id(kernel.variable) in shared and _takes(record, name, known[kernel.name].kernel_axes)
            else:
                is_other = path not in rounding and _may_multiply(layer, kernel.variable) and _takes(record, name, ())
            if is_other:
                yield name


def _may_multiply(layer: keras.Layer, kernel: keras.Variable) -> bool:
    """Whether a kernel without a known product may multiply rows: not one of a convolution or embedding of Keras."""
    *_, owner = (part for part in parts_of(layer) if any(weight is kernel for weight in part.weights))
    if type(owner).__module__.partition(".")[0] != "keras":
        return True
    # The cells of recurrent convolutions of one pixel are products.
    is_cell = "Cell" in type(owner).__name__ and set(getattr(owner, "kernel_size", (1,))) == {1}
    return is_cell or not type(owner).__name__.startswith(("Conv", "Depthwise", "Separable", "Embed", "Einsum"))
