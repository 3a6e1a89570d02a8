"""Products of rows in layers, and layers that round these rows at run time."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras
from keras import ops

from r2keras._models.keras_internals import parts_of
from r2keras._models.rebuild import copy_bidirectional, copy_layer, rebuild
from r2keras._models.walk import ModelView, relative_weights, view_of
from r2keras.ops.dynamic import dynamic_quantize

SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
    """A product of rows with a kernel.

    Args:
        layer: the layer that computes it, itself or inside another one.
        kernel: the kernel.
        kernel_axes: the axes of the kernel that it sums over, non-negative.
        row_axes: the axes of a tensor along which its rows lie, negative, or non-negative in front of an ellipsis: of
            the input of `layer`; in a separable convolution, of the output of the depthwise one.
    """

    layer: keras.Layer
    kernel: keras.Variable
    kernel_axes: tuple[int, ...]
    row_axes: tuple[int, ...] = (-1,)

    def rounded_call(self) -> Callable[..., Any]:
        """Returns the `call` of the layer on rows that `ops.dynamic_quantize` has rounded."""
        layer, call = self.layer, self.layer.call
        if isinstance(layer, SEPARABLE):
            return lambda inputs: _separable_call(layer, inputs)
        return lambda inputs, *args, **kwargs: call(dynamic_quantize(inputs, axis=self.row_axes), *args, **kwargs)


def products(layer: keras.Layer) -> dict[str, Product]:
    """Returns the products of rows that a layer computes, itself or by layers inside it.

    These are `Dense`, `EinsumDense` without an axis that the input, the kernel and the output share, convolutions of
    one pixel, the second half of separable convolutions, and all of these inside layers of Keras: the projections of
    `MultiHeadAttention` and `GroupQueryAttention`, the layer of a `TimeDistributed`. Recurrent cells are not among
    them, nor are layers inside a layer that is not Keras' own.

    Args:
        layer: a built layer.

    Returns:
        The products by the names of their kernels relative to the layer.

    Example:

    >>> layer = keras.layers.MultiHeadAttention(2, 4)
    >>> layer.build((None, 5, 8), (None, 5, 8))
    >>> {name: product.row_axes for name, product in products(layer).items()}
    {'query/kernel': (-1,), 'key/kernel': (-1,), 'value/kernel': (-1,), 'attention_output/kernel': (-2, -1)}
    """
    parts = parts_of(layer)
    if not all(type(part).__module__.partition(".")[0] == "keras" for part in parts):
        return {}
    by_kernel = {id(product.kernel): product for part in parts for product in _own_products(part)}
    return {name: by_kernel[id(v)] for name, v in relative_weights(layer) if id(v) in by_kernel}


def shared_products(view: ModelView) -> set[int]:
    """Returns the `id` of every kernel that another layer of Keras multiplies rows by than the one that owns it."""
    return {
        id(product.kernel)
        for tie in view.ties
        for product in products(view.layers_by_path[tie.path]).values()
        if any(product.kernel is variable for variable in tie.variables)
    }


@contextlib.contextmanager
def rounded_rows(layer: keras.Layer, kernels: Collection[str] | None = None) -> Iterator[None]:
    """Lets calls of a layer round the rows that some of its kernels multiply.

    Args:
        layer: a built layer.
        kernels: names of kernels in `products(layer)`; None stands for all.
    """
    chosen = [product for name, product in products(layer).items() if kernels is None or name in kernels]
    # Python finds an attribute of the instance before the method of its class. Keras would track the assignment.
    fields = {id(product.layer): vars(product.layer) for product in chosen}
    before = {key: own["call"] for key, own in fields.items() if "call" in own}
    for product in chosen:
        fields[id(product.layer)]["call"] = product.rounded_call()
    try:
        yield
    finally:
        for key, own in fields.items():
            del own["call"]
            own |= {"call": before[key]} if key in before else {}


def _own_products(layer: keras.Layer) -> list[Product]:
    """Returns the product that a layer computes itself, in a list; an empty list without one."""
    kind = type(layer)
    if not layer.built:
        return []
    if kind is keras.layers.EinsumDense:
        axes = einsum_axes(layer.equation)
        return [Product(layer, layer.kernel, *axes)] if axes else []
    if kind is keras.layers.Dense:
        return [Product(layer, layer.kernel, (0,))]
    if kind in SEPARABLE and layer.data_format == "channels_last":
        return [Product(layer, layer.pointwise_kernel, (layer.rank,))]
    if kind in (keras.layers.Conv1D, keras.layers.Conv2D) and layer.data_format == "channels_last":
        sizes = (*layer.kernel_size, *layer.strides, *layer.dilation_rate, layer.groups)
        return [Product(layer, layer.kernel, (layer.rank,))] if set(sizes) == {1} else []
    return []


def einsum_axes(equation: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Returns the axes of an EinsumDense's kernel and of its input that it sums over.

    Args:
        equation: the layer's equation.

    Returns:
        None for an equation that is not a product of rows: input, kernel and output share an axis, or the input has one
        that only disappears.

    Example:

    >>> einsum_axes("abcd,cde->abe"), einsum_axes("abc,bcd->abd")
    (((0, 1), (-2, -1)), None)
    """
    left, right = equation.replace(" ", "").split("->")
    source, kernel = left.split(",")
    letters = source.replace("...", ".")
    summed = [letter for letter in letters if letter in kernel and letter not in right]
    if not summed or any((letter in kernel) == (letter in right) for letter in letters if letter != "."):
        return None
    is_behind = letters.index(".") if "." in letters else -1
    places = [letters.index(letter) for letter in summed]
    rows = tuple(place - len(letters) if place > is_behind else place for place in places)
    return tuple(sorted(kernel.index(letter) for letter in summed)), rows


