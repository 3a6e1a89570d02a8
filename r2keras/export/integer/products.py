"""Affine functions per channel and average pools as depthwise convolutions of integers, which round once."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.integer.adoption import quantize_outputs
from r2keras.export.integer.kernel import FINEST, check_ratio
from r2keras.export.tflite.activation_grid import grid_of, set_grid
from r2keras.export.tflite.integer_operators import RULES
from r2keras.export.tflite.schema import FLOAT32, INT8, INT32, operator, quantization, values_of
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import OperatorT

LARGEST = 127
# Of the schema's `Padding`.
VALID = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Affine:
    """Operators that compute `factor * x + offset` per channel, then the fused activation function of the last.

    Args:
        source: the tensor `x`.
        output: the tensor that they compute.
        factor: one entry per index along the last axis.
        offset: likewise.
        operators: one or two operators.
    """

    source: int
    output: int
    factor: np.ndarray
    offset: np.ndarray
    operators: tuple[OperatorT, ...]

    @property
    def activation(self) -> int:
        """The code of the fused activation function."""
        return int(self.operators[-1].builtinOptions.fusedActivationFunction)


def squares_as_products(graph: Subgraph) -> None:
    """Makes every SQUARE that is quantized a MUL, which has an integer form; those of normalizations stay float."""
    quantized = quantize_outputs(graph)
    for op in list(graph.operators):
        if graph.kind(op) == "SQUARE" and outputs_of(op)[0] in quantized:
            graph.replace(op, [operator(graph.file, "MUL", 1, inputs_of(op) * 2, outputs_of(op), "MulOptions")])


def affine_at(graph: Subgraph, op: OperatorT) -> Affine | None:
    """Returns the affine function that starts at an operator; None if there is none.

    A batch normalization that is not part of a convolution is one, MUL and ADD with constants; a normalization of
    inputs is another, SUB and MUL.
    """
    first = _term(graph, op)
    if first is None:
        return None
    source, factor, offset = first
    output = outputs_of(op)[0]
    consumers = graph.consumers(output)
    plain = not op.builtinOptions.fusedActivationFunction
    if plain and len(consumers) == 1 and not graph.is_output(output):
        second = _term(graph, consumers[0])
        if second is not None:
            offset = second[1] * offset + second[2]
            factor = second[1] * factor
            return Affine(source, outputs_of(consumers[0])[0], factor, offset, (op, consumers[0]))
    return Affine(source, output, factor, offset, (op,))


def _term(graph: Subgraph, op: OperatorT) -> tuple[int, np.ndarray, np.ndarray] | None:
    """Returns the input of a MUL, ADD or SUB with a constant per channel, and its factor and offset, in float64."""
    kind, operands = graph.kind(op), inputs_of(op)
    if kind not in ("MUL", "ADD", "SUB"):
        return None
    constant = [graph.is_constant(tensor) for tensor in operands]
    if constant.count(True) != 1:
        return None
    source, tensor = (operands[constant.index(value)] for value in (False, True))
    channels = graph.shape(source)[-1:]
    values = values_of(graph.file, graph.tensor(tensor)) if graph.tensor(tensor).type == FLOAT32 else None
    if not channels or channels[0] < 1 or values is None or values.size not in (1, channels[0]):
        return None
    if values.size > 1 and values.shape[-1] != values.size:
        return None
    if graph.shape(source) != graph.shape(outputs_of(op)[0]) or not np.isfinite(values).all():
        return None
    values = np.broadcast_to(values.ravel().astype(np.float64), channels)
    one, zero = np.ones(channels), np.zeros(channels)
    if kind == "MUL":
        return source, values, zero
    if kind == "ADD":
        return source, one, values
    return (source, one, -values) if constant[1] else (source, -one, values)


def fits(graph: Subgraph, affine: Affine) -> bool:
    """Whether a depthwise convolution can compute an affine function: of images, or of known sizes."""
    return len(graph.shape(affine.source)) == 4 or min(signature(graph, affine.source)[1:], default=-1) > 0


def affine_operators(graph: Subgraph, affine: Affine, tensors: tuple[int, int]) -> list[OperatorT]:
    """Returns the depthwise convolution of one pixel that computes an affine function, between reshapes if needed.

    Args:
        graph: the first subgraph.
        affine: factors and offsets.
        tensors: int8 input and output.
    """
    source, target = tensors
    kernel, activation = affine.factor[None, None], affine.activation
    if len(graph.shape(source)) == 4:
        return [_depthwise(graph, tensors, kernel, affine.offset, activation=activation)]
    shape = signature(graph, affine.output)[1:]
    image = (1, math.prod(shape[:-1]), shape[-1])
    before, after = (_tensor(graph, image, like=tensor) for tensor in tensors)
    return [
        _reshape(graph, source, before, image),
        _depthwise(graph, (before, after), kernel, affine.offset, activation=activation),
        _reshape(graph, after, target, shape),
    ]


def is_plain_average(graph: Subgraph, op: OperatorT) -> bool:
    """Whether an operator is an average pool without padding."""
    is_pool = graph.kind(op) == "AVERAGE_POOL_2D" and op.builtinOptions.padding == VALID
    return is_pool and graph.shape(inputs_of(op)[0])[-1] > 0


def is_global_average_pool(graph: Subgraph, kind: str, op: OperatorT) -> bool:
    """Whether an operator pools all of height and width by their average, so that MEAN can replace it."""
    if kind != "AVERAGE_POOL_2D":
        return False
    input_size, output_size = (graph.shape(tensor)[1:3] for tensor in (inputs_of(op)[0], outputs_of(op)[0]))
    options = op.builtinOptions
    covers_input = input_size == (options.filterHeight, options.filterWidth)
    return output_size == (1, 1) and covers_input and not options.fusedActivationFunction


def average_operator(graph: Subgraph, op: OperatorT, tensors: tuple[int, int]) -> OperatorT:
    """Returns the depthwise convolution that computes an average pool between two int8 tensors."""
    options = op.builtinOptions
    size = (int(options.filterHeight), int(options.filterWidth), graph.shape(tensors[0])[-1])
    kernel, offset = np.full(size, 1.0 / (size[0] * size[1])), np.zeros(size[-1])
    stride = (int(options.strideH), int(options.strideW))
    activation = int(options.fusedActivationFunction)
    return _depthwise(graph, tensors, kernel, offset, stride=stride, activation=activation)


def signature(graph: Subgraph, tensor: int) -> tuple[int, ...]:
    """Returns the shape of a tensor with -1 for open sizes."""
    sizes = graph.tensor(tensor).shapeSignature
    return graph.shape(tensor) if sizes is None else tuple(int(size) for size in sizes)


def _tensor(graph: Subgraph, shape: tuple[int, ...], like: int) -> int:
    """Adds an int8 tensor of an open number of samples, on the grid of another one."""
    index = graph.add_tensor((1, *shape), INT8)
    graph.tensor(index).shapeSignature = np.asarray((-1, *shape), np.int32)
    set_grid(graph.tensor(index), grid_of(graph.tensor(like)))
    return index


def _reshape(graph: Subgraph, source: int, output: int, shape: tuple[int, ...]) -> OperatorT:
    """Returns a RESHAPE of an open number of samples."""
    sizes = np.asarray((-1, *shape), np.int32)
    inputs = [source, graph.add_tensor(sizes.shape, INT32, sizes)]
    return operator(graph.file, "RESHAPE", RULES["RESHAPE"].version, inputs, [output], newShape=sizes)


def _depthwise(
    graph: Subgraph,
    tensors: tuple[int, int],
    kernel: np.ndarray,
    offset: np.ndarray,
    *,
    stride: tuple[int, int] = (1, 1),
    activation: int = 0,
) -> OperatorT:
    """Returns a depthwise convolution of integers whose weights are equal within a channel, and thus exact.

    Args:
        graph: the first subgraph.
        tensors: int8 input and output of rank 4.
        kernel: float64 of shape `(height, width, channels)`.
        offset: float64, one entry per channel.
        stride: of height and width.
        activation: the code of the fused activation function.

    Raises:
        NotIntegerError: the output's grid is too fine for the input's.
    """
    grid_in, grid_out = (grid_of(graph.tensor(tensor)) for tensor in tensors)
    # As in `kernel.integer_kernel`: the bias fits in int32, and products do not vanish within a step of the output.
    finest = FINEST * np.maximum(np.abs(offset), grid_out.scale) / grid_in.scale
    scale = np.maximum(np.abs(kernel).max(axis=(0, 1)) / LARGEST, finest).astype(np.float32)
    check_ratio(grid_in.scale * float(scale.max()), grid_out)
    codes = np.rint(kernel / scale.astype(np.float64)).astype(np.int8)[None]
    weight = graph.add_tensor(codes.shape, INT8, codes)
    graph.tensor(weight).quantization = quantization(scale, axis=3)
    steps = np.float32(grid_in.scale) * scale
    bias = graph.add_tensor(offset.shape, INT32, np.rint(offset / steps.astype(np.float64)).astype(np.int32))
    graph.tensor(bias).quantization = quantization(steps)
    options = {"padding": VALID, "strideH": stride[0], "strideW": stride[1], "depthMultiplier": 1}
    options |= {"dilationHFactor": 1, "dilationWFactor": 1, "fusedActivationFunction": activation}
    inputs, version = [tensors[0], weight, bias], RULES["DEPTHWISE_CONV_2D"].version
    return operator(graph.file, "DEPTHWISE_CONV_2D", version, inputs, [tensors[1]], "DepthwiseConv2DOptions", **options)
