"""Patches of an image side by side, by operators of int8 that XNNPACK runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.tflite.activation_grid import grid_of, set_grid
from r2keras.export.tflite.schema import INT8, INT32, operator
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import OperatorT

# Index constants that the operators share: shape and bytes -> tensor.
Constants = dict[tuple[tuple[int, ...], bytes], int]
# Of the schema's `Padding`.
SAME = 0
VERSIONS = {"SPACE_TO_DEPTH": 1, "RESHAPE": 1}


@dataclasses.dataclass(frozen=True)
class Window:
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


def window_of(graph: Subgraph, op: OperatorT, kernel: tuple[int, ...]) -> Window | None:
    """Returns what a convolution reads; None if its patches cannot be laid side by side."""
    options, (source, *_) = op.builtinOptions, inputs_of(op)
    image, output = sizes_of(graph, source), sizes_of(graph, outputs_of(op)[0])
    stride, dilation = options.strideH, (options.dilationHFactor, options.dilationWFactor)
    grouped = graph.shape(source)[-1] != kernel[3]
    if stride not in (1, 2) or options.strideW != stride or dilation != (1, 1) or grouped:
        return None
    if kernel[1:3] == (1, 1) and stride == 1:
        return Window((1, 1), 1, ((0, 0), (0, 0)), kernel[3], (0, 0), (0, 0))
    if min(*image, *output) < 1:
        return None
    padding, padded = [], []
    for size, taps, count in zip(image, kernel[1:3], output, strict=True):
        missing = max((count - 1) * stride + taps - size, 0) if options.padding == SAME else 0
        total = size + missing + (size + missing) % stride
        padding.append((missing // 2, total - size - missing // 2))
        padded.append(total)
    sizes = (padded[0], padded[1]), (output[0], output[1])
    return Window((kernel[1], kernel[2]), stride, (padding[0], padding[1]), kernel[3], *sizes)


def sizes_of(graph: Subgraph, tensor: int) -> tuple[int, int]:
    """Returns height and width of a tensor, -1 where they are open."""
    signature = graph.tensor(tensor).shapeSignature
    shape = graph.shape(tensor) if signature is None else signature
    return int(shape[1]), int(shape[2])


def _mask(ends: Sequence[int]) -> int:
    """Returns the mask of the axes that are taken from their start, or to their end: all samples, and where it is 0."""
    return 1 + sum(2**axis for axis, value in enumerate(ends, 1) if value == 0)


class Patches:
    """Int8 operators that turn an image into its patches, and the tensor that they end with."""

    def __init__(self, graph: Subgraph, source: int, constants: Constants):
        self.graph = graph
        self.tensor = source
        self.constants = constants
        self.operators: list[OperatorT] = []

    def lay(self, window: Window) -> None:
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

    def pad(self, window: Window) -> None:
        """Adds the zeros around the image."""
        (height, width), channels = window.padding, window.channels
        if not any((*height, *width)):
            return
        if not any(width):
            sizes = self._constant([(0, 0), height, (0, 0), (0, 0)])
            self._append("PAD", [self.tensor, sizes], (*window.padded, channels), "PadOptions")
            return
        # XNNPACK pads the last axis ten times faster than the one before it.
        rows, columns = self.graph.shape(self.tensor)[1:3]
        self._reshape((rows, columns * channels))
        sizes = self._constant([(0, 0), height, (width[0] * channels, width[1] * channels)])
        self._append("PAD", [self.tensor, sizes], (window.padded[0], window.padded[1] * channels), "PadOptions")
        self._reshape((*window.padded, channels))

    def _reshape(self, shape: tuple[int, ...]) -> None:
        """Gives every sample another shape."""
        sizes = self._constant((-1, *shape))
        self._append("RESHAPE", [self.tensor, sizes], shape, "ReshapeOptions")

    def by_shift(self, window: Window) -> None:
        """Joins the columns of each patch, then its rows: `(y, x, channel)` at every pixel."""
        height, (rows, columns), (taps_y, taps_x) = window.padded[0], window.output, window.size
        channels = window.channels
        self._join([((0, x, 0), (height, columns, channels)) for x in range(taps_x)])
        self._join([((y, 0, 0), (rows, columns, taps_x * channels)) for y in range(taps_y)])

    def by_phase(self, window: Window) -> None:
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
        self.operators.append(
            operator(self.graph.file, kind, VERSIONS.get(kind, 2), list(inputs), [index], options_name, **options)
        )
        self.tensor = index
        return index

    def _constant(self, values: Sequence[int] | Sequence[tuple[int, int]]) -> int:
        """Returns an int32 constant, added if there is none like it."""
        data = np.asarray(values, np.int32)
        key = (data.shape, data.tobytes())
        if key not in self.constants:
            self.constants[key] = self.graph.add_tensor(data.shape, INT32, data)
        return self.constants[key]
