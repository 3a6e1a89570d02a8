"""Removal of parts of a file that no runtime reads: names, metadata, and unused or repeated buffers."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from r2keras._util import optional_packages
from r2keras.export.tflite.schema import buffer_of
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of, subgraphs

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT


if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT, TensorT

UNREAD_METADATA = (b"min_runtime_version", b"CONVERSION_METADATA")


def slim(file: ModelT, named: Container[tuple[int, int]]) -> None:
    """Drops names of intermediate tensors, empty fields, the converter's metadata, and unused or repeated buffers.

    Kept: signatures, names of inputs and outputs, operators, all values.

    Args:
        file: the schema's `ModelT`, edited in place.
        named: `(subgraph, tensor)` of the tensors that keep their names in addition to inputs and outputs.
    """
    file.description = None
    file.metadataBuffer = None
    file.metadata = [entry for entry in file.metadata or [] if entry.name not in UNREAD_METADATA] or None
    for graph in subgraphs(file):
        # Callers see the inputs and outputs of the first subgraph only.
        ends = {*graph.inputs, *graph.outputs} if graph.index == 0 else set()
        slices = {outputs_of(op)[0] for op in graph.operators if graph.kind(op) == "SLICE"}
        for i, tensor in enumerate(graph.schema.tensors):
            is_named = (graph.index, i) in named
            _slim_tensor(tensor, is_end=i in ends, is_named=is_named, is_fixed=graph.index > 0 or i in slices)
        for operator in graph.operators:
            _slim_operator(operator)
    _merge_buffers(file)


def all_tensors(file: ModelT) -> set[tuple[int, int]]:
    """Returns `(subgraph, tensor)` of every tensor of a file."""
    return {(index, i) for index, graph in enumerate(file.subgraphs) for i in range(len(graph.tensors))}


def _slim_tensor(tensor: TensorT, is_end: bool, is_named: bool, is_fixed: bool) -> None:
    """Empties the fields of a tensor that nothing reads."""
    if not (is_end or is_named):
        tensor.name = None
    if not (is_end or is_fixed):
        # Callers resize inputs only, and the operators determine the other shapes. The body of a loop needs them:
        # LiteRT checks its operators' shapes before it knows those that depend on the number of the step. So does
        # SLICE, which refuses a result of another size than the file says.
        tensor.shapeSignature = None
    if tensor.quantization is not None and tensor.quantization.scale is None:
        tensor.quantization = None


def _slim_operator(operator: OperatorT) -> None:
    """Drops empty lists of an operator."""
    for field in ("intermediates", "mutatingVariableInputs", "customOptions"):
        value = getattr(operator, field)
        if value is not None and len(value) == 0:
            setattr(operator, field, None)


def _merge_buffers(file: ModelT) -> None:
    """Merges buffers with equal content, and drops unused ones."""
    users = [tensor for graph in file.subgraphs for tensor in graph.tensors] + list(file.metadata or [])
    # Buffer 0 is empty by the schema's convention and means "no data".
    merged = [optional_packages.schema().BufferT()]
    index_by_content = {b"": 0}
    for user in users:
        content = buffer_of(file, user).tobytes()
        if content not in index_by_content:
            index_by_content[content] = len(merged)
            merged.append(file.buffers[user.buffer])
        user.buffer = index_by_content[content]
    file.buffers = merged


def prune(file: ModelT, subgraph: int = 0) -> dict[int, int]:
    """Drops unused tensors of a subgraph and unused operator codes of the file.

    Args:
        file: the schema's `ModelT`, edited in place.
        subgraph: index of the subgraph.

    Returns:
        The new index of each remaining tensor, by its old one.
    """
    graph = Subgraph(file, subgraph)
    signatures = [signature for signature in file.signatureDefs or [] if signature.subgraphIndex == subgraph]
    ends = [end for signature in signatures for end in (*(signature.inputs or []), *(signature.outputs or []))]
    used = {*graph.inputs, *graph.outputs, *(end.tensorIndex for end in ends)}
    for op in graph.operators:
        used.update(i for i in (*inputs_of(op), *outputs_of(op)) if i >= 0)
    used_tensors = sorted(used)
    new_indices = {old: new for new, old in enumerate(used_tensors)}
    graph.schema.tensors = [graph.tensor(i) for i in used_tensors]
    graph.schema.inputs = _renumbered(graph.inputs, new_indices)
    graph.schema.outputs = _renumbered(graph.outputs, new_indices)
    for op in graph.operators:
        op.inputs = _renumbered(inputs_of(op), new_indices)
        op.outputs = _renumbered(outputs_of(op), new_indices)
    # Other objects on the subgraph detect the change by the new list of operators.
    graph.operators = graph.operators
    for end in ends:
        end.tensorIndex = new_indices[end.tensorIndex]
    _prune_codes(file)
    return new_indices


def _renumbered(tensors: Iterable[int], new_indices: Mapping[int, int]) -> np.ndarray:
    """Returns the new indices of tensors; -1, an omitted input, stays."""
    return np.asarray([new_indices[i] if i >= 0 else -1 for i in tensors], np.int32)


def _prune_codes(file: ModelT) -> None:
    """Drops operator codes that no operator has."""
    operators = [op for graph in file.subgraphs for op in graph.operators]
    used_codes = sorted({op.opcodeIndex for op in operators})
    file.operatorCodes = [file.operatorCodes[i] for i in used_codes]
    new_indices = {old: new for new, old in enumerate(used_codes)}
    for op in operators:
        op.opcodeIndex = new_indices[op.opcodeIndex]