def _separable_call(layer: keras.Layer, inputs: Any) -> Any:
    """Returns the output of a separable convolution, one operation in Keras, with rounded rows between its halves."""
    rows = ops.depthwise_conv(
        inputs, layer.depthwise_kernel, layer.strides, layer.padding, layer.data_format, layer.dilation_rate
    )
    outputs = ops.conv(dynamic_quantize(rows), layer.pointwise_kernel, 1, "valid", layer.data_format)
    outputs = outputs + ops.cast(layer.bias, outputs.dtype) if layer.use_bias else outputs
    return outputs if layer.activation is None else layer.activation(outputs)


def rounding_layers(view: ModelView) -> dict[str, keras.Layer]:
    """Returns the layers of a model that round the rows of their input at run time, by path."""
    return {path: layer for path, layer in view.layers if _rounds(layer)}


def without_rounding(view: ModelView) -> ModelView:
    """Returns a copy of a model in which no layer rounds rows at run time; the view itself if none does.

    Args:
        view: the model. Names and weights of the copy are the same.
    """
    paths = rounding_layers(view)
    if not paths:
        return view
    return view_of(rebuild(view, lambda path, layer: _plain(layer) if path in paths else None))


def _rounds(layer: keras.Layer) -> bool:
    """Whether a layer, or a half of a `Bidirectional`, rounds rows."""
    if isinstance(layer, keras.layers.Bidirectional):
        return _rounds(layer.forward_layer) or _rounds(layer.backward_layer)
    # Attributes rather than classes, which belong to a higher level.
    return bool(getattr(layer, "is_dynamic_input", False) or getattr(layer, "dynamic_products", False))


def _plain(layer: keras.Layer) -> keras.Layer:
    """Returns a new, unbuilt layer without the rounding."""
    if isinstance(layer, keras.layers.Bidirectional):
        return copy_bidirectional(layer, _plain(layer.forward_layer), _plain(layer.backward_layer))
    if getattr(layer, "is_dynamic_input", False):
        new = copy_layer(layer.layer)
        new.name = layer.name
        return new
    return copy_layer(layer, dynamic_products=False) if _rounds(layer) else copy_layer(layer)
