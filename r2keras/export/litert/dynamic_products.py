"""FULLY_CONNECTED with low-bit weights and float activations, each row of which the runtime rounds to 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.integer.kernel import NotIntegerError, integer_kernel
from r2keras.export.integer.packed_products import VERSIONS, row_container
from r2keras.export.integer.weights import IntegerWeight
from r2keras.export.litert.not_packed import grid, reader
from r2keras.export.litert.plane_weight import PlaneWeight, plane_rows
from r2keras.export.tflite.activation_grid import ActivationGrid
from r2keras.export.tflite.bit_packing import pack
from r2keras.export.tflite.schema import (
    FLOAT32,
    INT32,
    SEPARATOR,
    TYPES,
    WIDTHS,
    operator,
    quantization,
    set_data,
    values_of,
)
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of
from r2keras.export.weights.assignment import Assignment
from r2keras.export.weights.matching import Match
from r2keras.record import CompressionRecord, PalettizedTensor, QuantizedTensor

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import OperatorT

# Float activations as grids for which no scale of a weight is too small: those of dead channels are 1e-12 and less.
NO_GRIDS = ActivationGrid(1.0, 0), ActivationGrid(1e-25, 0)
PAD_VERSION = 2


def dynamic_weight(
    graph: Subgraph, tensor: int, assignment: Assignment, record: CompressionRecord
) -> IntegerWeight | PlaneWeight | None:
    """Makes a float constant the low-bit weight of the products that read it.

    A grid around zero is one product. A palette is the sum of one product per plane of signs (`record.sign_planes`).

    Args:
        graph: the subgraph of the constant, edited in place.
        tensor: index of the float32 constant; it holds the codes afterwards, those of the first plane of a palette.
        assignment: the weights that the constant holds.
        record: their codes and scales.

    Returns:
        What was stored; None, and nothing is changed, if anything but a matrix product reads the constant, its grid has
        no zero in the middle, or its palette has too many planes.
    """
    owner, match = record.tensors[assignment.owner], assignment.matches[assignment.owner]
    products = graph.consumers(tensor)
    if not products or graph.is_output(tensor) or not all(_is_product(graph, op, tensor) for op in products):
        return None
    if isinstance(owner, PalettizedTensor):
        return _planes(graph, tensor, assignment, owner, match)
    return _grid(graph, tensor, assignment, owner, match)


def _grid(
    graph: Subgraph, tensor: int, assignment: Assignment, owner: QuantizedTensor, match: Match
) -> IntegerWeight | None:
    """Stores the codes of a grid; None if it has no zero in the middle."""
    try:
        kernel = integer_kernel(owner, match, 0, None, NO_GRIDS, shared=False)
    except NotIntegerError:
        return None
    constant = values_of(graph.file, graph.tensor(tensor)).copy()
    rows, scale = kernel.codes.reshape(kernel.codes.shape[0], -1), np.broadcast_to(kernel.scale, kernel.codes.shape[0])
    halved = kernel.doubled and owner.spec.num_bits in (2, 4)
    if halved:
        # The odd codes -3 to 3 need 4 bits, -2 to 1 need 2; -15 to 15 need 8, -8 to 7 need 4:
        # w x = 2 scale c x + scale sum(x).
        rows, scale = (rows - 1) // 2, 2 * scale
    products = list(graph.consumers(tensor))
    bits, extra = row_container(rows, 4 if halved else kernel.bits, _has_rows(graph, products, rows.shape[1]))
    # Rows of float activations may have an odd number of 4-bit weights.
    extra = extra if bits == 2 else 0
    _store_rows(graph, tensor, np.pad(rows, ((0, 0), (0, extra))), scale, bits, SEPARATOR.join(assignment.matches))
    spread = np.broadcast_to(kernel.scale, len(rows)).astype(np.float32) if halved else None
    for op in products:
        graph.replace(op, _Product(graph, op, extra, VERSIONS[bits]).operators_of([tensor], spread))
    return IntegerWeight([tensor], assignment, kernel, constant, graph.index, halved)


def _planes(
    graph: Subgraph, tensor: int, assignment: Assignment, owner: PalettizedTensor, match: Match
) -> PlaneWeight | None:
    """Stores a palette as planes of signs; None if it has no such planes."""
    constant = values_of(graph.file, graph.tensor(tensor)).copy()
    rows = plane_rows(owner, match, constant.shape)
    if rows is None:
        return None
    constant = constant.reshape(len(constant), -1)
    products = list(graph.consumers(tensor))
    bits, extra = row_container(rows.codes[0], 4, _has_rows(graph, products, constant.shape[1]))
    extra = extra if bits == 2 else 0
    name = SEPARATOR.join(assignment.matches)
    tensors = [tensor, *(graph.add_tensor((0,), TYPES[bits]) for _ in rows.codes[1:])]
    for index, codes, scale in zip(tensors, rows.codes, rows.scale, strict=True):
        _store_rows(graph, index, np.pad(codes, ((0, 0), (0, extra))), scale, bits, name)
    for op in products:
        graph.replace(op, _Product(graph, op, extra, VERSIONS[bits]).operators_of(tensors, rows.mean))
    return PlaneWeight(tensors, assignment, rows, constant, graph.index)


def _has_rows(graph: Subgraph, products: Sequence[OperatorT], size: int) -> bool:
    """Whether the rows of weights lie along the last axis of every product's input, which can then be lengthened."""
    return all(graph.shape(inputs_of(op)[0])[-1] == size for op in products)


def _store_rows(graph: Subgraph, tensor: int, rows: np.ndarray, scale: np.ndarray, bits: int, name: str) -> None:
    """Makes a tensor the weight of a FULLY_CONNECTED with a scale per row."""
    stored = graph.tensor(tensor)
    set_data(graph.file, stored, pack(rows, bits))
    stored.type, stored.shape = TYPES[bits], np.asarray(rows.shape, np.int32)
    stored.shapeSignature = None
    stored.name = name
    stored.quantization = quantization(scale, axis=0)


