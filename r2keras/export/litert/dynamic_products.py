"""FULLY_CONNECTED with low-bit weights and float activations, each row of which the runtime rounds to 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from r2keras._util.errors import invalid_part
from r2keras.export.integer.kernel import NotIntegerError, integer_kernel
from r2keras.export.integer.packed_products import VERSIONS, row_container
from r2keras.export.integer.weights import IntegerWeight
from r2keras.export.tflite.activation_grid import ActivationGrid
from r2keras.export.tflite.bit_packing import pack
from r2keras.export.tflite.schema import FLOAT32, INT32, SEPARATOR, TYPES, operator, quantization, set_data, values_of
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of
from r2keras.export.weights.assignment import Assignment
from r2keras.record import CompressionRecord, QuantizedTensor

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import OperatorT

# Float activations as grids for which no scale of a weight is too small: those of dead channels are 1e-12 and less.
NO_GRIDS = ActivationGrid(1.0, 0), ActivationGrid(1e-25, 0)
PAD_VERSION = 2


def dynamic_weight(
    graph: Subgraph, tensor: int, assignment: Assignment, record: CompressionRecord
) -> IntegerWeight | None:
    """Makes a float constant the low-bit weight of the products that read it.

    Args:
        graph: the subgraph of the constant, edited in place.
        tensor: index of the float32 constant; it holds the codes afterwards.
        assignment: the weights that the constant holds.
        record: their codes and scales.

    Returns:
        What was stored; None, and nothing is changed, if anything but a matrix product reads the constant, or its grid
        has no zero in the middle.
    """
    owner, match = record.tensors[assignment.owner], assignment.matches[assignment.owner]
    products = graph.consumers(tensor)
    if not isinstance(owner, QuantizedTensor) or not products or graph.is_output(tensor):
        return None
    if not all(_is_product(graph, op, tensor) for op in products):
        return None
    try:
        kernel = integer_kernel(owner, match, 0, None, NO_GRIDS, shared=False)
    except NotIntegerError:
        return None
    constant = values_of(graph.file, graph.tensor(tensor)).copy()
    rows, scale = kernel.codes.reshape(kernel.codes.shape[0], -1), np.broadcast_to(kernel.scale, kernel.codes.shape[0])
    halved = kernel.doubled and owner.spec.num_bits == 2
    if halved:
        # -3, -1, 1 and 3 need 4 bits, -2 to 1 need 2: w x = 2 scale c x + scale sum(x).
        rows, scale = (rows - 1) // 2, 2 * scale
    has_rows = all(graph.shape(inputs_of(op)[0])[-1] == rows.shape[1] for op in products)
    bits, extra = row_container(rows, kernel.bits, has_rows)
    # Rows of float activations may have an odd number of 4-bit weights.
    extra = extra if bits == 2 else 0
    stored = graph.tensor(tensor)
    set_data(graph.file, stored, pack(np.pad(rows, ((0, 0), (0, extra))), bits))
    stored.type, stored.shape = TYPES[bits], np.asarray((len(rows), rows.shape[1] + extra), np.int32)
    stored.shapeSignature = None
    stored.name = SEPARATOR.join(assignment.matches)
    stored.quantization = quantization(scale, axis=0)
    for op in list(products):
        writer = _Product(graph, op, extra, VERSIONS[bits])
        graph.replace(op, writer.with_sum(kernel.scale) if halved else writer.plain())
    return IntegerWeight([tensor], assignment, kernel, constant, graph.index, halved)


def no_product() -> ValueError:
    """Returns the error of a model without a matrix product that takes low-bit weights."""
    expected = "'float' or 'int8' for a model without a matrix product of recorded weights on a symmetric grid"
    fix = "Quantize a Dense, recurrent or pointwise kernel with symmetric=True and per-channel scales"
    return ValueError(invalid_part("activations", expected, "activations='dynamic'", fix))


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

    def plain(self) -> list[OperatorT]:
        """Returns the product alone."""
        self._multiply(self.rest, self.output, self.activation)
        return self.operators

    def with_sum(self, scale: np.ndarray) -> list[OperatorT]:
        """Returns the product plus `scale` times the sum of each row, which a row of ones computes."""
        weight, *bias = self.rest
        count, size = self.graph.shape(weight)
        ones = self.graph.add_tensor((1, size), TYPES[2], pack(np.ones((1, size), np.int8), 2))
        self.graph.tensor(ones).quantization = quantization(np.ones(1, np.float32))
        factor = self.graph.add_tensor((count,), FLOAT32, np.broadcast_to(scale, count).astype(np.float32))
        product, spread = (self.graph.add_tensor_like(self.output) for _ in range(2))
        total = self._resized(self.output, 1)
        self._multiply([weight, *bias], product, 0)
        self._multiply([ones], total, 0)
        self._append("MUL", 1, [total, factor], spread, "MulOptions")
        self._append("ADD", 1, [product, spread], self.output, "AddOptions", fusedActivationFunction=self.activation)
        return self.operators

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
