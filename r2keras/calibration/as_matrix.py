"""Matrix form of layers that are linear in their kernel: `outputs = patches @ matrix`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeGuard

import keras
import numpy as np
from keras import layers, ops

from r2keras._models import rebuild, walk

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
LINEAR = (layers.Dense, layers.EinsumDense, *CONVOLUTIONS, *TRANSPOSED, *DEPTHWISE, *SEPARABLE)


@dataclasses.dataclass(frozen=True)
class MatrixForm:
    """A kernel of a layer as one matrix per group: `outputs[n, g] = patches[n, g] @ matrix[g]`.

    Args:
        patches: converts inputs of the layer to an array (rows, groups, fan_in).
        to_matrix: converts a kernel to (groups, fan_in, outputs).
        to_kernel: the inverse of `to_matrix`.
        spread: the approximate number of patch values per input value.
    """

    patches: Callable[[Any], np.ndarray]
    to_matrix: Callable[[np.ndarray], np.ndarray]
    to_kernel: Callable[[np.ndarray], np.ndarray]
    spread: int = 1


def is_linear(layer: keras.Layer | None) -> TypeGuard[keras.Layer]:
    """Whether a layer's outputs before the activation are linear in each of its kernels."""
    # An activation with weights, such as PReLU as a layer, cannot be taken out of the layer.
    return isinstance(layer, LINEAR) and not getattr(getattr(layer, "activation", None), "weights", None)


def output_axis(layer: keras.Layer) -> int:
    """Returns the channel axis of a linear layer's outputs; not for EinsumDense."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


def output_kernel(layer: keras.Layer) -> keras.Variable:
    """Returns the kernel with the layer's output channels; not for EinsumDense."""
    return layer.pointwise_kernel if isinstance(layer, SEPARABLE) else layer.kernel


def per_output(layer: keras.Layer, values: np.ndarray) -> np.ndarray:
    """Reshapes one value per output channel to broadcast against `output_kernel`."""
    shape = output_kernel(layer).shape
    if isinstance(layer, DEPTHWISE):
        return values.reshape(shape[-2:])
    return values[:, None] if isinstance(layer, TRANSPOSED) else values


def with_bias(layer: keras.Layer) -> keras.Layer:
    """Returns an unbuilt copy of a linear layer that has a bias; not for EinsumDense."""
    return rebuild.copy_layer(layer, use_bias=True)


def carry_kernels(path: str, old: keras.Layer, new: keras.Layer) -> None:
    """Copies a layer's weights to a plain copy or to one from `with_bias`, whose new bias keeps its start value."""
    if len(old.weights) == len(new.weights):
        rebuild.transfer(path, old, new)
        return
    for (_, source), (_, target) in zip(walk.kernels(old), walk.kernels(new), strict=True):
        target.assign(ops.convert_to_numpy(source))


def matrix_form(layer: keras.Layer, name: str) -> MatrixForm:
    """Returns a kernel of a built linear layer as matrices.

    Args:
        layer: a layer for which `is_linear` holds.
        name: the kernel's name relative to the layer, as `walk.kernels` returns it.

    Example:

    >>> layer = layers.Conv1D(3, 2, use_bias=False)
    >>> x = np.random.default_rng(0).normal(size=(1, 4, 5)).astype("float32")
    >>> y = ops.convert_to_numpy(layer(x))
    >>> form = matrix_form(layer, "kernel")
    >>> z = form.patches(x) @ form.to_matrix(ops.convert_to_numpy(layer.kernel))[0]
    >>> bool(np.allclose(z.reshape(y.shape), y, atol=1e-5))
    True
    """
    if isinstance(layer, SEPARABLE):
        return _separable(layer, name)
    if isinstance(layer, DEPTHWISE):
        return _depthwise(layer, type(layer), layer.kernel.shape)
    if isinstance(layer, CONVOLUTIONS):
        return _convolution(layer)
    if isinstance(layer, TRANSPOSED):
        return _transposed(layer)
    return _einsum(layer) if isinstance(layer, layers.EinsumDense) else _dense(layer.kernel.shape)


def numpy(tensor: Any) -> np.ndarray:
    """Returns a tensor as a float32 array."""
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))


def _dense(shape: tuple[int, ...]) -> MatrixForm:
    """Returns the matrix form of a matrix product along the last axis."""
    shape = tuple(shape)
    fan_in = math.prod(shape[:-1])
    return MatrixForm(
        lambda x: numpy(x).reshape(-1, 1, fan_in),
        lambda kernel: kernel.reshape(1, fan_in, shape[-1]),
        lambda matrix: matrix.reshape(shape),
    )


