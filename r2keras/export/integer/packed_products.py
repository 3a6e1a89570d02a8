"""Convolutions of 4-bit weights as FULLY_CONNECTED, whose packed kernels are as fast as those of 8 bits.

XNNPACK runs FULLY_CONNECTED on 4- and 2-bit weights, but no convolution: LiteRT's built-in kernels do, and unpack the
weights at every call. A convolution of one pixel is such a product, whose rows are the pixels. A larger one is, once
the patches of its input lie side by side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.integer.weights import IntegerWeight
from r2keras.export.tflite.activation_grid import grid_of, set_grid
from r2keras.export.tflite.bit_packing import pack
from r2keras.export.tflite.integer_operators import RULES
from r2keras.export.tflite.schema import INT8, INT32, TYPES, operator, quantization, set_data, set_kind
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import OperatorT

# Index constants that the operators share: shape and bytes -> tensor.
Constants = dict[tuple[tuple[int, ...], bytes], int]
# Of the schema's `Padding`.
SAME = 0
# Scales per channel from version 12 on, 2-bit weights from 14 on.
VERSIONS = {8: 12, 4: 12, 2: 14}
# With fewer input channels, patches cost more than the packed kernel saves (x86, `benchmarks/fast_bits.py`).
FEWEST_CHANNELS = 16
# With fewer than these, XNNPACK fills most of its vectors with zeros, and the built-in 4-bit kernel is faster.
FEWEST_FOR_XNNPACK = 3
# XNNPACK takes 2-bit rows of a multiple of four weights; in 4-bit rows of an odd number, it rounds some sums up.
ROW_MULTIPLES = {8: 1, 4: 2, 2: 4}


def pack_products(graph: Subgraph, weights: Sequence[IntegerWeight]) -> None:
    """Gives every weight of 4 bits or less the operator that runs it fastest, and the narrowest integers it takes.

    - FULLY_CONNECTED, and convolutions with 16 input channels or more: FULLY_CONNECTED, 2-bit codes in 2-bit integers.
    - Depthwise convolutions and those of 3 to 15 channels: codes in 8-bit integers, which XNNPACK runs.
    - Convolutions of one or two channels: as they are.

    Args:
        graph: the first subgraph, edited in place.
        weights: its integer weights; their tensors keep their indices.
    """
    constants: Constants = {}
    for weight in weights:
        if weight.kernel.bits == 8:
            continue
        for op in list(graph.consumers(weight.tensors[0])):
            _pack(graph, op, weight, constants)


def _pack(graph: Subgraph, op: OperatorT, weight: IntegerWeight, constants: Constants) -> None:
    """Replaces one operator, or widens its weight."""
    kind, codes = graph.kind(op), weight.kernel.codes
    is_product = kind == "FULLY_CONNECTED"
    window = None if kind != "CONV_2D" else _window(graph, op, codes.shape)
    if is_product or (window is not None and window.channels >= FEWEST_CHANNELS):
        # A product may flatten its input; its rows then do not lie along the last axis.
        has_rows = not is_product or graph.shape(inputs_of(op)[0])[-1] == codes.shape[1]
        bits, extra = _store(graph, weight, has_rows)
        patches = _Patches(graph, inputs_of(op)[0], constants)
        if window is not None:
            patches.lay(window)
        patches.lengthen(extra)
        keeps_rank = not is_product or bool(op.builtinOptions.keepNumDims)
        shares_scale = is_product and weight.kernel.scale.size == 1
        version = RULES["FULLY_CONNECTED"].narrow if shares_scale and bits == 4 else VERSIONS[bits]
        graph.replace(op, _product(graph, op, patches, keeps_rank, version))
    elif kind == "DEPTHWISE_CONV_2D" or codes.shape[-1] >= FEWEST_FOR_XNNPACK:
        tensor = graph.tensor(weight.tensors[0])
        set_data(graph.file, tensor, pack(codes, 8))
        tensor.type = INT8
        set_kind(graph.file, op, kind, RULES[kind].version)


def row_container(rows: np.ndarray, bits: int, can_lengthen: bool) -> tuple[int, int]:
    """Returns the width of the integers for rows of codes, and how many zeros each row needs at its end.

    Args:
        rows: codes, one row per output.
        bits: 4 or 8, a width that holds them.
        can_lengthen: whether zeros may be added.
    """
    fits = bits < 8 and rows.min(initial=0) >= -2 and rows.max(initial=0) <= 1
    widths = [width for width in (2, 4, 8) if width >= (2 if fits else bits)]
    extras = [(width, -rows.shape[1] % ROW_MULTIPLES[width]) for width in widths]
    return next((width, extra) for width, extra in extras if can_lengthen or not extra)


def _store(graph: Subgraph, weight: IntegerWeight, can_lengthen: bool) -> tuple[int, int]:
    """Stores codes as rows of a FULLY_CONNECTED; returns the width of the integers, and the zeros after each row."""
    tensor, codes = graph.tensor(weight.tensors[0]), weight.kernel.codes
    rows = codes.reshape(codes.shape[0], -1)
    bits, extra = row_container(rows, 4, can_lengthen)
    rows = np.pad(rows, ((0, 0), (0, extra)))
    tensor.shape = np.asarray(rows.shape, np.int32)
    set_data(graph.file, tensor, pack(rows, bits))
    tensor.type = TYPES[bits]
    if bits == 2 and weight.kernel.scale.size == 1:
        # XNNPACK takes 2-bit weights with one scale per row only; the bias has as many.
        for index in weight.tensors:
            if index >= 0:
                scale = np.broadcast_to(graph.tensor(index).quantization.scale, len(rows))
                graph.tensor(index).quantization = quantization(scale)
    return bits, extra


@dataclasses.dataclass(frozen=True)
class _Window:
    """What a convolution reads.

    Args:
        size: height and width of the kernel.
        stride: 1 or 2.
        padding: zeros before and after, of height and width, so that the padded sizes are multiples of the stride.
        channels: channels of the input.
        padded: height and width of the input with its padding.
        output: height and width of the output.
    """

    size: tuple[int, int]
    stride: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    channels: int
    padded: tuple[int, int]
    output: tuple[int, int]


def _window(graph: Subgraph, op: OperatorT, kernel: tuple[int, ...]) -> _Window | None:
    """Returns what a convolution reads; None if its patches cannot be laid side by side."""
    options, (source, *_) = op.builtinOptions, inputs_of(op)
    image, output = _sizes(graph, source), _sizes(graph, outputs_of(op)[0])
    stride, dilation = options.strideH, (options.dilationHFactor, options.dilationWFactor)
    grouped = graph.shape(source)[-1] != kernel[3]
    if stride not in (1, 2) or options.strideW != stride or dilation != (1, 1) or grouped:
        return None
    if kernel[1:3] == (1, 1) and stride == 1:
        return _Window((1, 1), 1, ((0, 0), (0, 0)), kernel[3], (0, 0), (0, 0))
    if min(*image, *output) < 1:
        return None
    padding, padded = [], []
    for size, taps, count in zip(image, kernel[1:3], output, strict=True):
        missing = max((count - 1) * stride + taps - size, 0) if options.padding == SAME else 0
        total = size + missing + (size + missing) % stride
        padding.append((missing // 2, total - size - missing // 2))
        padded.append(total)
    sizes = (padded[0], padded[1]), (output[0], output[1])
    return _Window((kernel[1], kernel[2]), stride, (padding[0], padding[1]), kernel[3], *sizes)


def _sizes(graph: Subgraph, tensor: int) -> tuple[int, int]:
    """Returns height and width of a tensor, -1 where they are open."""
    signature = graph.tensor(tensor).shapeSignature
    shape = graph.shape(tensor) if signature is None else signature
    return int(shape[1]), int(shape[2])


def _product(graph: Subgraph, op: OperatorT, patches: _Patches, keeps_rank: bool, version: int) -> list[OperatorT]:
    """Returns the operators that lay the patches side by side and multiply them by the weights."""
    activation = op.builtinOptions.fusedActivationFunction
    inputs, outputs = [patches.tensor, *inputs_of(op)[1:]], outputs_of(op)
    options = {"keepNumDims": keeps_rank, "fusedActivationFunction": activation}
    product = operator(graph.file, "FULLY_CONNECTED", version, inputs, outputs, "FullyConnectedOptions", **options)
    return [*patches.operators, product]


def _mask(ends: Sequence[int]) -> int:
    """Returns the mask of the axes that are taken from their start, or to their end: all samples, and where it is 0."""
    return 1 + sum(2**axis for axis, value in enumerate(ends, 1) if value == 0)


class _Patches:
    """Int8 operators that turn an image into its patches, and the tensor that they end with."""

    def __init__(self, graph: Subgraph, source: int, constants: Constants):
        self.graph = graph
        self.tensor = source
        self.constants = constants
        self.operators: list[OperatorT] = []

    def lay(self, window: _Window) -> None:
        """Lays the patches of a window side by side; those of one pixel are there already."""
        if window.size != (1, 1) or window.stride > 1:
            self.pad(window)
            (self.by_phase if window.stride == 2 else self.by_shift)(window)

    def lengthen(self, extra: int) -> None:
        """Adds zeros at the end of each row."""
        if extra:
            sizes = self.graph.shape(self.tensor)
            ends = self._constant([*[(0, 0)] * (len(sizes) - 1), (0, extra)])
            self._append("PAD", [self.tensor, ends], (*sizes[1:-1], sizes[-1] + extra), "PadOptions")

    def pad(self, window: _Window) -> None:
        """Adds the zeros around the image."""
        if not np.any(window.padding):
            return
        sizes = self._constant([(0, 0), *window.padding, (0, 0)])
        self._append("PAD", [self.tensor, sizes], (*window.padded, window.channels), "PadOptions")

    def by_shift(self, window: _Window) -> None:
        """Joins the columns of each patch, then its rows: `(y, x, channel)` at every pixel."""
        height, (rows, columns), (taps_y, taps_x) = window.padded[0], window.output, window.size
        channels = window.channels
        self._join([((0, x, 0), (height, columns, channels)) for x in range(taps_x)])
        self._join([((y, 0, 0), (rows, columns, taps_x * channels)) for y in range(taps_y)])

    def by_phase(self, window: _Window) -> None:
        """The same at every other pixel: first, pixels become the four phases `(y, x, channel)` of a smaller image."""
        height, width = (size // 2 for size in window.padded)
        (rows, columns), (taps_y, taps_x), channels = window.output, window.size, window.channels
        inputs, shape = [self.tensor], (height, width, 4 * channels)
        self._append("SPACE_TO_DEPTH", inputs, shape, "SpaceToDepthOptions", blockSize=2)
        self._join(
            [
                ((0, x // 2, phase * 2 * channels), (height, columns, min(2, taps_x - x) * channels))
                for phase in range(min(2, taps_y))
                for x in range(0, taps_x, 2)
            ]
        )
        self._join(
            [((y // 2, 0, 0), (rows, columns, min(2, taps_y - y) * taps_x * channels)) for y in range(0, taps_y, 2)]
        )

    def _join(self, parts: Sequence[tuple[tuple[int, int, int], tuple[int, int, int]]]) -> None:
        """Joins parts of the image, each with its begin and size, along the channels."""
        source, tensors = self.tensor, []
        for begin, size in parts:
            if begin == (0, 0, 0) and self.graph.shape(source)[1:] == size:
                tensors.append(source)
                continue
            # Ends are counted from behind, so that convolutions of several sizes share the constants.
            whole = self.graph.shape(source)[1:]
            ends = [first + count - full for first, count, full in zip(begin, size, whole, strict=True)]
            inputs = [source, *(self._constant(values) for values in ((0, *begin), (0, *ends), (1, 1, 1, 1)))]
            masks = {"beginMask": _mask(begin), "endMask": _mask(ends)}
            tensors.append(self._append("STRIDED_SLICE", inputs, size, "StridedSliceOptions", **masks))
        self.tensor = tensors[0]
        if len(tensors) > 1:
            shape = (*parts[0][1][:2], sum(size[2] for _, size in parts))
            self._append("CONCATENATION", tensors, shape, "ConcatenationOptions", axis=3)

    def _append(
        self, kind: str, inputs: Sequence[int], shape: tuple[int, ...], options_name: str, **options: int
    ) -> int:
        """Adds an operator whose output, of as many samples as the tensor, becomes the tensor."""
        signature = self.graph.tensor(self.tensor).shapeSignature
        samples = self.graph.shape(self.tensor)[0]
        index = self.graph.add_tensor((samples, *shape), INT8)
        if signature is not None:
            self.graph.tensor(index).shapeSignature = np.asarray((signature[0], *shape), np.int32)
        set_grid(self.graph.tensor(index), grid_of(self.graph.tensor(self.tensor)))
        version = 2 if kind != "SPACE_TO_DEPTH" else 1
        self.operators.append(operator(self.graph.file, kind, version, list(inputs), [index], options_name, **options))
        self.tensor = index
        return index

    def _constant(self, values: Sequence[int] | Sequence[tuple[int, int]]) -> int:
        """Returns an int32 constant, added if there is none like it."""
        data = np.asarray(values, np.int32)
        key = (data.shape, data.tobytes())
        if key not in self.constants:
            self.constants[key] = self.graph.add_tensor(data.shape, INT32, data)
        return self.constants[key]
