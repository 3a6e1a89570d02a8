"""Puts the weights of integer operators into a file, and compares what is there with the record."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from r2keras.export import packages
from r2keras.export.assign import Place
from r2keras.export.check import broken
from r2keras.export.decode import stored_codes
from r2keras.export.flatbuffer import INT32, SEPARATOR, TYPES, add_tensor, buffer_of, values_of
from r2keras.export.grid import ActivationGrid
from r2keras.export.kernels import IntegerKernel, NotIntegerError, integer_kernel
from r2keras.export.pack import pack
from r2keras.export.rules import Rule
from r2keras.palettized import PalettizedTensor
from r2keras.record import CompressionRecord


@dataclasses.dataclass(eq=False)
class IntegerWeight:
    """One weight that an integer operator computes with.

    Args:
        tensors: indices in the first subgraph: its codes, and the bias or -1 where the operator had a place for one.
        place: the float constant that it was, and who owns it.
        kernel: codes, scales and bias.
        constant: the float constant's values.
    """

    tensors: list[int]
    place: Place
    kernel: IntegerKernel
    constant: np.ndarray


def add_weight(
    file: Any,
    inputs: list[int],
    place: Place,
    record: CompressionRecord,
    rule: Rule,
    grids: tuple[ActivationGrid, ActivationGrid],
) -> IntegerWeight:
    """Adds the codes and the bias of an operator to the first subgraph.

    Args:
        file: the schema's `ModelT`.
        inputs: the float operator's tensors of weight and bias.
        place: who owns the weight.
        record: its codes and scales.
        rule: of the operator.
        grids: of its input and output.

    Raises:
        NotIntegerError: there is no integer form of the weight.
    """
    graph = file.subgraphs[0]
    owner, match = record.tensors[place.owner], place.matches[place.owner]
    if isinstance(owner, PalettizedTensor):
        raise NotIntegerError("its weight is a palette")
    bias = _bias(file, graph, inputs)
    kernel = integer_kernel(owner, match, rule.kernel_axis, bias, grids, rule.shares_scale)
    data = pack(kernel.codes, kernel.bits)
    tensors = [add_tensor(file, graph, kernel.codes.shape, TYPES[kernel.bits], data, SEPARATOR.join(place.matches))]
    _set_scales(graph.tensors[tensors[0]], kernel.scale, kernel.axis)
    if kernel.bias is not None:
        tensors.append(add_tensor(file, graph, kernel.bias.shape, INT32, kernel.bias))
        _set_scales(graph.tensors[tensors[1]], np.float32(grids[0].scale) * kernel.scale, 0)
    elif len(inputs) > 1:
        tensors.append(-1)
    return IntegerWeight(tensors, place, kernel, values_of(file, graph.tensors[inputs[0]]).copy())


def check_weights(file: Any, weights: list[IntegerWeight], record: CompressionRecord) -> None:
    """Reads the codes of integer operators back from a file and compares them with the record.

    Raises:
        RuntimeError: a code or a value differs.
    """
    for item in weights:
        owner = record.tensors[item.place.owner]
        stored = stored_codes(file, file.subgraphs[0].tensors[item.tensors[0]])
        why = item.kernel.differs(stored, owner, item.place.matches[item.place.owner], item.constant)
        if why:
            raise broken(owner.name, why)


def _bias(file: Any, graph: Any, inputs: list[int]) -> np.ndarray | None:
    """Returns the values of a bias."""
    if len(inputs) < 2 or inputs[1] < 0:
        return None
    tensor = graph.tensors[inputs[1]]
    if not buffer_of(file, tensor).size:
        raise NotIntegerError("its bias is no constant")
    return values_of(file, tensor).ravel()


def _set_scales(tensor: Any, scale: np.ndarray, axis: int) -> None:
    """Gives a tensor scales along an axis, its zero points 0."""
    made = packages.schema().QuantizationParametersT()
    made.scale = np.ascontiguousarray(scale, np.float32)
    made.zeroPoint = np.zeros(scale.size, np.int64)
    made.quantizedDimension = axis
    tensor.quantization = made
