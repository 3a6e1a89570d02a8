"""Shapes and types of a `.tflite`: each result has those that its operator computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.tflite.flatbuffer import BrokenFileError
from r2keras.export.tflite.operator_rules import COMPARISONS
from r2keras.export.tflite.schema import FLOAT32, INT8, INT32, TYPES, UINT8
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of, subgraphs

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT

Shape = tuple[int, ...]
INT64, BOOL, INT16, SAME = 4, 6, 7, 0
# Operators whose result has the type and the shape of their first input.
ELEMENTWISE = {
    *(
        "ABS",
        "CEIL",
        "COS",
        "ELU",
        "EXP",
        "FLOOR",
        "HARD_SWISH",
        "L2_NORMALIZATION",
        "LEAKY_RELU",
        "LOG",
        "LOGICAL_NOT",
    ),
    *("LOGISTIC", "LOG_SOFTMAX", "NEG", "RELU", "RELU6", "ROUND", "RSQRT", "SIN", "SOFTMAX", "SQRT", "SQUARE", "TANH"),
    *("ZEROS_LIKE", "CUMSUM", "PRELU"),
}
CONVERSIONS = {"CAST", "DEQUANTIZE", "QUANTIZE"}
BROADCAST = {"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "POW", "SQUARED_DIFFERENCE", "FLOOR_DIV", "FLOOR_MOD"}
REDUCTIONS = {"MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ALL", "REDUCE_ANY"}
# Inputs of whole numbers, by operator: axes, sizes and places.
INDICES = {
    **dict.fromkeys(("SPLIT", "EMBEDDING_LOOKUP", "FILL", "TRANSPOSE_CONV"), (0,)),
    **dict.fromkeys(("RESHAPE", "TRANSPOSE", "EXPAND_DIMS", "PAD", "PADV2", "MIRROR_PAD", "GATHER", "GATHER_ND"), (1,)),
    **dict.fromkeys(("ARG_MAX", "ARG_MIN", "BROADCAST_TO", "TILE", "CUMSUM", "REVERSE_V2", "TOPK_V2"), (1,)),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", *REDUCTIONS), (1,)),
    **dict.fromkeys(("SLICE", "SPLIT_V", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"), (1, 2)),
    "STRIDED_SLICE": (1, 2, 3),
}
SAME_SIZE = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS"}


class _Unknown(Exception):
    """A shape follows from values that are not in the file."""


def check_shapes(file: ModelT, *, strict: bool) -> None:
    """Raises BrokenFileError unless the shapes and types of a file's tensors are those that its operators compute.

    Operators that this module does not know are not checked.

    Args:
        file: the parsed file, whose indices are valid.
        strict: whether every size is final, as on microcontrollers, whose runtime computes none itself. LiteRT computes
            shapes before it runs; open sizes, and shapes that follow from values, are then left out.
    """
    for graph in subgraphs(file):
        unknown: set[int] = set()
        for position, operator in enumerate(graph.operators):
            kind = graph.kind(operator)
            try:
                check = _Check(graph, operator, kind, strict)
                # What is computed from a tensor of unknown shape has an unknown one too. The sizes in a file with open
                # ones, such as images of any size, are those of 1x1 images and can be impossible ones.
                if not strict and (check.has_open_sizes() or not unknown.isdisjoint(inputs_of(operator))):
                    raise _Unknown
                check.run()
            except BrokenFileError as error:
                raise BrokenFileError(f"operator {position} of subgraph {graph.index}, {kind}, {error}") from error
            except _Unknown:
                unknown.update(outputs_of(operator))


class _Check:
    """The check of one operator.

    Args:
        graph: its subgraph.
        operator: the operator.
        kind: its name.
        strict: see `check_shapes`.
    """

    def __init__(self, graph: Subgraph, operator: OperatorT, kind: str, strict: bool):
        self._graph = graph
        self._operator = operator
        self._kind = kind
        self._strict = strict
        self._inputs = inputs_of(operator)
        self._outputs = outputs_of(operator)

    def has_open_sizes(self) -> bool:
        """Whether an input has an open size besides the number of samples."""
        return any(-1 in self._open(i) for i, tensor in enumerate(self._inputs) if tensor >= 0)

    def run(self) -> None:
        """Raises BrokenFileError unless the operator's results have the shapes and types that it computes."""
        kind = self._kind
        for position in (i for i in INDICES.get(kind, ()) if i < len(self._inputs)):
            fits = self._type(position) in (INT32, INT64, INT16)
            self._need(fits, f"has an input {position} that is not of whole numbers")
            if fits and not self._strict and position and not self._graph.is_constant(self._inputs[position]):
                raise _Unknown
        if kind in ELEMENTWISE:
            self._result(self._shape(0))
        elif kind in CONVERSIONS:
            self._result(self._shape(0), self._type_of(self._outputs[0]))
        elif kind in BROADCAST or kind in COMPARISONS:
            self._need(self._type(0) == self._type(1), "has inputs of different types")
            self._result(self._broadcast(), BOOL if kind in COMPARISONS else self._type(0))
        elif kind in REDUCTIONS:
            self._reduction()
        elif kind in SAME_SIZE:
            self._need_size(math.prod(self._shape(0)), math.prod(self._out()))
            self._result(self._out())
        elif kind in _RULES:
            _RULES[kind](self)

    def _need(self, condition: bool, reason: str) -> None:
        """Raises unless a condition holds."""
        if not condition:
            raise BrokenFileError(reason)

    def _need_size(self, found: int, expected: int) -> None:
        """Raises unless two numbers of values are equal, where they are final."""
        self._need(found == expected or not self._strict, "has a result of another size")

    def _shape(self, position: int) -> Shape:
        """Returns the shape of an input."""
        shape = self._graph.shape(self._inputs[position])
        # LiteRT writes the shape of a scalar for an unknown one.
        if not shape and not self._strict and not self._graph.is_constant(self._inputs[position]):
            raise _Unknown
        return shape

    def _open(self, position: int) -> list[int]:
        """Returns the sizes of an input after its first axis; -1 for open ones."""
        signature = self._graph.tensor(self._inputs[position]).shapeSignature
        return [] if signature is None else [int(size) for size in signature[1:]]

    def _type(self, position: int) -> int:
        """Returns the type of an input."""
        return self._type_of(self._inputs[position])

    def _type_of(self, tensor: int) -> int:
        """Returns the type of a tensor."""
        return int(self._graph.tensor(tensor).type)

    def _out(self) -> Shape:
        """Returns the shape of the first result."""
        return self._graph.shape(self._outputs[0])

    def _numbers(self, position: int) -> list[int]:
        """Returns the values of an input of integers, which has to be a constant."""
        tensor = self._inputs[position]
        is_known = self._graph.is_constant(tensor) and self._type_of(tensor) == INT32
        if not is_known and not self._strict:
            raise _Unknown
        self._need(is_known or 0 in self._graph.shape(tensor), f"has an input {position} that is not constant")
        return [int(value) for value in self._graph.data(tensor).view("<i4")]

    def _result(self, shape: Shape, kind: int | None = None, position: int = 0) -> None:
        """Raises unless a result has a shape, and a type: by default that of the first input."""
        tensor = self._outputs[position]
        found = self._graph.shape(tensor)
        fits = found == shape or (not self._strict and self._fits_open(tensor, shape))
        self._need(fits, f"has a result of shape {found} instead of {shape}")
        expected = self._type(0) if kind is None else kind
        self._need(self._type_of(tensor) == expected, "has a result of another type")
        for tensor in (*self._inputs, *self._outputs):
            if tensor >= 0 and (self._strict or not self._graph.is_constant(tensor)):
                self._check_grid(tensor)

    def _fits_open(self, tensor: int, shape: Shape) -> bool:
        """Whether a tensor has a shape apart from its open sizes, or an unknown one."""
        found, signature = self._graph.shape(tensor), self._graph.tensor(tensor).shapeSignature
        if not found:
            return True
        if signature is None or len(signature) != len(shape):
            return False
        return all(s == -1 or size == expected for s, size, expected in zip(signature, found, shape, strict=True))

    def _check_grid(self, tensor: int) -> None:
        """Raises for an 8- or 16-bit integer without a positive scale."""
        quantization = self._graph.tensor(tensor).quantization
        scales = [] if quantization is None or quantization.scale is None else list(quantization.scale)
        is_integer = self._type_of(tensor) in (INT8, INT16) and (self._kind not in CONVERSIONS or bool(scales))
        is_weight = self._kind in CONVERSIONS and self._graph.is_constant(tensor)
        lacks = not scales if self._strict else False
        wrong = lacks or (bool(scales) and min(scales) <= 0)
        self._need(not is_integer or is_weight or not wrong, "has integers without a positive scale")

    def _broadcast(self) -> Shape:
        """Returns the shape of two inputs together."""
        try:
            return np.broadcast_shapes(self._shape(0), self._shape(1))
        except ValueError as error:
            raise BrokenFileError(f"has inputs of the shapes {self._shape(0)} and {self._shape(1)}") from error

    def _axis(self, axis: int, rank: int) -> int:
        """Returns an axis counted from the front."""
        self._need(-rank <= axis < rank, f"has the axis {axis} of {rank}")
        return axis % rank

    def _reduction(self) -> None:
        """Checks a reduction over constant axes."""
        shape = self._shape(0)
        axes = {self._axis(axis, len(shape)) for axis in self._numbers(1)}
        keeps = bool(getattr(self._operator.builtinOptions, "keepDims", False))
        kept = [1 if i in axes else size for i, size in enumerate(shape) if keeps or i not in axes]
        self._result(tuple(kept))

    def fully_connected(self) -> None:
        """Checks a product with a matrix."""
        weights, shape = self._shape(1), self._shape(0)
        self._need(len(weights) == 2 and 0 not in weights, "has weights that are not a matrix")
        units, size = weights
        if not self._strict and -1 in self._open(0):
            raise _Unknown
        self._need(math.prod(shape) % size == 0, f"has {math.prod(shape)} values for rows of {size}")
        self._need(self._out()[-1:] == (units,), f"has a result of shape {self._out()}")
        self._need_size(math.prod(self._out()), math.prod(shape) // size * units)
        self._weighted(self._out(), units, 2)

    def _weighted(self, shape: Shape, units: int, bias: int) -> None:
        """Checks result, types and bias of an operator with weights."""
        is_float = self._type(0) == FLOAT32
        # LiteRT has products of floats with codes.
        fits = self._type(1) in ((FLOAT32,) if is_float and self._strict else (FLOAT32, UINT8, *TYPES.values()))
        fits = fits and (is_float or self._type(1) != FLOAT32)
        self._need(fits and self._type(0) in (FLOAT32, UINT8, INT8, INT16), "has inputs of types that do not fit")
        if len(self._inputs) > bias and self._inputs[bias] >= 0:
            self._need(math.prod(self._shape(bias)) == units, f"has a bias of shape {self._shape(bias)}")
            self._need((self._type(bias) == FLOAT32) == is_float, "has a bias of another type")
        self._result(shape)

    def _image(self, position: int = 0) -> Shape:
        """Returns the shape of an input with four axes, none empty."""
        shape = self._shape(position)
        self._need(len(shape) == 4 and 0 not in shape, f"has an input of shape {shape}")
        return shape

    def _window(self, size: Shape, dilated: bool) -> Shape:
        """Returns height and width after a window of some size has passed over the first input."""
        options, sizes = self._operator.builtinOptions, self._image()[1:3]
        strides = options.strideH, options.strideW
        dilation = (options.dilationHFactor, options.dilationWFactor) if dilated else (1, 1)
        return tuple(_covered(*each, options.padding) for each in zip(sizes, size, strides, dilation, strict=True))

    def conv_2d(self) -> None:
        """Checks a convolution."""
        shape, weights = self._image(), self._image(1)
        units, depth = weights[0], weights[3]
        self._need(shape[3] % depth == 0 and units % (shape[3] // depth) == 0, f"has weights of shape {weights}")
        self._weighted((shape[0], *self._window(weights[1:3], True), units), units, 2)

    def depthwise(self) -> None:
        """Checks a depthwise convolution."""
        shape, weights = self._image(), self._image(1)
        units = shape[3] * self._operator.builtinOptions.depthMultiplier
        self._need(weights[0] == 1 and weights[3] == units, f"has weights of shape {weights}")
        self._weighted((shape[0], *self._window(weights[1:3], True), units), units, 2)

    def transpose_conv(self) -> None:
        """Checks a transposed convolution, whose first input is the shape of its result."""
        result, weights, shape = tuple(self._numbers(0)), self._image(1), self._image(2)
        options = self._operator.builtinOptions
        self._need(len(result) == 4 and 0 not in result, f"has a result of shape {result}")
        covered = [_covered(result[1], weights[1], options.strideH, 1, options.padding)]
        covered += [_covered(result[2], weights[2], options.strideW, 1, options.padding)]
        fits = weights[3] == shape[3] and weights[0] == result[3] and shape[0] == result[0]
        self._need(fits and tuple(covered) == shape[1:3], f"has weights of shape {weights}")
        self._inputs = [self._inputs[2], self._inputs[1], *self._inputs[3:]]
        self._weighted(result, weights[0], 2)

    def pool(self) -> None:
        """Checks a pooling."""
        shape, options = self._image(), self._operator.builtinOptions
        self._result((shape[0], *self._window((options.filterHeight, options.filterWidth), False), shape[3]))

    def concatenation(self) -> None:
        """Checks a concatenation."""
        shapes = [list(self._shape(i)) for i in range(len(self._inputs))]
        axis = self._axis(self._operator.builtinOptions.axis, len(shapes[0]))
        alike = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes if len(shape) == len(shapes[0])}
        same = len(alike) == 1 and all(len(shape) == len(shapes[0]) for shape in shapes)
        self._need(same and len({self._type(i) for i in range(len(shapes))}) == 1, "has inputs that do not fit")
        total = sum(shape[axis] for shape in shapes)
        self._result((*shapes[0][:axis], total, *shapes[0][axis + 1 :]))

    def transpose(self) -> None:
        """Checks a transposition."""
        order, shape = self._numbers(1), self._shape(0)
        self._need(sorted(order) == list(range(len(shape))), f"has the order {order} for the shape {shape}")
        self._result(tuple(shape[axis] for axis in order))

    def pad(self) -> None:
        """Checks a padding."""
        widths, shape = self._numbers(1), self._shape(0)
        self._need(len(widths) == 2 * len(shape) and min(widths, default=0) >= 0, f"has the widths {widths}")
        self._result(tuple(a + size + b for a, size, b in zip(widths[::2], shape, widths[1::2], strict=True)))

    def slice(self) -> None:
        """Checks a part with a constant beginning."""
        begin, size, shape = self._numbers(1), self._numbers(2), self._shape(0)
        self._need(len(begin) == len(size) == len(shape), f"has a beginning of {len(begin)} numbers")
        size = [whole - start if part == -1 else part for part, start, whole in zip(size, begin, shape, strict=True)]
        fits = all(min(b, s) >= 0 and b + s <= whole for b, s, whole in zip(begin, size, shape, strict=True))
        self._need(fits, f"takes {size} from {begin} on of {shape}")
        self._result(tuple(size))


def _covered(size: int, window: int, stride: int, dilation: int, padding: int) -> int:
    """Returns how many windows fit along one axis."""
    reach = 0 if padding == SAME else (window - 1) * dilation
    return max(0, -(-(size - reach) // stride))


_RULES: dict[str, Callable[[_Check], None]] = {
    "FULLY_CONNECTED": _Check.fully_connected,
    "CONV_2D": _Check.conv_2d,
    "DEPTHWISE_CONV_2D": _Check.depthwise,
    "TRANSPOSE_CONV": _Check.transpose_conv,
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"), _Check.pool),
    "CONCATENATION": _Check.concatenation,
    "TRANSPOSE": _Check.transpose,
    **dict.fromkeys(("PAD", "PADV2"), _Check.pad),
    "SLICE": _Check.slice,
}
