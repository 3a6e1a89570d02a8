"""Puts stored codes and their arithmetic in the place of a float constant."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from r2keras.export import packages
from r2keras.export.containers import Stored
from r2keras.export.flatbuffer import FLOAT32, INT32, TYPES, add_tensor, operator, shape_of
from r2keras.export.pack import pack

DEQUANTIZE_VERSIONS = {8: 5, 4: 6, 2: 6}


class Step(NamedTuple):
    """One operator of a chain.

    Args:
        kind: the operator's name.
        shape: shape of its result.
        second: index of its second input, or None.
        version: the operator's version.
        options: fields of the operator's options.
    """

    kind: str
    shape: tuple[int, ...]
    second: int | None = None
    version: int = 1
    options: Mapping[str, Any] = MappingProxyType({})


def rewrite(model: Any, subgraph: int, tensor: int, stored: Stored, name: str) -> list[int]:
    """Makes a float constant the result of DEQUANTIZE on codes, with what else the grid takes.

    The tensor keeps its index, so that every consumer stays as it is; it only is no constant any more.

    Args:
        model: the schema's `ModelT`, edited in place.
        subgraph: index of the subgraph.
        tensor: index of the float32 constant in it.
        stored: codes, scales and arithmetic.
        name: name of the codes (and of the constants beside them) in the file.

    Returns:
        The indices of the tensors that carry the name: the codes first.
    """
    graph = model.subgraphs[subgraph]
    target = graph.tensors[tensor]
    shape = shape_of(target)
    codes = add_tensor(model, graph, stored.codes.shape, TYPES[stored.bits], pack(stored.codes, stored.bits), name)
    graph.tensors[codes].quantization = _quantization(stored)
    steps = [Step("DEQUANTIZE", stored.codes.shape, version=DEQUANTIZE_VERSIONS[stored.bits])]
    constants = []
    for kind, values in (("ADD", stored.add), ("MUL", stored.multiply)):
        if values is not None:
            constants.append(add_tensor(model, graph, values.shape, FLOAT32, values, name))
            steps.append(Step(kind, stored.codes.shape, constants[-1]))
    steps += _relayout(model, graph, stored, shape)
    target.buffer = 0
    _insert(graph, tensor, _chain(model, graph, steps, codes, tensor))
    return [codes, *constants]


def _quantization(stored: Stored) -> Any:
    """Returns the schema's quantization parameters."""
    made = packages.schema().QuantizationParametersT()
    made.scale = np.ascontiguousarray(stored.scale, np.float32)
    made.zeroPoint = np.ascontiguousarray(stored.zero_point, np.int64)
    made.quantizedDimension = stored.axis
    return made


def _relayout(model: Any, graph: Any, stored: Stored, shape: tuple[int, ...]) -> list[Step]:
    """Returns the steps from the layout of the codes to the constant's shape."""
    moved = tuple(shape[axis] for axis in stored.layout.order)
    steps = []
    if moved != stored.codes.shape:
        steps.append(Step("RESHAPE", moved, options={"newShape": np.asarray(moved, np.int32)}))
    if stored.layout.order != tuple(range(len(shape))):
        back = np.argsort(stored.layout.order).astype(np.int32)
        steps.append(Step("TRANSPOSE", shape, add_tensor(model, graph, back.shape, INT32, back)))
    return steps


def _chain(model: Any, graph: Any, steps: list[Step], source: int, target: int) -> list[Any]:
    """Returns the operators of the steps, each on the result of the one before."""
    operators = []
    for step in steps:
        result = target if step is steps[-1] else add_tensor(model, graph, step.shape, FLOAT32)
        inputs = [source] if step.second is None else [source, step.second]
        operators.append(operator(model, step.kind, step.version, inputs, [result], **step.options))
        source = result
    return operators


def _insert(graph: Any, tensor: int, operators: list[Any]) -> None:
    """Puts operators in front of the first consumer of a tensor, where its memory is needed the shortest."""
    consumers = [i for i, op in enumerate(graph.operators) if op.inputs is not None and tensor in op.inputs]
    place = consumers[0] if consumers else len(graph.operators)
    graph.operators[place:place] = operators
