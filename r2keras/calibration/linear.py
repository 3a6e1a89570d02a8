"""Layers that are linear in their kernel, each seen as one matrix product: `outputs = patches @ matrix`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import keras
import numpy as np
from keras import layers, ops

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
LINEAR = (layers.Dense, layers.EinsumDense, *CONVOLUTIONS, *TRANSPOSED, *DEPTHWISE, *SEPARABLE)


@dataclasses.dataclass(frozen=True)
class View:
    """One kernel of a layer as a matrix a group: `outputs[n, g] = patches[n, g] @ matrix[g]`.

    Args:
        patches: turns inputs of the layer into an array (rows, groups, fan_in).
        to_matrix: turns a kernel into (groups, fan_in, outputs).
        to_kernel: the inverse of `to_matrix`.
        spread: values of patches for one value of the inputs, about.
    """

    patches: Callable
    to_matrix: Callable[[np.ndarray], np.ndarray]
    to_kernel: Callable[[np.ndarray], np.ndarray]
    spread: int = 1


def is_linear(layer: keras.Layer) -> bool:
    """Whether a layer's outputs before the activation are linear in each of its kernels."""
    return isinstance(layer, LINEAR)


def output_axis(layer: keras.Layer) -> int:
    """Returns the axis of a linear layer's outputs that its bias runs along; not for EinsumDense."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


def output_kernel(layer: keras.Layer) -> keras.Variable:
    """Returns the kernel whose channels are the layer's outputs; not for EinsumDense."""
    return layer.pointwise_kernel if isinstance(layer, SEPARABLE) else layer.kernel


def per_output(layer: keras.Layer, values: np.ndarray) -> np.ndarray:
    """Reshapes one value an output channel to broadcast against `output_kernel`."""
    shape = output_kernel(layer).shape
    if isinstance(layer, DEPTHWISE):
        return values.reshape(shape[-2:])
    return values[:, None] if isinstance(layer, TRANSPOSED) else values


def view(layer: keras.Layer, name: str) -> View:
    """Returns one kernel of a built linear layer as a matrix.

    Args:
        layer: a layer for which `is_linear` holds.
        name: the kernel's name relative to the layer, as `_model.kernels` gives it.

    Returns:
        The view.

    Example:

    >>> layer = layers.Conv1D(3, 2, use_bias=False)
    >>> x = np.random.default_rng(0).normal(size=(1, 4, 5)).astype("float32")
    >>> y = ops.convert_to_numpy(layer(x))
    >>> seen = view(layer, "kernel")
    >>> z = seen.patches(x) @ seen.to_matrix(ops.convert_to_numpy(layer.kernel))[0]
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


def numpy(tensor) -> np.ndarray:
    """Returns a tensor as float32."""
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))


def _dense(shape: tuple[int, ...]) -> View:
    """A matrix product along the last axis."""
    shape = tuple(shape)
    fan_in = math.prod(shape[:-1])
    return View(
        lambda x: numpy(x).reshape(-1, 1, fan_in),
        lambda kernel: kernel.reshape(1, fan_in, shape[-1]),
        lambda matrix: matrix.reshape(shape),
    )


def _convolution(layer: keras.Layer) -> View:
    """Patches are what the same convolution gives with one one-hot filter for every entry of a filter."""
    *rest, outputs = layer.kernel.shape
    fan_in, groups = math.prod(rest), layer.groups
    one_hot = np.tile(np.eye(fan_in, dtype=np.float32), groups).reshape(*rest, groups * fan_in)
    patches = _patches(type(layer), layer, {"filters": groups * fan_in}, one_hot)
    return View(
        lambda x: patches(x).reshape(-1, groups, fan_in),
        lambda kernel: kernel.reshape(fan_in, groups, outputs // groups).transpose(1, 0, 2),
        lambda matrix: matrix.transpose(1, 0, 2).reshape(*rest, outputs),
        math.prod(rest[:-1]),
    )


def _transposed(layer: keras.Layer) -> View:
    """As a convolution, whose kernel has its inputs last."""
    *places, outputs, inputs = layer.kernel.shape
    fan_in = math.prod(places) * inputs
    one_hot = np.moveaxis(np.eye(fan_in, dtype=np.float32).reshape(*places, inputs, fan_in), -1, -2)
    patches = _patches(type(layer), layer, {"filters": fan_in}, one_hot)
    return View(
        lambda x: patches(x).reshape(-1, 1, fan_in),
        lambda kernel: np.moveaxis(kernel, -1, -2).reshape(1, fan_in, outputs),
        lambda matrix: np.moveaxis(matrix.reshape(*places, inputs, outputs), -1, -2),
        math.prod(places) * math.prod(layer.strides),
    )


def _depthwise(layer: keras.Layer, kind: type, shape: tuple[int, ...]) -> View:
    """Every input channel is a group of its own."""
    *places, inputs, multiplier = shape
    fan_in = math.prod(places)
    one_hot = np.eye(fan_in, dtype=np.float32).reshape(*places, 1, fan_in)
    one_hot = np.broadcast_to(one_hot, (*places, inputs, fan_in))
    patches = _patches(kind, layer, {"depth_multiplier": fan_in}, one_hot)
    return View(
        lambda x: patches(x).reshape(-1, inputs, fan_in),
        lambda kernel: kernel.reshape(fan_in, inputs, multiplier).transpose(1, 0, 2),
        lambda matrix: matrix.transpose(1, 0, 2).reshape(*places, inputs, multiplier),
        fan_in,
    )


def _separable(layer: keras.Layer, name: str) -> View:
    """The depthwise part, or the pointwise part behind the layer's own depthwise kernel."""
    kind = DEPTHWISE[SEPARABLE.index(next(kind for kind in SEPARABLE if isinstance(layer, kind)))]
    if name == "depthwise_kernel":
        return _depthwise(layer, kind, layer.depthwise_kernel.shape)
    middle = _patches(kind, layer, {"depth_multiplier": layer.depth_multiplier}, numpy(layer.depthwise_kernel))
    dense = _dense(layer.pointwise_kernel.shape)
    return dataclasses.replace(dense, patches=lambda x: dense.patches(middle(x)), spread=layer.depth_multiplier)


