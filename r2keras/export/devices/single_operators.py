"""Parts of a file that run as files of their own: one operator each, with what computes its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.tflite.cleanup import prune
from r2keras.export.tflite.operator_rules import CALLS
from r2keras.export.tflite.schema import FLOAT32, RESOURCE, SEPARATOR, WIDTHS, name_of
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of
from r2keras.export.tflite.writer import write

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT

# Operators whose constants of two axes are sizes, or values of the operator before.
MOVES = {"CAST", "DEQUANTIZE", "PAD", "PADV2", "RESHAPE", "STRIDED_SLICE", "TRANSPOSE"}


@dataclasses.dataclass(frozen=True)
class Part:
    """One operator of a file's first subgraph that depends on the file's inputs.

    Args:
        kind: its name in the schema.
        positions: positions of the operators of the part; the operator itself is the last.
        inputs: the tensors that other parts compute, and inputs of the file; not the states inside of a fused LSTM.
        weight: the name of the largest constant of two axes or more; "" without one.
        form: `"packed"`, `"decoded"`, `"decoded once"`, `"float"`, two of them in a loop, or "" without weights.
        num_bytes: bytes of all constants.
        has_state: whether it reads or writes a state between calls.
    """

    kind: str
    positions: tuple[int, ...]
    inputs: tuple[int, ...]
    weight: str
    form: str
    num_bytes: int
    has_state: bool

    @property
    def position(self) -> int:
        """Position of the operator in the part's own file."""
        return len(self.positions) - 1


def parts_of(file: ModelT) -> list[Part]:
    """Returns the parts of a file, in the order in which they run.

    Args:
        file: the parsed file.
    """
    graph = Subgraph(file)
    fixed = _fixed(graph)
    positions = {id(op): position for position, op in enumerate(graph.operators)}
    parts = []
    for op in graph.operators:
        if all(index in fixed for index in outputs_of(op)) and outputs_of(op):
            continue
        own = [*_decoders(graph, op, fixed), op]
        parts.append(_part(graph, own, tuple(sorted(positions[id(item)] for item in own)), fixed))
    return parts


def content_of(part: Part, file: ModelT) -> bytes:
    """Returns a part as a file.

    Args:
        part: the part.
        file: the parsed file, which is edited.
    """
    graph = Subgraph(file)
    operators = [graph.operators[position] for position in part.positions]
    graph.operators = operators
    graph.schema.inputs = np.asarray(part.inputs, np.int32)
    graph.schema.outputs = np.asarray(outputs_of(operators[-1]), np.int32)
    file.signatureDefs = None
    for index in part.inputs:
        graph.tensor(index).buffer = 0
    _keep_subgraphs(file, graph)
    prune(file)
    return write(file)


def _fixed(graph: Subgraph) -> set[int]:
    """Returns the tensors that are the same in every run: constants, and what is computed from these only."""
    fixed = {index for index in range(len(graph.schema.tensors)) if graph.is_constant(index)} | {-1}
    fixed -= set(graph.inputs)
    for op in graph.operators:
        results = [graph.tensor(index) for index in outputs_of(op)]
        if set(inputs_of(op)) <= fixed and all(tensor.type != RESOURCE for tensor in results) and inputs_of(op):
            fixed |= set(outputs_of(op))
    return fixed


def _decoders(graph: Subgraph, op: OperatorT, fixed: set[int]) -> list[OperatorT]:
    """Returns the operators that compute the fixed inputs of an operator, each once."""
    found: dict[int, OperatorT] = {}
    waiting = [index for index in inputs_of(op) if index in fixed]
    while waiting:
        producer = graph.producer(waiting.pop())
        if producer is not None and id(producer) not in found:
            found[id(producer)] = producer
            waiting += inputs_of(producer)
    return list(found.values())


def _part(graph: Subgraph, operators: list[OperatorT], positions: tuple[int, ...], fixed: set[int]) -> Part:
    """Returns the part of an operator, which is the last of its operators."""
    op = operators[-1]
    free = [index for index in inputs_of(op) if index not in fixed and not graph.tensor(index).isVariable]
    constants = [(graph, index) for index in _constants(graph, operators)]
    forms = {_form(graph, op, operators)}
    for body in _bodies(graph, op):
        constants += [(body, index) for index in _constants(body, body.operators)]
        own = _fixed(body)
        forms |= {_form(body, item, [*_decoders(body, item, own), item]) for item in body.operators}
    weights = [(inner, index) for inner, index in constants if len(inner.shape(index)) > 1]
    largest = max(weights, key=lambda item: item[0].data(item[1]).size, default=None)
    name = "" if largest is None else name_of(largest[0].tensor(largest[1]))
    touched = [*inputs_of(op), *outputs_of(op)]
    return Part(
        graph.kind(op),
        positions,
        tuple(dict.fromkeys(free)),
        ", ".join(name.split(SEPARATOR)),
        " and ".join(sorted(forms - {""})),
        sum(inner.data(index).size for inner, index in constants),
        any(index >= 0 and graph.tensor(index).type == RESOURCE for index in touched) or not outputs_of(op),
    )


def _constants(graph: Subgraph, operators: Iterable[OperatorT]) -> list[int]:
    """Returns the constants that operators read, each once."""
    read = dict.fromkeys(index for op in operators for index in inputs_of(op))
    return [index for index in read if graph.is_constant(index)]


def _form(graph: Subgraph, op: OperatorT, operators: list[OperatorT]) -> str:
    """Returns how an operator reads its largest matrix of constants; "" without one."""
    direct = [index for index in _constants(graph, [op]) if len(graph.shape(index)) > 1]
    computed = [index for item in operators[:-1] for index in outputs_of(item) if index in inputs_of(op)]
    if any(len(graph.shape(index)) > 1 for index in computed):
        return "decoded"
    if graph.kind(op) in MOVES:
        return ""
    if any(len(graph.shape(index)) > 1 for index in inputs_of(op)[1:2] if _is_variable(graph, index)):
        return "decoded once"
    kinds = {graph.tensor(index).type for index in direct}
    if kinds & set(WIDTHS):
        return "packed"
    return "float" if FLOAT32 in kinds else ""


def _is_variable(graph: Subgraph, tensor: int) -> bool:
    """Whether a tensor is read from a variable, which holds decoded weights between calls."""
    producer = graph.producer(tensor)
    return producer is not None and graph.kind(producer) == "READ_VARIABLE"


def _bodies(graph: Subgraph, op: OperatorT) -> list[Subgraph]:
    """Returns the subgraphs that an operator runs, and those that these run."""
    found: dict[int, Subgraph] = {}
    waiting = [op]
    while waiting:
        caller = waiting.pop()
        for field in CALLS.get(graph.kind(caller), ()):
            index = int(getattr(caller.builtinOptions, field))
            if index not in found:
                found[index] = Subgraph(graph.file, index)
                waiting += found[index].operators
    return list(found.values())


def _keep_subgraphs(file: ModelT, graph: Subgraph) -> None:
    """Empties the subgraphs that no operator of a part runs; their indices stay."""
    used = {inner.index for op in graph.operators for inner in _bodies(graph, op)} | {0}
    for inner in (Subgraph(file, index) for index in range(len(file.subgraphs)) if index not in used):
        inner.operators = []
        inner.schema.inputs = inner.schema.outputs = np.zeros(0, np.int32)
        inner.schema.tensors = []