def why_float(graph: Subgraph, tensor: int, weight: QuantizedTensor | PalettizedTensor) -> tuple[str, str]:
    """Returns why `dynamic_weight` returns None, and what to quantize the weight with; empty where no grid helps.

    Args:
        graph: the subgraph of the constant.
        tensor: index of the constant.
        weight: its codes and scales in the record.
    """
    readers = list(graph.consumers(tensor))
    others = [op for op in readers if not _is_product(graph, op, tensor)]
    if others or not readers or graph.is_output(tensor):
        return reader(graph, tensor, others[0] if others else None), ""
    return grid(weight)


def _is_product(graph: Subgraph, op: OperatorT, tensor: int) -> bool:
    """Whether an operator multiplies rows of float activations by a constant."""
    inputs, kind = inputs_of(op), graph.kind(op)
    if inputs[1:2] != [tensor] or graph.tensor(inputs[0]).type != FLOAT32:
        return False
    if kind == "FULLY_CONNECTED":
        return True
    options, shape = op.builtinOptions, graph.shape(tensor)
    is_pointwise = kind == "CONV_2D" and shape[1:3] == (1, 1) and (options.strideH, options.strideW) == (1, 1)
    return is_pointwise and graph.shape(inputs[0])[-1] == shape[3]


class _Product:
    """The operators that replace one operator.

    Args:
        graph: the subgraph.
        op: a FULLY_CONNECTED or a convolution of one pixel, whose weight has become low-bit rows.
        extra: zeros to append to each row of its input.
        version: the version of FULLY_CONNECTED.
    """

    def __init__(self, graph: Subgraph, op: OperatorT, extra: int, version: int):
        self.graph = graph
        self.version = version
        self.output = outputs_of(op)[0]
        self.activation = op.builtinOptions.fusedActivationFunction
        self.keeps_rank = graph.kind(op) == "CONV_2D" or bool(op.builtinOptions.keepNumDims)
        self.source, *self.rest = inputs_of(op)
        self.operators: list[OperatorT] = []
        if extra:
            self._pad(extra)

    def operators_of(self, weights: Sequence[int], spread: np.ndarray | None) -> list[OperatorT]:
        """Returns the operators that add up the products with some weights.

        Args:
            weights: tensors of low-bit rows.
            spread: float32, one factor per output of the sum of each row, which a row of ones computes; None without.
        """
        count, (_, *bias) = len(weights) + (spread is not None), self.rest
        if count == 1:
            self._multiply([*weights, *bias], self.output, self.activation)
            return self.operators
        outputs = [self.graph.add_tensor_like(self.output) for _ in range(count)]
        for weight, output in zip(weights, outputs, strict=False):
            self._multiply([weight, *bias], output, 0)
            bias = []
        if spread is not None:
            self._sum_rows(weights[0], spread, outputs[-1])
        total = outputs[0]
        for number, output in enumerate(outputs[1:], 2):
            is_last = number == len(outputs)
            result = self.output if is_last else self.graph.add_tensor_like(self.output)
            activation = self.activation if is_last else 0
            self._append("ADD", 1, [total, output], result, "AddOptions", fusedActivationFunction=activation)
            total = result
        return self.operators

    def _sum_rows(self, weight: int, spread: np.ndarray, output: int) -> None:
        """Appends `spread` times the sum of each row, as long as those of a weight."""
        size, kind = self.graph.shape(weight)[1], self.graph.tensor(weight).type
        ones = self.graph.add_tensor((1, size), kind, pack(np.ones((1, size), np.int8), WIDTHS[kind]))
        self.graph.tensor(ones).quantization = quantization(np.ones(1, np.float32))
        factor = self.graph.add_tensor(spread.shape, FLOAT32, spread)
        total = self._resized(self.output, 1)
        self._multiply([ones], total, 0)
        self._append("MUL", 1, [total, factor], output, "MulOptions")

    def _multiply(self, rest: list[int], output: int, activation: int) -> None:
        """Appends a FULLY_CONNECTED that rounds its input."""
        options = {"keepNumDims": self.keeps_rank, "fusedActivationFunction": activation}
        options |= {"asymmetricQuantizeInputs": True}
        inputs = [self.source, *rest, *([-1] if len(rest) == 1 else [])]
        self._append("FULLY_CONNECTED", self.version, inputs, output, "FullyConnectedOptions", **options)

    def _pad(self, extra: int) -> None:
        """Appends the operator that adds zeros at the end of the last axis."""
        rank = len(self.graph.shape(self.source))
        zeros = np.zeros((rank, 2), np.int32)
        zeros[-1, 1] = extra
        padded = self._resized(self.source, self.graph.shape(self.source)[-1] + extra)
        sizes = self.graph.add_tensor(zeros.shape, INT32, zeros)
        self._append("PAD", PAD_VERSION, [self.source, sizes], padded, "PadOptions")
        self.source = padded

    def _resized(self, like: int, size: int) -> int:
        """Adds a float tensor in the shape of another one, but for its last size."""
        index = self.graph.add_tensor((*self.graph.shape(like)[:-1], size), FLOAT32)
        signature = self.graph.tensor(like).shapeSignature
        if signature is not None:
            self.graph.tensor(index).shapeSignature = np.asarray([*signature[:-1], size], np.int32)
        return index

    def _append(
        self, kind: str, version: int, inputs: list[int], output: int, options_name: str, **options: int
    ) -> None:
        self.operators.append(operator(self.graph.file, kind, version, inputs, [output], options_name, **options))