def _einsum(layer: keras.layers.EinsumDense) -> View:
    """Letters of the kernel that only inputs share are summed, those that inputs and outputs share are groups."""
    inputs, kernel, output = _equation(layer.equation)
    order = [[c for c in kernel if c in inputs and c in output], [c for c in kernel if c not in output]]
    free = [c for c in kernel if c not in inputs]
    sizes = dict(zip(kernel, layer.kernel.shape, strict=True))
    groups, fan_in = (math.prod(sizes[c] for c in part) for part in order)
    permutation = [kernel.index(c) for c in [*order[0], *order[1], *free]]
    permuted = tuple(layer.kernel.shape[axis] for axis in permutation)

    def patches(x):
        ellipsis = len(x.shape) - len(inputs.replace("...", ""))
        places = inputs.replace("...", "0" * ellipsis)
        rows = [axis for axis, c in enumerate(places) if c not in kernel]
        axes = rows + [places.index(c) for c in [*order[0], *order[1]]]
        return numpy(x).transpose(axes).reshape(-1, groups, fan_in)

    return View(
        patches,
        lambda values: values.transpose(permutation).reshape(groups, fan_in, -1),
        lambda matrix: matrix.reshape(permuted).transpose(np.argsort(permutation)),
    )


def _equation(equation: str) -> tuple[str, str, str]:
    """Splits "ab,bc->ac" into its three parts."""
    inputs, output = equation.replace(" ", "").split("->")
    left, kernel = inputs.split(",")
    return left, kernel, output


def _patches(kind: type, layer: keras.Layer, changes: dict, kernel: np.ndarray) -> Callable:
    """Returns a function that runs a layer's geometry with another kernel and puts the channels last."""
    keys = ("kernel_size", "strides", "padding", "data_format", "dilation_rate", "groups", "output_padding")
    config = {key: value for key, value in layer.get_config().items() if key in keys}
    if kind not in CONVOLUTIONS:
        config.pop("groups", None)
    probe = kind(**{**config, **changes}, use_bias=False, dtype="float32")

    def run(x) -> np.ndarray:
        x = ops.cast(x, "float32")
        if not probe.built:
            probe.build(tuple(x.shape))
            probe.kernel.assign(kernel)
        outputs = numpy(probe(x))
        return np.moveaxis(outputs, 1, -1) if layer.data_format == "channels_first" else outputs

    return run
