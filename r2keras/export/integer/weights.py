"""Weights of integer operators: added to a file, then read back and compared with the record."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.integer.kernel import IntegerKernel, NotIntegerError, integer_kernel
from r2keras.export.tflite.activation_grid import ActivationGrid
from r2keras.export.tflite.bit_packing import pack
from r2keras.export.tflite.integer_operators import Rule
from r2keras.export.tflite.schema import INT32, SEPARATOR, TYPES, quantization, values_of
from r2keras.export.tflite.subgraph import Subgraph
from r2keras.export.weights.assignment import Assignment
from r2keras.export.weights.decode_operator import codes_of
from r2keras.export.weights.mismatch import broken
from r2keras.record import CompressionRecord, QuantizedTensor

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT


@dataclasses.dataclass(eq=False)
class IntegerWeight:
    """One weight of an integer operator.

    Args:
        tensors: indices in the subgraph: the codes, then, if the operator has a bias input, the bias or -1.
        assignment: the float constant and the weights that it holds.
        kernel: codes, scales and bias.
        constant: values of the float constant.
        subgraph: index of the subgraph.
        halved: whether the file holds `c` for the codes `2 c + 1` of the kernel.
        coded: constants of Huffman codes, from which `tensors[0]` is decoded; empty if it is a constant itself.
    """

    tensors: list[int]
    assignment: Assignment
    kernel: IntegerKernel
    constant: np.ndarray
    subgraph: int = 0
    halved: bool = False
    coded: list[int] = dataclasses.field(default_factory=list)

    @property
    def named(self) -> list[int]:
        """The constant that has the weight's name."""
        return (self.coded or self.tensors)[:1]


def add_weight(
    graph: Subgraph,
    inputs: list[int],
    assignment: Assignment,
    record: CompressionRecord,
    rule: Rule,
    grids: tuple[ActivationGrid, ActivationGrid],
) -> IntegerWeight:
    """Adds the codes and the bias of an integer operator to a subgraph.

    Args:
        graph: the first subgraph.
        inputs: the weight and bias tensors of the float operator.
        assignment: the float constant and the weights that it holds.
        record: codes and scales.
        rule: the integer form of the operator.
        grids: grids of the operator's input and output.

    Raises:
        NotIntegerError: the weight has no integer form.
    """
    owner, match = record.tensors[assignment.owner], assignment.matches[assignment.owner]
    if not isinstance(owner, QuantizedTensor):
        raise NotIntegerError("its weight is a palette")
    bias = _bias(graph, inputs)
    assert rule.kernel_axis is not None  # The operator has a weight.
    kernel = integer_kernel(owner, match, rule.kernel_axis, bias, grids, rule.shares_scale)
    if not rule.narrow:
        kernel = dataclasses.replace(kernel, bits=8)
    data = pack(kernel.codes, kernel.bits)
    tensors = [graph.add_tensor(kernel.codes.shape, TYPES[kernel.bits], data, SEPARATOR.join(assignment.matches))]
    graph.tensor(tensors[0]).quantization = quantization(kernel.scale, axis=kernel.axis)
    if kernel.bias is not None:
        tensors.append(graph.add_tensor(kernel.bias.shape, INT32, kernel.bias))
        graph.tensor(tensors[1]).quantization = quantization(np.float32(grids[0].scale) * kernel.scale)
    elif len(inputs) > 1:
        tensors.append(-1)
    return IntegerWeight(tensors, assignment, kernel, values_of(graph.file, graph.tensor(inputs[0])).copy())


def check_weights(file: ModelT, weights: list[IntegerWeight], record: CompressionRecord) -> None:
    """Reads the codes of integer operators back from a file and compares them with the record.

    Raises:
        RuntimeError: a code or a value differs.
    """
    for item in weights:
        owner = record.tensors[item.assignment.owner]
        assert isinstance(owner, QuantizedTensor)  # `add_weight` rejects palettes.
        graph = Subgraph(file, item.subgraph)
        stored = codes_of(graph, item.tensors[0])
        if item.coded:
            _check_grid(graph, item, owner.name)
        shape = item.kernel.codes.shape
        if stored.shape != shape:
            # A convolution may be stored as a matrix, whose rows may end with zeros.
            stored = stored[:, : item.kernel.codes[0].size].reshape(shape)
        stored = 2 * stored + 1 if item.halved else stored
        difference = item.kernel.differs(stored, owner, item.assignment.matches[item.assignment.owner], item.constant)
        if difference:
            raise broken(owner.name, difference)


def _check_grid(graph: Subgraph, item: IntegerWeight, name: str) -> None:
    """Raises RuntimeError unless decoded codes have the scales of the kernel."""
    grid, kernel = graph.tensor(item.tensors[0]).quantization, item.kernel
    if not np.array_equal(grid.scale, kernel.scale) or grid.quantizedDimension != kernel.axis:
        raise broken(name, "the scales differ")


def _bias(graph: Subgraph, inputs: list[int]) -> np.ndarray | None:
    """Returns the values of an operator's bias; None without one."""
    if len(inputs) < 2 or inputs[1] < 0:
        return None
    if not graph.is_constant(inputs[1]):
        raise NotIntegerError("its bias is not a constant")
    return values_of(graph.file, graph.tensor(inputs[1])).ravel()