def _convolution(layer: keras.Layer) -> MatrixForm:
    """Returns the matrix form of a convolution; one-hot filters, one per filter entry, give the patches."""
    *rest, outputs = layer.kernel.shape
    fan_in, groups = math.prod(rest), layer.groups
    one_hot = np.tile(np.eye(fan_in, dtype=np.float32), groups).reshape(*rest, groups * fan_in)
    patches = _patches(type(layer), layer, {"filters": groups * fan_in}, one_hot)
    return MatrixForm(
        lambda x: patches(x).reshape(-1, groups, fan_in),
        lambda kernel: kernel.reshape(fan_in, groups, outputs // groups).transpose(1, 0, 2),
        lambda matrix: matrix.transpose(1, 0, 2).reshape(*rest, outputs),
        math.prod(rest[:-1]),
    )


def _transposed(layer: keras.Layer) -> MatrixForm:
    """Returns the matrix form of a transposed convolution, whose kernel has its inputs on the last axis."""
    *positions, outputs, inputs = layer.kernel.shape
    fan_in = math.prod(positions) * inputs
    one_hot = np.moveaxis(np.eye(fan_in, dtype=np.float32).reshape(*positions, inputs, fan_in), -1, -2)
    patches = _patches(type(layer), layer, {"filters": fan_in}, one_hot)
    return MatrixForm(
        lambda x: patches(x).reshape(-1, 1, fan_in),
        lambda kernel: np.moveaxis(kernel, -1, -2).reshape(1, fan_in, outputs),
        lambda matrix: np.moveaxis(matrix.reshape(*positions, inputs, outputs), -1, -2),
        math.prod(positions) * math.prod(layer.strides),
    )


def _depthwise(layer: keras.Layer, kind: type, shape: tuple[int, ...]) -> MatrixForm:
    """Returns the matrix form of a depthwise kernel, in which every input channel is a group."""
    *positions, inputs, multiplier = shape
    fan_in = math.prod(positions)
    one_hot = np.eye(fan_in, dtype=np.float32).reshape(*positions, 1, fan_in)
    one_hot = np.broadcast_to(one_hot, (*positions, inputs, fan_in))
    patches = _patches(kind, layer, {"depth_multiplier": fan_in}, one_hot)
    return MatrixForm(
        lambda x: patches(x).reshape(-1, inputs, fan_in),
        lambda kernel: kernel.reshape(fan_in, inputs, multiplier).transpose(1, 0, 2),
        lambda matrix: matrix.transpose(1, 0, 2).reshape(*positions, inputs, multiplier),
        fan_in,
    )


def _separable(layer: keras.Layer, name: str) -> MatrixForm:
    """Returns the matrix form of the depthwise kernel, or of the pointwise kernel after the layer's depthwise part."""
    kind = DEPTHWISE[SEPARABLE.index(next(kind for kind in SEPARABLE if isinstance(layer, kind)))]
    if name == "depthwise_kernel":
        return _depthwise(layer, kind, layer.depthwise_kernel.shape)
    middle = _patches(kind, layer, {"depth_multiplier": layer.depth_multiplier}, numpy(layer.depthwise_kernel))
    dense = _dense(layer.pointwise_kernel.shape)
    return dataclasses.replace(dense, patches=lambda x: dense.patches(middle(x)), spread=layer.depth_multiplier)


def _einsum(layer: keras.layers.EinsumDense) -> MatrixForm:
    """Returns the matrix form of an EinsumDense.

    Kernel letters that the inputs and outputs share are groups; those that only the inputs share are summed.
    """
    inputs, kernel, output = _equation(layer.equation)
    group_letters = [letter for letter in kernel if letter in inputs and letter in output]
    summed_letters = [letter for letter in kernel if letter not in output]
    output_letters = [letter for letter in kernel if letter not in inputs]
    sizes = dict(zip(kernel, layer.kernel.shape, strict=True))
    groups = math.prod(sizes[letter] for letter in group_letters)
    fan_in = math.prod(sizes[letter] for letter in summed_letters)
    permutation = [kernel.index(letter) for letter in [*group_letters, *summed_letters, *output_letters]]
    permuted_shape = tuple(layer.kernel.shape[axis] for axis in permutation)

    def patches(x: Any) -> np.ndarray:
        # "0" stands for each axis that the ellipsis covers.
        ellipsis_rank = len(x.shape) - len(inputs.replace("...", ""))
        letters = inputs.replace("...", "0" * ellipsis_rank)
        rows = [axis for axis, letter in enumerate(letters) if letter not in kernel]
        axes = rows + [letters.index(letter) for letter in [*group_letters, *summed_letters]]
        return numpy(x).transpose(axes).reshape(-1, groups, fan_in)

    return MatrixForm(
        patches,
        lambda values: values.transpose(permutation).reshape(groups, fan_in, -1),
        lambda matrix: matrix.reshape(permuted_shape).transpose(np.argsort(permutation)),
    )


def _equation(equation: str) -> tuple[str, str, str]:
    """Returns the letters of the inputs, the kernel and the output of an equation such as "ab,bc->ac"."""
    inputs, output = equation.replace(" ", "").split("->")
    left, kernel = inputs.split(",")
    return left, kernel, output


def _patches(
    kind: type, layer: keras.Layer, changes: dict[str, int], kernel: np.ndarray
) -> Callable[[Any], np.ndarray]:
    """Returns a function that applies another kernel with a layer's strides and padding, with the channels last."""
    keys = ("kernel_size", "strides", "padding", "data_format", "dilation_rate", "groups", "output_padding")
    config = {key: value for key, value in layer.get_config().items() if key in keys}
    if kind not in CONVOLUTIONS:
        config.pop("groups", None)
    probe = kind(**{**config, **changes}, use_bias=False, dtype="float32")

    def run(x: Any) -> np.ndarray:
        x = ops.cast(x, "float32")
        if not probe.built:
            probe.build(tuple(x.shape))
            probe.kernel.assign(kernel)
        outputs = numpy(probe(x))
        return np.moveaxis(outputs, 1, -1) if layer.data_format == "channels_first" else outputs

    return run
